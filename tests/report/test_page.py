"""Tests that report pages are valid HTML, self-contained and deterministic, with everything from a run escaped."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from fabella.cli.main import run as fabella
from fabella.config.data import Packed
from fabella.errors import CheckpointError, UsageError
from fabella.evaluation.evaluate import EvalConfig, evaluate
from fabella.report import published_curves
from fabella.report.curves import run_lines
from fabella.report.evaluation_section import MEASURES
from fabella.report.page import page
from fabella.report.published_curves import PublishedCurve, published_curve, to_published_curve
from fabella.report.run_history import differing, read, settings
from fabella.report.terminal_view import render
from fabella.runs.metrics_log import append_row
from fabella.runs.run_dir import CHANGES, RunDir
from fabella.training.run import start_run
from tests.server.chromium import Browser, find, started
from tests.training import tiny

HOSTILE = "</script><script>alert(1)</script>\x00"
VOID = {"meta", "input", "path", "circle", "br", "img"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("runs")
    data = tiny.prepared(directory)
    for name, config in (("one", tiny.run(steps=12)), ("two", tiny.run("seed=2", "optimizer.lr=0.001", steps=12))):
        start_run(config, directory / name, data)
    evaluate(directory / "one", EvalConfig(num_samples=2, max_tokens=16, num_cloze=0))
    return directory / "one", directory / "two"


class HtmlChecker(HTMLParser):
    """Parser that requires matching tags and collects the URLs that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.urls: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        urls = [str(value) for name, value in attrs if name in {"src", "href", "action"}]
        self.urls += [url for url in urls if not url.startswith("data:image/png;base64,")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def check_html(text: str) -> HtmlChecker:
    checker = HtmlChecker()
    checker.feed(text)
    assert checker.open == []
    return checker


def test_the_page_of_a_run_is_self_contained_and_deterministic(trained: tuple[Path, Path]) -> None:
    text = page([read(trained[0])])
    html = check_html(text)
    assert html.urls == []
    assert "url(" not in text
    assert text == page([read(trained[0])])
    assert html.tags.count("figure") >= 7
    scores = json.loads((trained[0] / "evaluation.json").read_text())["scores"]
    assert len(scores) == 2
    for score in scores:
        assert f"Rule {score['rule']}, step" in text
        assert f"loss {score['loss']['value']:.4f} (" in text


def test_python_writes_the_page_of_the_command(trained: tuple[Path, Path], tmp_path: Path) -> None:
    import fabella

    assert fabella.write_report(trained, tmp_path / "both.html").read_text() == page([read(run) for run in trained])
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    assert fabella.write_report(str(run)) == run / "report.html"
    assert (run / "report.html").read_text() == page([read(run)])
    with pytest.raises(UsageError, match="at least one run"):
        fabella.write_report([])


def test_a_score_has_its_rule_and_different_rules_are_a_warning(trained: tuple[Path, Path]) -> None:
    history = read(trained[0])
    assert f"bits/byte, {history.rule}" in page([history])
    sequences = Packed(length=8, stride=4)
    run = history.run.model_copy(update={"data": history.run.data.model_copy(update={"sequences": sequences})})
    text = page([history, replace(history, run=run)])
    assert f"scored by different rules ({history.rule}, line-8-by-4)" in text


def test_the_rows_of_the_sample_table_are_named_as_evaluate_prints_them(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fabella(["evaluate", str(trained[0]), "--num-samples", "2", "--max-tokens", "16", "--num-cloze", "0"]) == 0
    printed = [re.split(r"  +", line.strip())[0] for line in capsys.readouterr().out.splitlines()]
    rows = re.findall(r'<th scope="row">([^<]*)</th>', page([read(trained[0])]))
    overlap = [row for row in rows if row.endswith("-grams found in the training text")]
    assert len(overlap) >= 2
    for label in [*(label for _, label, _ in MEASURES), *overlap]:
        assert label in rows
        assert label in printed


def test_the_page_of_two_runs_lists_their_different_settings(trained: tuple[Path, Path]) -> None:
    histories = [read(run) for run in trained]
    assert differing(histories) == {"seed": ["1", "2"], "optimizer.lr": ["0.004", "0.001"]}
    text = page(histories)
    check_html(text)
    assert "Different settings" in text
    assert "were trained on different datasets" not in text


def test_settings_that_changed_when_a_run_was_resumed_are_shown(trained: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "resumed")
    changes = [{"step": 6, "settings": {"optimizer.lr": [4e-3, 1e-3], "name": ["a", HOSTILE]}}]
    run_dir = RunDir.open(tmp_path / "resumed")
    with run_dir.lock():
        run_dir.with_manifest(**{CHANGES: changes})
    text = page([read(tmp_path / "resumed"), read(trained[1])])
    HtmlChecker().feed(text)
    assert "<li>after step 6: optimizer.lr: 0.004 → 0.001</li>" in text
    assert HOSTILE not in text
    assert text.count("was resumed</h2>") == 1


def test_different_datasets_are_a_warning(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config = tiny.run("data.source.seed=5", steps=8)
    start_run(config, tmp_path / "other", tiny.prepared(tmp_path, config))
    assert "were trained on different datasets" in page([read(trained[0]), read(tmp_path / "other")])


def test_names_and_samples_of_a_run_are_escaped(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "<b>run"
    shutil.copytree(trained[1], run)
    with (run / "samples.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "sample", "step": 9, "prompt": HOSTILE, "text": HOSTILE}) + "\n")
    text = page([read(run)])
    assert check_html(text).tags.count("script") == 1
    assert "<b>" not in text


def test_non_finite_losses_are_gaps_and_a_warning(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[0] = re.sub(r'"loss": [\d.]+', '"loss": null', lines[0])
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n" + '{"kind": "train", "st')  # and a torn last line
    assert "1 losses are not finite; the curve has gaps there." in page([read(run)])


def test_a_run_without_metrics_and_a_damaged_line_are_errors(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained[1], run)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="has no metrics yet"):
        read(run)
    (run / "metrics.jsonl").write_text("{]\n")
    with pytest.raises(CheckpointError, match="line 1: damaged"):
        read(run)
    (run / "metrics.jsonl").write_bytes((trained[1] / "metrics.jsonl").read_bytes())
    (run / "evaluation.json").write_text("{")
    assert "fabella evaluate writes it again" in page([read(run)])


def test_rows_between_two_logged_steps_are_interpolated(trained: tuple[Path, Path]) -> None:
    history = read(trained[0])
    before, after = (next(row for row in history.training if row["step"] == step) for step in (6, 9))
    (row,) = (row for row in history.validation if row["step"] == 7)
    assert row["tokens"] == before["tokens"] + (after["tokens"] - before["tokens"]) / 3
    assert before["seconds"] <= row["seconds"] <= after["seconds"]
    assert row["flops"] / row["tokens"] == before["flops"] / before["tokens"]


def test_a_published_curve_lists_the_settings_in_which_a_run_differs(trained: tuple[Path, Path]) -> None:
    published = published_curve("storybook-1m")
    assert published is not None
    assert published_curve("../page") is None
    differences = published.differences(read(trained[0]))
    assert f"model.dim: 16, not {published.settings['model.dim']}" in differences
    values = to_published_curve(read(trained[0]), "2026-01-01")
    assert values["points"]["step"][0][0] == 7
    assert values["settings"]["optimizer.lr"] == settings(read(trained[0]).run)["optimizer.lr"]
    assert "The dotted curve" not in page([read(trained[0])])  # it was trained on another text


def test_the_published_curve_of_the_same_text_is_drawn(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = read(trained[0]), read(trained[1])
    values = to_published_curve(first, "2026-01-01")
    points = {key: [(float(x), float(y)) for x, y in line] for key, line in values.pop("points").items()}
    published = PublishedCurve(**values, points=points)

    def published_curve_of(preset: str) -> PublishedCurve:
        return published

    monkeypatch.setattr(published_curves, "published_curve", published_curve_of)
    text = page([first])
    assert 'class="line reference' in text
    assert "The dotted curve is a run of storybook-1m on storybook (24 stories, seed 1)" in text
    assert "with the same settings." in text
    assert "2 settings of two differ." in page([second])


def without_validations(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run that was too short to be validated."""
    copy = tmp_path / "short"
    shutil.copytree(run, copy)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [json.dumps(row) for row in rows if row["kind"] not in {"validation", "final"}]
    (copy / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    return copy


def test_the_score_of_averaged_weights_is_shown_until_the_run_is_extended(tmp_path: Path) -> None:
    run = tmp_path / "averaged"
    start_run(tiny.run("optimizer.average.kind=ema", steps=12), run, tiny.prepared(tmp_path))
    rows = {row["kind"]: row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())}
    assert rows["final"]["loss"] != rows["final_average"]["loss"]
    text = page([read(run)])
    assert f"<dt>final loss, averaged weights</dt><dd>{rows['final_average']['loss']:.4f}</dd>" in text
    assert f"<dt>final validation loss</dt><dd>{rows['final']['loss']:.4f}</dd>" in text
    for words in ("step 12, all text</th>", "step 12, all text, averaged weights</th>"):
        assert words in text
    output = io.StringIO()
    Console(file=output, width=100).print(render(read(run)))
    assert f"final loss of averaged weights  {rows['final_average']['loss']:.4f}" in output.getvalue()
    append_row(run / "metrics.jsonl", {**rows["train"], "step": 13})
    history = read(run)
    assert (history.final, history.final_average) == (None, None), "the scores of step 12 are not those of step 13"
    assert "averaged weights" not in page([history])


def test_the_only_curve_of_a_run_is_bold(trained: tuple[Path, Path], tmp_path: Path) -> None:
    run = without_validations(trained[0], tmp_path)
    assert 'class="line bold run-0" data-name="training"' in page([read(run)])
    assert 'class="line thin run-0" data-name="training"' in page([read(trained[0])])
    styles = {line.style for line in run_lines("training", [(1.0, 2.0)] * 100, 0, noisy=True, background=False)}
    assert styles == {"thin", "bold"}, "many noisy points are smoothed"


def test_every_chart_has_its_own_key(trained: tuple[Path, Path]) -> None:
    text = page([read(run) for run in trained])
    for figure in re.findall(r"<figure>.*?</figure>", text):
        drawn = set(re.findall(r'class="line [^"]*" data-name="([^"]*)"', figure))
        assert drawn
        assert drawn == set(re.findall(r'<li data-name="([^"]*)">', figure))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not find():
        pytest.skip("needs Chromium or Chrome")
    with started(find(), tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def written(trained: tuple[Path, Path], tmp_path: Path) -> str:
    """Return the URL of a report of two runs."""
    file = tmp_path / "report.html"
    file.write_text(page([read(run) for run in trained]))
    return file.as_uri()


SVG = "document.querySelector('.x-axis.step svg')"


@pytest.mark.slow
def test_the_cursor_is_on_its_points(browser: Browser, written: str) -> None:
    view = browser.open(written, ready=False)
    view.run(f"{SVG}.scrollIntoView()")
    for share in (0.2, 0.5, 0.77, 0.95):
        x, y = view.run(
            f"(() => {{ const b = {SVG}.getBoundingClientRect(); return [b.x + {share} * b.width, b.y + 60]; }})()"
        )
        view.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        cross = view.run(f"{SVG}.querySelector('.cross').getAttribute('d').match(/M([\\d.]+)/)[1]")
        dots = view.run(f"[...{SVG}.querySelectorAll('.dot')].map((dot) => dot.getAttribute('cx'))")
        assert dots
        assert set(dots) == {cross}
        assert cross in view.run(f"stops({SVG}).map(String)"), "the cursor stops at points"
    figure = f"{SVG}.closest('figure')"
    values = view.run(f"[...{figure}.querySelectorAll('output')].map((one) => one.textContent)")
    assert sum(bool(value) for value in values) == len(dots)
    view.run(f"{SVG}.focus()")
    seen = set[str]()
    for key in ("ArrowLeft",) * 20 + ("ArrowRight",) * 20:
        view.press(key)
        seen.add(view.run(f"{SVG}.dataset.at"))
    assert seen >= set(view.run(f"stops({SVG}).map(String)")), "the arrow keys reach every point"
    assert view.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "phone"), [(1300, False), (800, False), (375, True), (320, True)])
def test_texts_of_charts_are_readable_and_do_not_overlap(
    browser: Browser, written: str, width: int, phone: bool
) -> None:
    view = browser.open(written, ready=False, width=width, phone=phone)
    assert view.run("document.documentElement.scrollWidth") <= width
    texts = "[...document.querySelectorAll('.x-axis.step text')]"
    sizes = view.run(f"{texts}.map((t) => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a)")
    assert min(sizes) >= 10.5
    overlaps = view.run(
        """[...document.querySelectorAll(".x-axis.step svg")].flatMap((svg) => {
            const texts = [...svg.querySelectorAll("text")]
              .map((text) => [text.textContent, text.getBoundingClientRect()]);
            const card = svg.closest("figure").getBoundingClientRect();
            const outside = texts.filter(([, box]) => box.left < card.left || box.right > card.right);
            const pairs = texts.flatMap(([one, a], i) => texts.slice(i + 1)
              .filter(([, b]) => a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2)
              .map(([other]) => `${one} over ${other}`));
            return [...outside.map(([text]) => `${text} is outside`), ...pairs];
        })"""
    )
    assert overlaps == []


def test_the_command_writes_the_page_and_png_files(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", *map(str, trained), "-o", str(tmp_path / "both.html"), "--png", str(tmp_path / "pictures")]
    assert fabella([*command, "--x-axis", "tokens"]) == 0
    written = capsys.readouterr().out.split()
    assert written[0] == str(tmp_path / "both.html")
    check_html((tmp_path / "both.html").read_text())
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in written[1:])
    assert len(written) >= 8
    for kind, start in (("svg", b"<?xml"), ("pdf", b"%PDF")):
        assert fabella(["report", str(trained[0]), f"--{kind}", str(tmp_path / kind)]) == 0
        files = [Path(path) for path in capsys.readouterr().out.split()[1:]]
        assert len(files) >= 7
        first = [path.read_bytes() for path in files]
        assert all(content.startswith(start) for content in first)
        assert fabella(["report", str(trained[0]), f"--{kind}", str(tmp_path / kind)]) == 0
        assert [path.read_bytes() for path in files] == first, "equal curves are equal files"
        capsys.readouterr()
    assert ">training</text>" in (tmp_path / "svg" / "loss.svg").read_text(), "text stays text"


def test_invalid_arguments_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fabella(["report", str(trained[0]), "--x-axis", "moons"]) == 2
    assert fabella(["report", *map(str, trained), "--terminal"]) == 2
    assert fabella(["report", str(tmp_path / "none")]) == 4
    assert fabella(["report", str(trained[0]), "-o", "/proc/nothing/report.html"]) == 4
    assert capsys.readouterr().out == ""
