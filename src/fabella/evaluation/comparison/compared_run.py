"""The runs of a comparison: what is scored of each, and its losses on every document."""

import hashlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.config.scoring import ScoringRule
from fabella.data.dataset import Split, TokenizedDataset
from fabella.errors import UsageError
from fabella.evaluation.scoring import batches
from fabella.evaluation.scoring.rules import trained_context
from fabella.evaluation.scoring.scores import DocumentLosses, accumulate
from fabella.generation.chat import ConversationWriter
from fabella.generation.generator import load
from fabella.interop.import_model import import_model
from fabella.runs.checkpoint import latest_valid_step
from fabella.runs.run_dataset import open_run_dataset
from fabella.runs.run_dir import CONFIG, RunDir
from fabella.storage.messages import escaped_path
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.training.setup.quickstart import is_finished

Texts = Callable[[ConversationWriter], Iterable[str]]
"""Documents to score, with conversations in the chat template of a model."""


class ComparedRun:
    """A finished run, or a model of another tool that was imported for the comparison."""

    def __init__(self, path: Path, run_dir: RunDir) -> None:
        """``path``: as the user gave it."""
        self.path, self.run_dir, self.run = path, run_dir, run_dir.run
        self.imported = "imported_from" in run_dir.manifest

    @cached_property
    def dataset(self) -> TokenizedDataset | None:
        """The dataset of the run; None for an imported model."""
        return None if self.imported else open_run_dataset(self.run_dir)

    @property
    def context(self) -> int:
        """Longest context that the training used."""
        return trained_context(self.run.model, self.run.data.sequences)

    def require_finished(self) -> None:
        """Raise UsageError unless the last step of the run has a checkpoint."""
        step = latest_valid_step(self.run_dir)
        if self.imported or is_finished(self.run, step):
            return
        shown = escaped_path(self.path)
        raise UsageError(
            f"{shown} is not finished: it has step {step or 0:,}. Runs are ordered differently before their end.",
            hint=f"Finish it: fabella resume {quote(shown)}. Or compare the checkpoints that there are: "
            "--checkpoint latest.",
        )


@dataclass(frozen=True, slots=True)
class RunLosses:
    """Losses of a run on every document, in nats."""

    step: int
    losses: DocumentLosses
    warnings: tuple[str, ...]


def open_run(path: Path, temporary: Path, report: Callable[[str], None]) -> ComparedRun:
    """Open a run, or import a model of another tool into ``temporary``, a directory that does not exist."""
    if (path / CONFIG).is_file() or not path.exists():
        return ComparedRun(path, RunDir.open(path))
    import_model(path, out=temporary, report=report)
    return ComparedRun(path, RunDir.open(temporary))


def validation_hash(dataset: TokenizedDataset) -> str:
    """Return sha256 (hex) of the held-out documents as text, which does not depend on the tokenizer."""
    digest = hashlib.sha256()
    for text in held_out_texts(dataset.validation, dataset.tokenizer):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


def held_out_texts(split: Split, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the documents of a split as text."""
    skipped = 0 if tokenizer.bos_id is None else 1
    for start, stop in zip(split.offsets[:-1].tolist(), split.offsets[1:].tolist(), strict=True):
        yield tokenizer.decode(split.read(start + skipped, stop - 1).tolist())


def score_run(
    run: ComparedRun, rule: ScoringRule, texts: Texts | None, *, checkpoint: str, weights: str, device: str, engine: str
) -> RunLosses:
    """Score the run on ``texts``, or without them on its own held-out documents."""
    path = run.run_dir.path
    generator = load(path, checkpoint=checkpoint, weights=weights, device=device, engine=engine, compile_decoder=False)
    module: Any = importlib.import_module(f"fabella.evaluation.scoring.predictions_{generator.engine}")
    packed = rule.kind == "line"
    if texts is not None:
        documents = batches.of_texts(texts(generator.conversation_writer()), generator.tokenizer, packed=packed)
    else:
        assert run.dataset is not None
        documents = batches.held_out(run.dataset.validation, generator.tokenizer, packed=packed)
    sums = accumulate(
        partial(module.predictions, generator.model),
        documents,
        rule,
        vocab_size=generator.config.vocab_size,
        eos_id=generator.prefix_id,
    )
    return RunLosses(generator.step, sums.documents(), tuple(generator.warnings))
