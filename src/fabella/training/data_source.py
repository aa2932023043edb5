"""Data of a run: batches from the position of its training progress, and the texts of ``validation.also``."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fabella.config.data import DataConfig
from fabella.data.dataset import TokenizedDataset, open_dataset
from fabella.data.modes.mode import Batches, data_mode
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.run_config.run import RunConfig
from fabella.runs.run_dataset import ValidationText, find_validation_texts, open_validation_texts
from fabella.runs.run_dir import RunDir
from fabella.tracking.console import print_status
from fabella.training.loop import Progress
from fabella.training.schedule import batch_sizes

ValidationTexts = Mapping[str, ValidationText]
"""Path in ``validation.also`` → text."""


def batches_from(run: RunConfig, dataset: TokenizedDataset, progress: Progress) -> Batches:
    """Return the batches of a run after those counted in ``progress``. Raise DataError if the text has changed."""
    sizes = batch_sizes(run.training, progress.step)
    mode = data_mode(run.data.mode.kind)
    return mode.batches(run.data, dataset, run.seed, sizes, sequences=progress.sequences, stream=progress.stream)


def texts_of_new_run(run: RunConfig, dataset: TokenizedDataset, group: ProcessGroup) -> ValidationTexts:
    """Return the texts of ``validation.also`` on all ranks. Raise the errors of ``open_validation_texts``."""
    return _share(open_validation_texts(run, dataset) if group.rank_info.is_main else {}, run, group)


def texts_of_resumed_run(
    run_dir: RunDir, run: RunConfig, dataset: TokenizedDataset, group: ProcessGroup
) -> ValidationTexts:
    """Return the same for a run that is resumed with the config ``run``; texts that are gone are reported."""
    is_main = group.rank_info.is_main
    return _share(find_validation_texts(run_dir, run, dataset, print_status) if is_main else {}, run, group)


def _share(texts: ValidationTexts, run: RunConfig, group: ProcessGroup) -> ValidationTexts:
    """Return the texts of rank 0 on all ranks, each with a unique name."""
    if not run.validation.also:
        return {}
    if group.rank_info.is_main:
        names = Counter(text.name for text in texts.values())
        texts = {path: replace(text, name=path if names[text.name] > 1 else text.name) for path, text in texts.items()}
        group.broadcast(json.dumps({path: _to_json(text) for path, text in texts.items()}))
        return texts
    received = json.loads(group.broadcast(""))
    return {
        path: ValidationText(
            entry["name"],
            open_dataset(Path(entry["folder"])),
            DataConfig.model_validate({"sequences": entry["sequences"]}).sequences,
        )
        for path, entry in received.items()
    }


def _to_json(text: ValidationText) -> dict[str, object]:
    folder = str(text.dataset.path.absolute())
    return {"name": text.name, "folder": folder, "sequences": text.sequences.model_dump(mode="json")}
