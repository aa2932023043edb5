"""Runs, datasets, texts and tokenizers that were moved, copied, renamed or deleted: found, or asked for once by name.

Row I3 of the fault matrix.
"""

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.config.data import BPE
from fabella.data.prepare.pipeline import prepare
from fabella.errors import TrainingInterrupted
from fabella.run_config.run import RunConfig
from fabella.runs.resume_rules import compare_for_resume
from fabella.runs.run_dir import RunDir
from fabella.tokenizers import loading
from fabella.training.loop import Progress
from fabella.training.run import start_run
from fabella.training.setup.request import prepare_data
from tests.training import tiny

STORY = "Once upon a time there was a fox. The fox was glad.\n\n"
SMALL = [
    "model.dim=8", "model.layers=1", "model.ffn_dim=8", "model.dropout=0.0", "training.micro_batch_size=2",
    "training.gradient_accumulation=[[0, 1]]", "samples.every_steps=100", "validation.every_steps=100",
]  # fmt: skip


def stop_at_two(progress: Progress, result: Any) -> None:
    if progress.step == 2:
        os.kill(os.getpid(), signal.SIGINT)


def stopped_run(home: Path, *overrides: str) -> RunConfig:
    """Write the run ``runs/a`` of 4 steps, stopped at step 2, with its dataset in ``data/``; return its config."""
    config = tiny.run(*SMALL, *overrides, steps=4)
    dataset = prepare_data(config, home / "data", workers=1)
    with pytest.raises(TrainingInterrupted):
        start_run(config, home / "runs" / "a", dataset, device="cpu", callbacks=[stop_at_two])
    return config


def dataset_of(home: Path) -> Path:
    (folder,) = (home / "data").iterdir()
    return folder


def resume(run: str, *words: str) -> int:
    return fabella(["resume", run, "--device", "cpu", *words])


def evaluate(run: str, *words: str) -> int:
    return fabella(["evaluate", run, "--device", "cpu", "--num-samples", "0", "--num-cloze", "0", *words])


def the_run_is_copied_to_another_depth(home: Path, errors: Callable[[], str]) -> None:
    stopped_run(home)
    (home / "data").rename(home / "prepared")
    shutil.copytree(home / "runs" / "a", home / "far" / "away" / "on" / "disk" / "a")
    shutil.rmtree(home / "runs")
    assert resume("far/away/on/disk/a") == 0
    (home / "prepared").rename(home / "elsewhere")
    assert resume("far/away/on/disk/a") == 3
    assert "--data" in errors()


def the_run_is_renamed(home: Path, errors: Callable[[], str]) -> None:
    stopped_run(home)
    (home / "runs" / "a").rename(home / "runs" / "another name")
    assert evaluate("runs/another name") == 0
    assert resume("runs/another name") == 0


def the_dataset_is_renamed(home: Path, errors: Callable[[], str]) -> None:
    stopped_run(home)
    dataset_of(home).rename(home / "data" / "renamed")
    assert resume("runs/a") == 3
    assert "--data" in errors()
    assert resume("runs/a", "--data", "data/renamed", "--steps", "3") == 0
    assert resume("runs/a", "--steps", "4") == 0
    assert evaluate("runs/a") == 0


def the_dataset_is_moved_and_evaluated_first(home: Path, errors: Callable[[], str]) -> None:
    stopped_run(home)
    (home / "data").rename(home / "moved")
    assert evaluate("runs/a") == 3
    assert "--data" in errors()
    (folder,) = (home / "moved").iterdir()
    shutil.copytree(folder / "tokenizer", home / "moved" / "another" / "tokenizer")
    assert evaluate("runs/a", "--data", "moved/another") == 3
    assert "moved/another is a directory without manifest.json, not a prepared dataset" in errors()
    assert evaluate("runs/a", "--data", "moved") == 0, "of a directory with datasets, that of the run"
    assert evaluate("runs/a") == 0
    assert resume("runs/a") == 0


def the_dataset_is_deleted(home: Path, errors: Callable[[], str]) -> None:
    """The command that the error names prepares it again."""
    stopped_run(home)
    shutil.rmtree(home / "data")
    assert resume("runs/a") == 3
    (command,) = re.findall(r"fabella (train .* --resume)", errors())
    assert fabella([*shlex.split(command), "--device", "cpu"]) == 0
    assert resume("runs/a") == 0


def the_text_of_a_stream_is_moved_and_renamed(home: Path, errors: Callable[[], str]) -> None:
    (home / "story.txt").write_text(STORY * 40)
    (home / "other.txt").write_text(STORY * 39)
    stopped_run(home, "data.source={kind: files, paths: [story.txt]}", "data.mode.kind=streaming")
    (home / "texts").mkdir()
    (home / "story.txt").rename(home / "texts" / "tale.txt")
    assert resume("runs/a") == 3
    assert "'data.source.paths=[NEW-PATH]'" in errors()
    assert resume("runs/a", "data.source.paths=[other.txt]") == 2
    assert resume("runs/a", "data.source.paths=[texts/tale.txt]", "--steps", "3") == 0
    assert resume("runs/a", "--steps", "4") == 0


def mixture_of(home: Path, *names: str) -> str:
    for number, name in enumerate(names):
        (home / name).write_text(STORY.replace("fox", f"fox {number}") * 40)
    parts = [{"weight": 1, "source": {"kind": "files", "paths": [name]}} for name in names]
    return f"data.source={json.dumps({'kind': 'mixture', 'parts': parts})}"


def a_part_of_a_streamed_mixture_is_moved(home: Path, errors: Callable[[], str]) -> None:
    source = mixture_of(home, "story.txt", "tale.txt")
    stopped_run(home, source, "data.mode.kind=streaming")
    (home / "tale.txt").rename(home / "renamed.txt")
    assert resume("runs/a") == 3
    (setting,) = re.findall(r"'([a-z0-9.]+)=\[NEW-PATH\]'", errors())
    assert setting == "data.source.parts.1.source.paths"
    assert resume("runs/a", f"{setting}=[story.txt]") == 2
    assert resume("runs/a", f"{setting}=[renamed.txt]", "--steps", "3") == 0
    assert resume("runs/a", "--steps", "4") == 0


def a_part_of_a_mixture_on_disk_is_moved(home: Path, errors: Callable[[], str]) -> None:
    source = mixture_of(home, "story.txt", "tale.txt")
    config = stopped_run(home, source)
    (home / "tale.txt").rename(home / "renamed.txt")
    assert resume("runs/a", "data.source.parts.1.source.paths=[story.txt]") == 2
    assert "data.source.parts.1.source.paths=" in errors()
    assert RunDir.open(home / "runs" / "a").run == config
    assert resume("runs/a", "data.source.parts.1.source.paths=[renamed.txt]") == 0
    (change,) = compare_for_resume(config, RunDir.open(home / "runs" / "a").run)
    assert (change.key, change.requested) == ("data.source.parts.1.source.paths", ["renamed.txt"])


def the_text_of_a_dataset_is_renamed(home: Path, errors: Callable[[], str]) -> None:
    (home / "story.txt").write_text(STORY * 40)
    (home / "other.txt").write_text(STORY * 39)
    config = stopped_run(home, "data.source={kind: files, paths: [story.txt]}")
    (home / "story.txt").rename(home / "tale.txt")
    assert resume("runs/a", "data.source.paths=[other.txt]") == 2
    (command,) = re.findall(r"fabella (train .*)", errors())
    assert RunDir.open(home / "runs" / "a").run == config
    assert fabella([*shlex.split(command), "--device", "cpu", "--steps", "1"]) == 0
    assert resume("runs/a", "data.source.paths=[tale.txt]") == 0
    (change,) = compare_for_resume(config, RunDir.open(home / "runs" / "a").run)
    assert (change.key, change.requested) == ("data.source.paths", ["tale.txt"])


def the_tokenizer_is_moved(home: Path, errors: Callable[[], str]) -> None:
    for name, text in (("first", STORY), ("second", STORY.replace("fox", "wolf and owl"))):
        loading.train(BPE(vocab_size=270), [text] * 9).save(home / name)
    tokenizer = "tokenizer={kind: pretrained, source: first/tokenizer.json}"
    stopped_run(home, tokenizer, "model.vocab_size=270")
    (home / "first").rename(home / "renamed")
    assert resume("runs/a", "tokenizer.source=second/tokenizer.json") == 2
    assert "is not the tokenizer of runs/a" in errors()
    assert resume("runs/a", "tokenizer.source=renamed/tokenizer.json") == 0
    again = RunDir.open(home / "runs" / "a").run
    assert prepare(again.data, again.tokenizer, home / "again", workers=1).fingerprint


MOVES = [
    the_run_is_copied_to_another_depth,
    the_run_is_renamed,
    the_dataset_is_renamed,
    the_dataset_is_moved_and_evaluated_first,
    the_dataset_is_deleted,
    the_text_of_a_stream_is_moved_and_renamed,
    a_part_of_a_streamed_mixture_is_moved,
    a_part_of_a_mixture_on_disk_is_moved,
    the_text_of_a_dataset_is_renamed,
    the_tokenizer_is_moved,
]


@pytest.mark.fault("I3", cases=len(MOVES))
@pytest.mark.parametrize("move", MOVES)
def test_what_was_moved_is_found_or_asked_for_once(
    move: Callable[[Path, Callable[[], str]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    move(tmp_path, lambda: capsys.readouterr().err)
