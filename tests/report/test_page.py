"""The page of real runs: whole, asking nobody, the same twice, and nothing in it that a run could smuggle in."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import CheckpointError
from fabella.evaluation.evaluate import EvalConfig, evaluate
from fabella.report import published_curves
from fabella.report.page import page
from fabella.report.published_curves import Reference, as_reference, reference
from fabella.report.run_history import differing, read, settings
from fabella.training.run import start_run
from tests.training import tiny

HOSTILE = "</script><script>alert(1)</script>\x00"
VOID = {"meta", "input", "path", "circle", "br"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("runs")
    data = tiny.prepared(place)
    for name, of in (("one", tiny.run(steps=12)), ("two", tiny.run("seed=2", "optimizer.lr=0.001", steps=12))):
        start_run(of, place / name, data)
    evaluate(place / "one", EvalConfig(num_samples=2, max_tokens=16, num_cloze=0))
    return place / "one", place / "two"


class Whole(HTMLParser):
    """Every tag is closed by its own, and what would ask somebody is collected."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [str(value) for name, value in attrs if name in {"src", "href", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def whole(text: str) -> Whole:
    found = Whole()
    found.feed(text)
    assert found.open == []
    return found


def test_one_run_is_one_whole_page_that_asks_nobody(trained: tuple[Path, Path]) -> None:
    text = page([read(trained[0])])
    found = whole(text)
    assert found.asked == []
    assert "url(" not in text
    assert text == page([read(trained[0])])
    assert found.tags.count("figure") >= 7
    score = json.loads((trained[0] / "evaluation.json").read_text())["scores"]["loss"]["value"]
    assert f"loss {score:.4f} (" in text


def test_of_two_runs_the_differing_settings_are_picked_out(trained: tuple[Path, Path]) -> None:
    histories = [read(run) for run in trained]
    assert differing(histories) == {"seed": ["1", "2"], "optimizer.lr": ["0.004", "0.001"]}
    text = page(histories)
    whole(text)
    assert "What differs" in text
    assert "did not learn from the same data" not in text


def test_runs_on_other_data_are_said_to_be(trained: tuple[Path, Path], tmp_path: Path) -> None:
    of = tiny.run("data.source.seed=5", steps=8)
    start_run(of, tmp_path / "other", tiny.prepared(tmp_path, of))
    assert "did not learn from the same data" in page([read(trained[0]), read(tmp_path / "other")])


def test_whatever_a_run_says_stays_text(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "<b>run"
    shutil.copytree(trained[1], run)
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "sample", "step": 9, "prompt": HOSTILE, "text": HOSTILE}) + "\n")
    text = page([read(run)])
    assert whole(text).tags.count("script") == 1
    assert "<b>" not in text


def test_losses_that_are_no_numbers_are_gaps_and_said(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[0] = re.sub(r'"loss": [\d.]+', '"loss": null', lines[0])
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + '{"kind": "train", "st')  # and a torn last line
    assert "1 measured losses are not numbers" in page([read(run)])


def test_a_run_that_measured_nothing_and_a_damaged_line_are_errors(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="has measured nothing yet"):
        read(run)
    (run / "metrics.jsonl").write_text("{]\n")
    with pytest.raises(CheckpointError, match="line 1: damaged"):
        read(run)
    (run / "metrics.jsonl").write_bytes((trained[1] / "metrics.jsonl").read_bytes())
    (run / "evaluation.json").write_text("{")
    assert "fabella evaluate writes it anew" in page([read(run)])


def test_rows_between_two_logged_steps_are_placed_in_proportion(trained: tuple[Path, Path]) -> None:
    history = read(trained[0])
    before, after = (next(row for row in history.training if row["step"] == step) for step in (6, 9))
    (row,) = (row for row in history.validation if row["step"] == 7)
    assert row["tokens"] == before["tokens"] + (after["tokens"] - before["tokens"]) / 3
    assert before["seconds"] <= row["seconds"] <= after["seconds"]
    assert row["flops"] / row["tokens"] == before["flops"] / before["tokens"]


def test_a_reference_is_what_the_run_was_and_knows_who_is_unlike_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    found = reference("storybook-1m")
    assert found is not None
    assert reference("../page") is None
    unlike = found.differences(read(trained[0]))
    assert f"model.dim: 16, not {found.settings['model.dim']}" in unlike
    kept = as_reference(read(trained[0]), "2026-01-01")
    assert kept["points"]["step"][0][0] == 7
    assert kept["settings"]["optimizer.lr"] == settings(read(trained[0]).run)["optimizer.lr"]
    assert "The dotted curve" not in page([read(trained[0])])  # it learned from other text


def test_a_reference_of_the_same_text_stands_behind_the_curve(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = read(trained[0]), read(trained[1])
    kept = as_reference(first, "2026-01-01")
    points = {key: [(float(x), float(y)) for x, y in line] for key, line in kept.pop("points").items()}
    known = Reference(**kept, points=points)
    monkeypatch.setattr(published_curves, "reference", lambda preset: known)
    text = page([first])
    assert 'class="line reference' in text
    assert "The dotted curve is a run of storybook-1m on storybook (24 stories, seed 1)" in text
    assert "with the same settings." in text
    assert "2 settings of two differ." in page([second])


def test_the_command_writes_page_and_pictures(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", *map(str, trained), "-o", str(tmp_path / "both.html"), "--png", str(tmp_path / "pictures")]
    assert fabella([*words, "--against", "tokens"]) == 0
    written = capsys.readouterr().out.split()
    assert written[0] == str(tmp_path / "both.html")
    whole((tmp_path / "both.html").read_text())
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in written[1:])
    assert len(written) >= 8


def test_wrong_words_are_told(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["report", str(trained[0]), "--against", "moons"]) == 2
    assert fabella(["report", *map(str, trained), "--terminal"]) == 2
    assert fabella(["report", str(tmp_path / "none")]) == 4
    assert fabella(["report", str(trained[0]), "-o", "/proc/nothing/report.html"]) == 4
    assert capsys.readouterr().out == ""
