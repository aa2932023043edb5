"""Tests of the exam: both engines, stored answers, comparison of two exams, imported models, and errors."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.evaluation.exam import exam
from fabella.evaluation.exam.exam import FILE, task_difference
from fabella.interop.export import export
from fabella.interop.import_model import import_model
from fabella.report.page import page
from fabella.report.run_history import read
from fabella.training.run import start_run
from tests.evaluation.exam.test_blimp import write
from tests.training import tiny


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("examined")
    config = tiny.run("data.validation.fraction=0.4", steps=4)
    start_run(config, directory / "run", tiny.prepared(directory, config))
    return directory / "run"


@pytest.fixture(autouse=True)
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = {name: (make, 12) for name, (make, _) in exam.QUESTIONS.items()}
    monkeypatch.setattr(exam, "QUESTIONS", questions)
    monkeypatch.setattr(exam, "COPIES", 3)
    monkeypatch.setattr(exam, "COPY_TOKENS", 12)


def examined(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = fabella(["evaluate", *map(str, words), "--suite", "small"])
    return code, *capsys.readouterr()


def test_the_exam_is_saved_repeats_and_is_in_the_report(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "blimp", "agreement", "morphology", 9)
    code, out, _ = examined(capsys, run_dir, "--blimp", tmp_path / "blimp", "--json")
    saved, printed = json.loads((run_dir / FILE).read_text()), json.loads(out)
    assert code == 0
    assert printed.pop("against") == []
    assert printed == saved
    tasks = {task["name"]: task for task in saved["tasks"]}
    assert {name: task["questions"] for name, task in tasks.items()} == {
        "last word": 12, "entities": 12, "word use": 12, "BLiMP morphology": 9,
    }  # fmt: skip
    assert [task["chance"] for task in tasks.values()] == [0.25, 0.5, 0.5, 0.5]
    for task in tasks.values():
        assert task["accuracy"]["value"] == task["correct"].count("1") / task["questions"]
        assert task["accuracy"]["low"] <= task["accuracy"]["value"] <= task["accuracy"]["high"]
    assert saved["copies"]["samples"] == 3
    _, text, _ = examined(capsys, run_dir, "--blimp", tmp_path / "blimp")
    again = json.loads((run_dir / FILE).read_text())
    assert {**again, "seconds": 0} == {**saved, "seconds": 0}
    html = page([read(run_dir)])
    for name, task in tasks.items():
        assert f"{task['accuracy']['value']:.1%}" in text
        assert name in text
        assert name in html


def test_both_engines_answer_alike(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results: list[dict[str, Any]] = []
    for engine in ("torch", "jax"):
        shutil.copytree(run_dir, tmp_path / engine)
        assert examined(capsys, tmp_path / engine, "--engine", engine)[0] == 0
        results.append(json.loads((tmp_path / engine / FILE).read_text()))
    assert results[0]["tasks"] == results[1]["tasks"]


def test_two_exams_are_compared_question_by_question(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    assert examined(capsys, other)[0] == 0
    code, out, _ = examined(capsys, run_dir, "--against", other, "--json")
    assert code == 0
    assert [each["difference"]["value"] for each in json.loads(out)["against"]] == [0.0, 0.0, 0.0]
    _, out, _ = examined(capsys, run_dir, "--against", other)
    assert out.count("no difference") == 3


def test_an_imported_model_is_examined_without_copies(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(run_dir, to="hf", out=tmp_path / "exported")
    import_model(tmp_path / "exported", out=tmp_path / "imported")
    code, out, err = examined(capsys, tmp_path / "imported", "--json")
    assert code == 0
    assert json.loads(out)["copies"] is None
    assert "No copies: the training text is not known" in json.loads(out)["warnings"][0] + err


def test_wrong_input_says_what_to_do(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for words, code, message in (
        ([run_dir, "--blimp", tmp_path / "empty"], 3, "has no .jsonl file of BLiMP"),
        ([run_dir, "--against", tmp_path], 4, "has no exam. Hold it: fabella evaluate"),
        ([run_dir, "--rule", "line"], 2, "An exam has texts of its own."),
        ([run_dir, "--text", "storybook:3"], 2, "An exam has texts of its own."),
        ([tmp_path / "nothing"], 4, "nothing"),
    ):
        result, _, err = examined(capsys, *words)
        assert (result, message in err) == (code, True), err
    assert fabella(["evaluate", str(run_dir), "--blimp", str(tmp_path)]) == 2
    assert "--blimp and --against are only for --suite." in capsys.readouterr().err
    assert fabella(["evaluate", str(run_dir), "--suite", "large"]) == 2


def test_a_difference_is_paired_by_question_and_flips_its_sign() -> None:
    first, second = "1111100000" * 20, "1100010000" * 20
    there, back = task_difference("x", first, second), task_difference("x", second, first)
    assert there.difference.value == pytest.approx(0.2)
    assert back.difference.value == pytest.approx(-0.2)
    assert there.difference.low == pytest.approx(-back.difference.high)
    # d = 0.4, δ = 0.2: 8 · 0.36 / 0.04
    assert there.questions_to_separate == back.questions_to_separate == math.ceil(8 * 0.36 / 0.04)
    assert task_difference("x", first, first).questions_to_separate is None
    assert task_difference("x", "11", "00").questions_to_separate == 2
