"""Tests of the comparison of runs: laws, groups of seeds, other tokenizers, imported models, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import fabella
from fabella.cli.main import run as command
from fabella.errors import FabellaError, UsageError
from fabella.evaluation.comparison.compare import RunComparison
from fabella.interop.export import export
from fabella.training.run import start_run
from tests.training import tiny

TEXT = ("data.source.stories=40", "data.validation.fraction=0.3", "checkpoint.every_steps=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a run and of one with another rate, and a run with another tokenizer and longer sequences."""
    directory = tmp_path_factory.mktemp("compared")
    dataset = tiny.prepared(directory, tiny.run(*TEXT))
    for name, *settings in (("slow", "optimizer.lr=1e-4"), ("fast", "optimizer.lr=1e-2")):
        for seed in (1, 2):
            config = tiny.run(*TEXT, *settings, f"seed={seed}", f"name={name}", steps=3)
            start_run(config, directory / name / f"seed-{seed}", dataset)
    bpe = tiny.run(
        *TEXT, "tokenizer={kind: bpe, vocab_size: 300}", "model.vocab_size=300", "model.context_length=48",
        "data.sequences={kind: packed, length: 48, stride: 48}", steps=3,
    )  # fmt: skip
    start_run(bpe, directory / "bpe", tiny.prepared(directory / "other", bpe))
    return directory


def test_a_run_equals_itself(runs: Path) -> None:
    same = runs / "slow" / "seed-1"
    result = fabella.compare([same, same], resamples=50)
    assert dataclasses.astuple(result.pairs[0].difference) == (0.0, 0.0, 0.0)
    assert [variant.name for variant in result.variants] == ["seed-1", "seed-1 (2)"], "not two seeds of one variant"


@pytest.mark.parametrize("rule", ["story", "line"])
def test_the_order_of_the_runs_flips_the_sign(runs: Path, rule: str) -> None:
    paths = [runs / "slow" / "seed-1", runs / "bpe"]
    there, back = (fabella.compare(order, rule=rule, resamples=50) for order in (paths, paths[::-1]))
    a, b = there.pairs[0].difference, back.pairs[0].difference
    assert a.value == pytest.approx(-b.value)
    assert (a.low, a.high) == pytest.approx((-b.high, -b.low))
    assert there.rule == back.rule == f"{rule}-32", "the shorter of both contexts"
    assert there == fabella.compare(paths, rule=rule, resamples=50), "the same seed, the same bootstrap"
    other = fabella.compare(paths, rule=rule, resamples=50, seed=2)
    assert other.pairs[0].difference.value == a.value
    assert other.pairs[0].difference.low != a.low
    scores = [run.bits_per_byte.value for run in there.runs]
    assert a.value == pytest.approx(scores[0] - scores[1])
    assert a.low <= a.value <= a.high


def test_scores_are_those_of_evaluate(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = fabella.compare([runs / "bpe", runs / "slow" / "seed-1"], resamples=10)
    words = ["--rule", "story", "--length", "32", "--num-samples", "0", "--num-cloze", "0", "--checkpoint", "latest"]
    assert command(["evaluate", str(runs / "bpe"), *words, "--json"]) == 0
    (scores,) = json.loads(capsys.readouterr().out)["scores"]
    assert result.runs[0].bits_per_byte.value == pytest.approx(scores["bits_per_byte"]["value"])
    assert (result.documents, result.bytes) == (scores["documents"], scores["bytes"])


def test_runs_that_differ_in_their_seed_are_one_variant(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(runs / name / f"seed-{seed}") for name in ("slow", "fast") for seed in (1, 2)]
    assert command(["compare", *paths, "--json", "--resamples", "20"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [variant["name"] for variant in result["variants"]] == ["slow", "fast"]
    assert len(result["pairs"]) == 6
    scores = {run["name"]: run["bits_per_byte"]["value"] for run in result["runs"]}
    (pair,) = result["variant_pairs"]
    expected = [scores[f"slow/seed-{seed}"] - scores[f"fast/seed-{seed}"] for seed in (1, 2)]
    assert pair["over_seeds"]["differences"] == pytest.approx(expected)
    assert pair["over_seeds"]["seeds"] == [1, 2]
    assert pair["over_documents"]["value"] == pytest.approx(sum(expected) / 2)
    assert command(["compare", *paths, "--resamples", "20"]) == 0
    out = capsys.readouterr().out
    assert f"Rule {result['rule']} on held-out text: {result['documents']:,} documents" in out
    assert "slow minus fast over 2 seeds: " in out
    assert f"{pair['over_documents']['value']:+.4f}" in out


def test_an_exported_model_scores_as_its_run(runs: Path, tmp_path: Path) -> None:
    run = runs / "slow" / "seed-1"
    export(run, to="hf", out=tmp_path / "exported", checkpoint="latest")
    result = fabella.compare([run, tmp_path / "exported"], resamples=20)
    assert result.pairs[0].difference.value == pytest.approx(0.0, abs=1e-6)
    assert [variant.name for variant in result.variants] == ["seed-1", "exported"]


def test_different_text_is_refused_unless_a_text_is_given(runs: Path, tmp_path: Path) -> None:
    config = tiny.run("data.source.stories=40", "data.source.seed=7", "data.validation.fraction=0.3", steps=2)
    start_run(config, tmp_path / "run", tiny.prepared(tmp_path, config))
    paths = [runs / "slow" / "seed-1", tmp_path / "run"]
    with pytest.raises(UsageError, match="hold out different documents") as error:
        fabella.compare(paths)
    assert "--data TEXT" in str(error.value)
    result = fabella.compare(paths, data="storybook:5", resamples=10)
    assert (result.documents, result.text) == (5, "storybook (5 stories, seed 1)")
    dataset = fabella.compare(paths, data=runs / "prepared", resamples=10)
    own = fabella.compare([paths[0], paths[0]], resamples=10)
    assert (dataset.documents, dataset.bytes) == (own.documents, own.bytes)
    assert dataset.runs[0].bits_per_byte.value == pytest.approx(own.runs[0].bits_per_byte.value)


def refused(paths: list[Path], **settings: Any) -> FabellaError:
    with pytest.raises(FabellaError) as error:
        fabella.compare(paths, **settings)
    return error.value


def test_wrong_input_is_refused_with_what_to_do(runs: Path, tmp_path: Path) -> None:
    run = runs / "slow" / "seed-1"
    assert "Give two or more" in str(refused([run]))
    assert "--length 49 is not a number of tokens from 1 to 32" in str(refused([run, runs / "bpe"], length=49))
    assert "There is no scoring rule 'window'" in str(refused([run, run], rule="window"))
    assert "resamples are too few" in str(refused([run, run], resamples=0))
    assert "nothing" in str(refused([run, tmp_path / "nothing"]))
    export(run, to="hf", out=tmp_path / "exported")
    assert "Give a text to compare them on: --data TEXT" in str(refused([tmp_path / "exported"] * 2))


def test_an_unfinished_run_is_refused_unless_a_checkpoint_is_named(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "unfinished"
    shutil.copytree(runs / "slow" / "seed-1", run)
    shutil.rmtree(run / "checkpoints" / "step-00000003")
    (run / "latest").write_text("step-00000002\n")
    shutil.copytree(runs / "prepared", tmp_path / "prepared")
    error = refused([run, runs / "slow" / "seed-1"])
    assert "is not finished: it has step 2" in error.message
    assert f"fabella resume {run}" in error.hint
    result: RunComparison = fabella.compare([run, runs / "slow" / "seed-1"], checkpoint="latest", resamples=10)
    assert [scored.step for scored in result.runs] == [2, 3]


def test_options_for_reading_need_a_text(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"Tom saw {number} dogs." for number in range(9)))
    run = str(runs / "slow" / "seed-1")
    assert command(["compare", run, run, "--limit", "3"]) == 2
    assert "Options for reading are only for --data." in capsys.readouterr().err
    words = ["--data", str(text), "--separator", "lines", "--limit", "3", "--resamples", "10", "--json"]
    assert command(["compare", run, run, *words]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 3
