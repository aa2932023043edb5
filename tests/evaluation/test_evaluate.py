"""A whole evaluation of a run: kept in its folder, the same twice, and with errors in words."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.evaluation.evaluate import FILE
from fabella.training.run import start_run
from tests.training import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evaluated")
    of = tiny.run("data.source.stories=60", "data.validation.fraction=0.4", steps=8)
    start_run(of, place / "run", tiny.prepared(place, of))
    return place / "run"


# Sums in another order, and a mean of many of them; a prediction in a hundred thousand may change its bin.
ENGINES_TOLERANCE = 1e-4
SMALL = ["--stories", "3", "--tokens", "24", "--questions", "4"]


def evaluated(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = fabella(["evaluate", *map(str, words)])
    return code, *capsys.readouterr()


def test_the_result_is_kept_in_the_folder_and_the_same_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = evaluated(capsys, folder, *SMALL, "--json")
    kept = json.loads((folder / FILE).read_text())
    assert code == 0
    assert json.loads(out) == kept
    evaluated(capsys, folder, *SMALL)
    again = json.loads((folder / FILE).read_text())
    assert kept.pop("seconds").keys() == again.pop("seconds").keys() == {"scores", "stories", "cloze"}
    assert again == kept
    assert kept["stories"]["real"]["stories"] == kept["stories"]["told"]["stories"] == 3
    assert kept["scores"]["loss"]["low"] < kept["scores"]["loss"]["value"] < kept["scores"]["loss"]["high"]


def test_people_are_told_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = evaluated(capsys, folder, *SMALL)
    kept = json.loads((folder / FILE).read_text())["scores"]
    assert code == 0
    assert f"{kept['loss']['value']:,.4f}  ({kept['loss']['low']:,.4f} to" in out
    assert f"{kept['documents']:,} documents, {kept['tokens']:,} tokens" in out
    assert "3 stories told from the first 6 words of real ones (temperature 0.8, top-p 0.95, seed 1" in out
    assert "No cloze test" in err or "by chance it would be 20%" in out


def test_the_training_text_scores_itself_and_is_not_kept(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / FILE).read_bytes() if (folder / FILE).exists() else b""
    text = tmp_path / "one.txt"
    text.write_text("Once upon a time there was a dog.")
    code, out, _ = evaluated(capsys, folder, "--text", text, "--stories", "0", "--questions", "0", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["scores"]["documents"], found["scores"]["bytes"], found["stories"]) == (1, 33, None)
    assert found["scores"]["loss"]["low"] is None
    assert ((folder / FILE).read_bytes() if (folder / FILE).exists() else b"") == before


def test_a_run_without_data_or_checkpoint_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    code, _, err = evaluated(capsys, moved)
    assert code == 3
    assert "prepared" in err
    shutil.rmtree(moved / "checkpoints")
    code, _, err = evaluated(capsys, moved)
    assert code == 4
    code, _, err = evaluated(capsys, tmp_path / "nothing")
    assert code == 4
    assert "nothing" in err


def test_both_engines_measure_the_same(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores, calibration, told stories and the cloze test; what is random is drawn from the same seed."""
    found = []
    for engine in ("torch", "jax"):
        copy = tmp_path / engine / "run"
        shutil.copytree(folder, copy)
        shutil.copytree(folder.parent / "prepared", tmp_path / engine / "prepared", dirs_exist_ok=True)
        code, out, err = evaluated(capsys, copy, *SMALL, "--engine", engine, "--json")
        assert code == 0, err
        found.append({key: value for key, value in json.loads(out).items() if key != "seconds"})
    numbers, words = ([flat(one, kind) for one in found] for kind in ((int, float), (str, bool, type(None))))
    assert words[0] == words[1]
    assert numbers[1] == pytest.approx(numbers[0], rel=ENGINES_TOLERANCE, abs=ENGINES_TOLERANCE)


def flat(value: Any, kinds: tuple[type, ...], name: str = "") -> dict[str, Any]:
    """Every leaf of one of these types, by its path."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        return {name: value} if type(value) in kinds else {}
    return {path: leaf for key, part in parts for path, leaf in flat(part, kinds, f"{name}.{key}").items()}
