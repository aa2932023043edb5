"""Tests of the artifact of a race: one file within its size, and the score of that file alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as command
from fabella.evaluation.evaluate import EvalConfig, evaluate
from fabella.evaluation.races.artifact import BYTES_PER_WEIGHT
from fabella.evaluation.races.race import load_race
from fabella.interop.import_model import import_model
from fabella.models.parameters import count
from fabella.runs.metrics_log import read_rows
from fabella.storage.atomic_file import sha256_of
from fabella.text.source import parse_sources

pytest.importorskip("gguf")
pytest.importorskip("transformers")

WEIGHTS = round(count(load_race("megabyte").recipe.model.parameters()) * BYTES_PER_WEIGHT["q8_0"])
RACE = """
description: A race of a test.
minutes: 1
device: cpu
rule: line-32
targets: {good: 3.0, goal: 2.0}
artifact: {format: gguf, precision: q8_0, max_bytes: MAX_BYTES}
tuned_on: nothing
recipe:
  model: {family: llama, vocab_size: 320, context_length: 32, dim: 32, layers: 1, heads: 2, kv_heads: 1, ffn_dim: 32}
  tokenizer: {kind: bpe, vocab_size: 320}
  data: {sequences: {kind: packed, length: 32, stride: 32}}
  optimizer: {kind: adamw, lr: 2e-2}
  training: {length: {max_steps: 10}, micro_batch_size: 4, compile: none}
"""


def enter(folder: Path, max_bytes: int, *arguments: str) -> int:
    """Enter a race in ``folder`` with 20 steps."""
    (folder / "small.yaml").write_text(RACE.replace("MAX_BYTES", str(max_bytes)))
    for name, numbers in (("train", range(80)), ("held-out", range(80, 110))):
        stories = [f"Story {number} is about a fox and {number % 7} birds." for number in numbers]
        (folder / f"{name}.txt").write_text("\n<|endoftext|>\n".join(stories))
    texts = ["--data", str(folder / "train.txt"), "--validation", str(folder / "held-out.txt")]
    where = ["--out", str(folder / "run"), "--prepared", str(folder / "prepared"), "--steps", "20"]
    return command(["race", str(folder / "small.yaml"), *texts, *where, *arguments])


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    assert enter(folder, 40_000) == 0
    return folder / "run"


def receipt_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "race.json").read_text())


def test_the_score_is_that_of_the_file(entered: Path, tmp_path: Path) -> None:
    receipt = receipt_of(entered)
    file = entered / "artifact" / receipt["artifact"]["file"]
    imported = import_model(file, out=tmp_path / "imported").path
    text = parse_sources((str(entered.parent / "held-out.txt"),))
    config = EvalConfig(checkpoint="latest", text=text, rule="line", length=32, num_samples=0, num_cloze=0)
    (scores,) = evaluate(imported, config).scores
    assert receipt["score"]["bits_per_byte"] == scores.bits_per_byte.value
    assert (receipt["score"]["rule"], receipt["held_out_bytes"]) == ("line-32", scores.bytes)
    (final,) = [row for row in read_rows(entered / "metrics.jsonl") if row["kind"] == "final"]
    assert receipt["score"]["bits_per_byte"] == pytest.approx(final["bits_per_byte"], rel=0.01)
    assert receipt["score"]["bits_per_byte"] != final["bits_per_byte"]


def test_the_receipt_has_size_and_sha256_of_the_file(entered: Path) -> None:
    artifact = receipt_of(entered)["artifact"]
    file = entered / "artifact" / artifact["file"]
    assert artifact["bytes"] == file.stat().st_size <= artifact["max_bytes"] == 40_000
    assert artifact["sha256"] == sha256_of(file)


def test_the_file_has_the_average_of_the_weights_if_the_recipe_has_one(entered: Path, tmp_path: Path) -> None:
    assert enter(tmp_path, 40_000, "optimizer.average={kind: mean, start: 50%}") == 0
    record = json.loads((tmp_path / "run" / "artifact" / "export.json").read_text())
    assert record["weights"] == "average"
    assert receipt_of(tmp_path / "run")["artifact"]["sha256"] != receipt_of(entered)["artifact"]["sha256"]
    assert receipt_of(tmp_path / "run")["weights_sha256"] == receipt_of(entered)["weights_sha256"]


def test_a_file_over_the_size_is_no_valid_entry(
    entered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enter(tmp_path, receipt_of(entered)["artifact"]["bytes"] - 1) == 0
    assert "more than" in capsys.readouterr().out
    assert command(["race", str(tmp_path / "small.yaml"), "--records", str(tmp_path)]) == 0
    assert "artifact too large" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("max_bytes", "arguments", "message"),
    [
        (10_000, [], "weights take"),
        (
            40_000,
            ["model={family: mingru, vocab_size: 320, context_length: 32, dim: 32, layers: 1, ffn_dim: 32}"],
            "no architecture",
        ),
    ],
)
def test_a_model_that_cannot_be_the_file_is_refused_before_training(
    max_bytes: int, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enter(tmp_path, max_bytes, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "prepared").exists()


def test_the_recipe_of_the_megabyte_leaves_bytes_for_its_tokenizer() -> None:
    race = load_race("megabyte")
    assert race.artifact
    tokenizer = 40 * race.recipe.model.vocab_size
    assert WEIGHTS + tokenizer < race.artifact.max_bytes
