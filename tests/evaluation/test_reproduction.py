"""Tests of ``fabella reproduce``: the receipt states what was changed, and the same command gives the same weights."""

import json
from pathlib import Path

import pytest

from fabella.cli.main import run as command
from fabella.errors import UsageError
from fabella.evaluation.reproduction import published_presets, require_published, shorter, steps_in
from fabella.run_config.files import preset
from fabella.runs.checkpoint import MODEL
from fabella.storage.atomic_file import sha256_of

NAME = "tinystories-8m"
TINY = (
    "model.dim=16", "model.heads=2", "model.layers=1", "model.ffn_dim=16", "model.vocab_size=257",
    "model.context_length=32", "data.sequences.length=32", "tokenizer={kind: bytes}", "training.micro_batch_size=4",
    "samples.prompts=[]", "data.validation={kind: holdout, fraction: 0.1}",
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    stories = [f"Story {number} is about a fox." for number in range(60)]
    path.write_text("\n<|endoftext|>\n".join(stories))
    return path


def reproduce(text: Path, folder: Path, out: str, *arguments: str) -> int:
    where = ["--data", str(text), "--prepared", str(folder / "prepared"), "--out", str(folder / out)]
    return command(["reproduce", NAME, *where, *arguments, *TINY])


@pytest.fixture(scope="module")
def receipt(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("receipt")
    assert reproduce(text, folder, "first", "--steps", "3") == 0
    return folder / "first" / "reproduction.json"


def test_the_receipt_has_the_score_the_compute_and_the_weights(receipt: Path) -> None:
    values = json.loads(receipt.read_text())
    assert values["published"] == preset(NAME).about.published
    assert (values["steps"], values["preset"]) == (3, NAME)
    assert values["score"]["rule"] == "cut-32"
    assert values["flops"] > 0
    assert values["hardware"]["processor"]
    assert values["weights_sha256"] == sha256_of(receipt.parent / "checkpoints" / "step-00000003" / MODEL)


def test_the_receipt_lists_exactly_the_settings_that_differ(receipt: Path) -> None:
    values = json.loads(receipt.read_text())
    changes = values["changes"]
    assert changes["model.layers"] == ["8", "1"]
    assert changes["training.length.epochs"] == ["3.0", "-"]
    assert changes["training.length.max_steps"] == ["-", "3"]
    assert "optimizer.lr" not in changes
    assert "model.tie_embeddings" not in changes


def test_the_same_command_gives_the_same_weights(receipt: Path, text: Path, tmp_path: Path) -> None:
    assert reproduce(text, tmp_path, "second", "--steps", "3") == 0
    assert reproduce(text, tmp_path, "other", "--steps", "3", "--seed", "9") == 0
    first, second, other = (
        json.loads(path.read_text())["weights_sha256"]
        for path in (receipt, tmp_path / "second" / receipt.name, tmp_path / "other" / receipt.name)
    )
    assert first == second != other


def test_the_table_shows_published_and_obtained(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(text, tmp_path, "shown", "--minutes", "0.001") == 0
    shown = capsys.readouterr().out
    assert preset(NAME).about.published in shown
    assert "obtained" in shown
    assert "data.source.paths" in shown
    assert "checkpoint.every_steps" not in shown


def test_the_steps_fit_into_the_time() -> None:
    few, many = (steps_in(minutes, NAME, TINY) for minutes in (0.01, 1.0))
    assert 1 <= few < many


@pytest.mark.parametrize("minutes", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_time_that_is_not_positive_is_refused(minutes: float) -> None:
    with pytest.raises(UsageError, match="minutes"):
        steps_in(minutes, NAME, TINY)


@pytest.mark.parametrize("name", ["storybook-1m", "nothing", "stories.txt"])
def test_what_has_no_published_result_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="published") as caught:
        require_published(name)
    assert NAME in caught.value.hint


def test_five_systems_have_a_published_result() -> None:
    systems = {name.partition("-")[0] for name in published_presets()}
    assert systems == {"gpt2", "mingru", "minigpt", "piny", "tinystories"}


def test_settings_of_the_user_come_last() -> None:
    assert shorter(("validation.every_steps=7",), 100)[-1] == "validation.every_steps=7"


def test_two_lengths_are_refused(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(text, tmp_path, "both", "--minutes", "1", "--steps", "3") == 2
    assert "Leave out one" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
