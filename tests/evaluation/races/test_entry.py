"""Tests of ``fabella race``: the clock, the one score, the receipt, and entries that break a rule."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as command
from fabella.evaluation.evaluate import EvalConfig, evaluate
from fabella.runs.checkpoint import MODEL
from fabella.runs.metrics_log import read_rows
from fabella.runs.run_dir import step_name
from fabella.storage.atomic_file import sha256_of

RACE = """
description: A race of a test.
minutes: 0.05
device: cpu
threads: 2
rule: line-32
targets: {good: 3.0, goal: 2.0}
tuned_on: nothing
recipe:
  name: tiny
  model: {family: llama, vocab_size: 320, context_length: 32, dim: 32, layers: 1, heads: 2, kv_heads: 1, ffn_dim: 32}
  tokenizer: {kind: bpe, vocab_size: 320}
  data: {sequences: {kind: packed, length: 32, stride: 32}}
  optimizer:
    kind: adamw
    lr: 1e-2
    schedule: [{shape: linear, start: 1.0, end: 0.0, length: 100%}]
  training: {length: {max_steps: 10}, micro_batch_size: 2, compile: none}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two races, a training text and a held-out text."""
    folder = tmp_path_factory.mktemp("race")
    (folder / "tiny.yaml").write_text(RACE)
    (folder / "short.yaml").write_text(RACE.replace("minutes: 0.05", "minutes: 0.00001"))
    for name, numbers in (("train", range(80)), ("held-out", range(80, 110))):
        stories = [f"Story {number} is about a fox and {number % 7} birds." for number in numbers]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(stories))
    return folder


def enter(folder: Path, out: Path, *arguments: str, race: str = "tiny.yaml", texts: Sequence[str] = ()) -> int:
    given = texts or ["--data", str(folder / "train.txt"), "--validation", str(folder / "held-out.txt")]
    where = ["--out", str(out), "--prepared", str(out.parent / "prepared")]
    return command(["race", str(folder / race), *given, *where, *arguments])


def receipt_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "race.json").read_text())


@pytest.fixture(scope="module")
def entered(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run directory of an entry whose steps were measured."""
    out = tmp_path_factory.mktemp("entered") / "first"
    assert enter(folder, out) == 0
    return out


def test_the_length_is_planned_from_a_measured_step(entered: Path) -> None:
    receipt = receipt_of(entered)
    assert receipt["measured_step_seconds"] > 0
    assert receipt["in_time"] == (receipt["clock_seconds"] <= 3)
    assert list(receipt["clock"]) == ["prepare", "measure", "train"]
    assert sum(receipt["clock"].values()) == pytest.approx(receipt["clock_seconds"])
    assert receipt["config"]["training"]["length"] == {"max_steps": receipt["steps"]}
    assert receipt["epochs"] > 0


def test_the_receipt_names_score_model_text_and_machine(entered: Path, folder: Path) -> None:
    receipt = receipt_of(entered)
    assert (receipt["race"], receipt["recipe"], receipt["seed"], receipt["tuned_on"]) == ("tiny", "tiny", 1, "nothing")
    assert receipt["score"]["rule"] == "line-32"
    assert receipt["scored_weights"] == "trained"
    assert receipt["held_out_bytes"] > 900
    assert receipt["hardware"]["processor"]
    assert receipt["hardware"]["code"]
    assert receipt["texts"]["training"] != receipt["texts"]["held_out"]
    assert receipt["weights_sha256"] == sha256_of(entered / "checkpoints" / step_name(receipt["steps"]) / MODEL)
    assert receipt["changes"]["data.validation.source.paths"][1] == json.dumps([str(folder / "held-out.txt")])


def test_the_held_out_text_is_scored_once_after_the_last_step(entered: Path, folder: Path) -> None:
    rows = [row for row in read_rows(entered / "metrics.jsonl") if row["kind"] in ("validation", "final")]
    assert [(row["kind"], row["step"]) for row in rows] == [("final", receipt_of(entered)["steps"])]
    config = EvalConfig(checkpoint="latest", rule="line", num_samples=0, num_cloze=0)
    again = evaluate(entered, config).scores[0]
    assert again.bits_per_byte.value == pytest.approx(receipt_of(entered)["score"]["bits_per_byte"], rel=1e-5)


def test_the_same_steps_and_seed_give_the_same_weights(entered: Path, folder: Path, tmp_path: Path) -> None:
    steps = str(receipt_of(entered)["steps"])
    assert enter(folder, tmp_path / "again", "--steps", steps) == 0
    assert enter(folder, tmp_path / "other", "--steps", steps, "--seed", "2") == 0
    again, other = receipt_of(tmp_path / "again"), receipt_of(tmp_path / "other")
    assert again["weights_sha256"] == receipt_of(entered)["weights_sha256"] != other["weights_sha256"]
    assert again["measured_step_seconds"] == 0
    assert other["seed"] == 2


def test_an_entry_over_the_clock_says_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(folder, tmp_path / "late", race="short.yaml") == 0
    receipt = receipt_of(tmp_path / "late")
    assert not receipt["in_time"]
    assert receipt["steps"] == 1
    assert "no valid entry" in capsys.readouterr().out


def test_a_recipe_of_the_user_is_entered_with_its_changes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = RACE[RACE.index("recipe:\n") + len("recipe:\n") :].replace("name: tiny", "name: mine")
    (tmp_path / "mine.yaml").write_text(recipe)
    own = ["--recipe", str(tmp_path / "mine.yaml"), "--steps", "2", "--tuned-on", "dev.txt", "optimizer.lr=0.02"]
    assert enter(folder, tmp_path / "mine", *own) == 0
    receipt = receipt_of(tmp_path / "mine")
    assert (receipt["recipe"], receipt["tuned_on"]) == ("mine", "dev.txt")
    assert receipt["changes"]["optimizer.lr"] == ["0.01", "0.02"]
    shown = capsys.readouterr().out
    assert "optimizer.lr" in shown
    assert "data.source" not in shown


def test_the_average_of_the_weights_is_scored_if_the_recipe_has_one(folder: Path, tmp_path: Path) -> None:
    assert enter(folder, tmp_path / "averaged", "--steps", "20", "optimizer.average={kind: mean, start: 50%}") == 0
    receipt = receipt_of(tmp_path / "averaged")
    rows = read_rows(tmp_path / "averaged" / "metrics.jsonl")
    losses = {row["kind"]: row["bits_per_byte"] for row in rows if row["kind"].startswith("final")}
    assert receipt["scored_weights"] == "average"
    assert receipt["score"]["bits_per_byte"] == losses["final_average"] != losses["final"]
    assert receipt["config"]["optimizer"]["average"]["start"] == 10


def test_changed_settings_without_a_statement_are_not_called_untuned(folder: Path, tmp_path: Path) -> None:
    assert enter(folder, tmp_path / "changed", "--steps", "1", "optimizer.lr=0.02") == 0
    assert receipt_of(tmp_path / "changed")["tuned_on"] == "not stated"


REFUSED = [
    (["--device", "cuda"], "runs on a CPU"),
    (["data.sequences.kind=padded"], "scored by line-32"),
    (["data.sequences={kind: packed, length: 16, stride: 16}"], "scored by line-32"),
    (["training.length.max_steps=5"], "decided by the race"),
    (["validation.every_steps=5"], "decided by the race"),
    (["tokenizer={kind: pretrained, source: storyteller}"], "was trained before the race"),
    (["stories.txt"], "not a setting"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_an_entry_that_breaks_a_rule_leaves_nothing(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enter(folder, tmp_path / "refused", *arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_race_of_gpus_is_not_entered_on_a_cpu(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gpu.yaml").write_text(RACE.replace("device: cpu", "device: gpu"))
    assert enter(folder, tmp_path / "a", "--device", "cpu", race="gpu.yaml") == 2
    assert "runs on a GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_race_needs_a_held_out_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = str(folder / "train.txt")
    copied = tmp_path / "copy.txt"
    copied.write_bytes((folder / "train.txt").read_bytes())
    assert enter(folder, tmp_path / "a", texts=["--data", train]) == 2
    assert "needs a held-out text" in capsys.readouterr().err
    for same in (train, str(copied)):
        assert enter(folder, tmp_path / "a", texts=["--data", train, "--validation", same]) == 2
        assert "part of the training text" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [copied]


def test_a_text_that_is_prepared_already_is_refused(
    entered: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = next((entered.parent / "prepared" / entered.name).iterdir())
    texts = ["--data", str(dataset), "--validation", str(folder / "held-out.txt")]
    assert enter(folder, tmp_path / "a", texts=texts) == 2
    assert "on the clock" in capsys.readouterr().err
    (tmp_path / "prepared" / "a").mkdir(parents=True)
    assert enter(folder, tmp_path / "a") == 4
    assert "exists already" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_more_threads_than_allowed_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert enter(folder, tmp_path / "a") == 2
    assert "OMP_NUM_THREADS=2" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_more_cores_than_allowed_are_refused_with_jax(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabella.evaluation.races.entry.cores", lambda: 3)
    assert enter(folder, tmp_path / "entry", "engine=jax") == 2
    printed = capsys.readouterr().err
    assert "engine=jax uses 3" in printed
    assert "taskset -c 0,1" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [["optimizer.lr=1e-3"], ["--seed", "2"], ["--steps", "5"], ["--recipe", "llama"]])
def test_an_entry_without_texts_is_refused_instead_of_ignored(
    given: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["race", str(folder / "tiny.yaml"), *given]) == 2
    assert "--data TEXT --validation TEXT" in capsys.readouterr().err


def test_a_failed_entry_removes_its_prepared_text(folder: Path, tmp_path: Path) -> None:
    assert enter(folder, tmp_path / "a", "model.vocab_size=300", "--steps", "1") != 0
    assert not (tmp_path / "prepared" / "a").exists()
    assert not (tmp_path / "a").exists()
