"""What people see while a model learns."""

import pytest

from fabella.tracking import console
from fabella.tracking.console import ConsoleTracker, ProgressLine, duration, shorten

ROW = {"kind": "train", "step": 10, "loss": 2.0, "tokens_per_second": 12_345.6}


def test_the_line_tells_percent_loss_bits_per_byte_pace_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([100.0, 130.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    shown = ConsoleTracker(steps=100, bits_per_nat=0.5)
    shown.line.plain_every = 1
    shown(ROW)
    shown(ROW | {"step": 40})
    first, second = capsys.readouterr().err.splitlines()
    assert first == " 10 %  step 10/100  loss 2.000  1.000 bits/byte  12,346 tokens/s  …"
    assert second == " 40 %  step 40/100  loss 2.000  1.000 bits/byte  12,346 tokens/s  1:00 left"


def test_validation_and_samples_stay_on_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ConsoleTracker(steps=100, bits_per_nat=1.0)
    shown({"kind": "validation", "step": 50, "loss": 1.5, "perplexity": 4.4817, "bits_per_byte": 0.6})
    shown({"kind": "sample", "step": 50, "prompt": "Once", "text": " upon\n\x1b[31ma time"})
    assert capsys.readouterr().err.splitlines() == [
        "step 50: validation loss 1.5000, perplexity 4.48, 0.6000 bits per byte",
        "step 50 tells: Once upon  [31ma time",
    ]


def test_without_a_terminal_only_every_tenth_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    for number in range(21):
        line.update(str(number))
    line.close()
    assert capsys.readouterr().err.split() == ["0", "10", "20"]


def test_on_a_terminal_the_line_is_rewritten_in_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    line = ProgressLine()
    line.update("a long line")
    line.update("short")
    line.close()
    assert capsys.readouterr().err == "\ra long line\rshort      \n"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.2, "1:05"), (3599.6, "1:00:00"), (7384, "2:03:04")])
def test_durations_are_in_minutes_or_hours(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_long_sample_is_cut() -> None:
    assert shorten("x" * 400) == "x" * 299 + "…"
