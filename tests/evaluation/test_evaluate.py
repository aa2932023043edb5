"""Tests that the evaluation of a run is saved in its directory, is reproducible and has clear errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.evaluation.evaluate import FILE
from fabella.evaluation.scoring import both_rules
from fabella.storage import json_safe
from fabella.training.run import start_run
from tests.training import tiny


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluated")
    settings = ("data.source.stories=60", "data.validation.fraction=0.4", "optimizer.average.kind=ema")
    config = tiny.run(*settings, steps=8)
    start_run(config, directory / "run", tiny.prepared(directory, config))
    return directory / "run"


# Sums in different orders, averaged; one prediction in a hundred thousand may change its calibration bin.
ENGINES_TOLERANCE = 1e-4
SMALL = ["--num-samples", "3", "--max-tokens", "24", "--num-cloze", "4"]


def evaluated(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = fabella(["evaluate", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_result_is_saved_and_reproducible(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = evaluated(capsys, run_dir, *SMALL, "--json")
    saved = json.loads((run_dir / FILE).read_text())
    assert code == 0
    assert json.loads(out) == saved
    evaluated(capsys, run_dir, *SMALL)
    second = json.loads((run_dir / FILE).read_text())
    assert saved.pop("seconds").keys() == second.pop("seconds").keys() == {"scores", "samples", "cloze"}
    assert second == saved
    assert saved["samples"]["real"]["stories"] == saved["samples"]["generated"]["stories"] == 3
    assert [scores["rule"] for scores in saved["scores"]] == ["story-32", "line-32"]
    for scores in saved["scores"]:
        assert scores["loss"]["low"] < scores["loss"]["value"] < scores["loss"]["high"]


def test_python_measures_and_verifies_what_the_commands_do(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import fabella as package

    _, out, _ = evaluated(capsys, run_dir, *SMALL, "--json")
    result = package.evaluate(str(run_dir), package.EvalConfig(num_samples=3, max_tokens=24, num_cloze=4))
    measured, printed = json.loads(json.dumps(json_safe(result.as_json()))), json.loads(out)
    assert measured.pop("seconds").keys() == printed.pop("seconds").keys()
    assert measured == printed
    shown = [f"{each['bits_per_byte']['value']:.4f} bits per byte ({each['rule']})" for each in measured["scores"]]
    assert repr(result) == f"Evaluation(step 8 on held-out text: {', '.join(shown)})"
    assert package.verify(str(run_dir)) == []
    (run_dir / "latest").write_text("step-99999999\n")
    try:
        assert [finding.level for finding in package.verify(run_dir)] == ["damaged"]
    finally:
        (run_dir / "latest").write_text("step-00000008\n")


def test_the_text_output_has_the_same_numbers(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = evaluated(capsys, run_dir, *SMALL)
    assert code == 0
    for saved in json.loads((run_dir / FILE).read_text())["scores"]:
        assert f"{saved['loss']['value']:,.4f}  ({saved['loss']['low']:,.4f} to" in out
        assert f"Rule {saved['rule']}: {saved['documents']:,} documents, {saved['tokens']:,} tokens" in out
    assert "3 samples after the first 6 words of real ones (temperature 0.8, top-p 0.95, seed 1" in out
    assert "No cloze test" in err or "by chance it would be 20%" in out


def test_scores_of_another_text_are_not_saved(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_dir / FILE).read_bytes() if (run_dir / FILE).exists() else b""
    text = tmp_path / "one.txt"
    text.write_text("Once upon a time there was a dog.")
    code, out, _ = evaluated(capsys, run_dir, "--text", text, "--num-samples", "0", "--num-cloze", "0", "--json")
    result = json.loads(out)
    assert code == 0
    (story, line) = result["scores"]
    assert (story["rule"], story["documents"], story["bytes"], result["samples"]) == ("story-32", 1, 33, None)
    assert (line["rule"], line["documents"]) == ("line-32", 1)
    assert story["loss"]["low"] is None
    assert ((run_dir / FILE).read_bytes() if (run_dir / FILE).exists() else b"") == before


@pytest.mark.parametrize("weights", ["trained", "average"])
def test_the_line_score_is_the_final_score_of_the_training(
    weights: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = {"trained": "final", "average": "final_average"}[weights]
    (final,) = [row for row in tiny.metrics(run_dir) if row["kind"] == kind]
    words = ["--rule", "line", "--num-samples", "0", "--num-cloze", "0", "--checkpoint", "latest", "--json"]
    code, out, _ = evaluated(capsys, run_dir, *words, "--weights", weights)
    result = json.loads(out)
    (scores,) = result["scores"]
    assert (code, result["settings"]["weights"]) == (0, weights)
    assert (scores["rule"], scores["tokens"]) == (final["rule"], final["tokens"])
    assert scores["bits_per_byte"]["value"] == pytest.approx(final["bits_per_byte"], rel=ENGINES_TOLERANCE)


def test_the_length_of_a_rule_is_checked(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--num-samples", "0", "--num-cloze", "0", "--json"]
    code, out, _ = evaluated(capsys, run_dir, "--length", "16", *small)
    assert code == 0
    assert [scores["rule"] for scores in json.loads(out)["scores"]] == ["story-16", "line-16"]
    code, _, err = evaluated(capsys, run_dir, "--length", "33", *small)
    assert code == 2
    assert "--length 33 is not a number of tokens from 1 to 32" in err
    code, _, err = evaluated(capsys, run_dir, "--rule", "window", *small)
    assert code == 2


def test_a_long_text_is_scored_by_one_rule_unless_it_is_named(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(both_rules, "CHEAP_FLOPS", 1.0)
    small = ["--num-samples", "0", "--num-cloze", "0", "--json"]
    _, out, err = evaluated(capsys, run_dir, *small)
    assert [scores["rule"] for scores in json.loads(out)["scores"]] == ["story-32"]
    assert "Score it by line-32 with --rule line." in err
    _, out, _ = evaluated(capsys, run_dir, "--rule", "line", *small)
    assert [scores["rule"] for scores in json.loads(out)["scores"]] == ["line-32"]


def test_a_missing_dataset_checkpoint_or_run_is_an_error(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run_dir, moved)
    code, _, err = evaluated(capsys, moved)
    assert code == 3
    assert "prepared" in err
    shutil.rmtree(moved / "checkpoints")
    code, _, err = evaluated(capsys, moved)
    assert code == 4
    code, _, err = evaluated(capsys, tmp_path / "nothing")
    assert code == 4
    assert "nothing" in err


def test_both_engines_measure_the_same(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores, calibration, samples and the cloze test are equal; sampling uses the same seed."""
    results = []
    for engine in ("torch", "jax"):
        copy = tmp_path / engine / "run"
        shutil.copytree(run_dir, copy)
        shutil.copytree(run_dir.parent / "prepared", tmp_path / engine / "prepared", dirs_exist_ok=True)
        code, out, err = evaluated(capsys, copy, *SMALL, "--engine", engine, "--json")
        assert code == 0, err
        results.append({key: value for key, value in json.loads(out).items() if key != "seconds"})
    numbers, words = ([flat(result, kind) for result in results] for kind in ((int, float), (str, bool, type(None))))
    assert words[0] == words[1]
    assert numbers[1] == pytest.approx(numbers[0], rel=ENGINES_TOLERANCE, abs=ENGINES_TOLERANCE)


def flat(value: Any, kinds: tuple[type, ...], name: str = "") -> dict[str, Any]:
    """Return all leaves of the given types by their path."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        return {name: value} if type(value) in kinds else {}
    return {path: leaf for key, part in parts for path, leaf in flat(part, kinds, f"{name}.{key}").items()}
