"""Tests of the console output of a training run."""

import pytest

from fabella.storage import format_duration
from fabella.tracking import console
from fabella.tracking.console import ConsoleTracker, ProgressLine, shorten

ROW = {"kind": "train", "step": 10, "loss": 2.0, "tokens_per_second": 12_345.6}


def test_the_progress_line_has_percent_loss_bits_per_byte_speed_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([100.0, 130.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    console_tracker = ConsoleTracker(steps=100, bits_per_nat=0.5)
    console_tracker.line.plain_every = 1
    console_tracker({"kind": "train", "step": 10, "loss": 2.0})  # no throughput yet
    console_tracker(ROW | {"step": 40})
    first, second = capsys.readouterr().err.splitlines()
    assert first == " 10 %  step 10/100  loss 2.000  1.000 bits/byte  …"
    assert second == " 40 %  step 40/100  loss 2.000  1.000 bits/byte  12,346 tokens/s  1:00 left"


def test_validation_and_samples_are_permanent_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console_tracker = ConsoleTracker(steps=100, bits_per_nat=1.0)
    console_tracker({"kind": "validation", "step": 50, "loss": 1.5, "bits_per_byte": 0.6})
    console_tracker({"kind": "validation", "step": 60, "loss": 421.6, "bits_per_byte": 608.2})
    console_tracker({"kind": "sample", "step": 50, "prompt": "Once", "text": " upon\n\x1b[31ma time"})
    assert capsys.readouterr().err.splitlines() == [
        "step 50: validation loss 1.5000, perplexity 4.48, 0.6000 bits per byte",
        "step 60: validation loss 421.6000, perplexity 1.25e+183, 608.2000 bits per byte",
        "step 50 sample: Once upon  [31ma time",
    ]


def test_without_a_terminal_every_tenth_line_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine()
    for number in range(21):
        line.update(str(number))
    line.close()
    assert capsys.readouterr().err.split() == ["0", "10", "20"]


def test_on_a_terminal_the_line_is_rewritten(
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
    assert format_duration(seconds) == text


def test_a_long_sample_is_shortened() -> None:
    assert shorten("x" * 400) == "x" * 299 + "…"


def test_gradient_spikes_and_rollbacks_are_permanent_lines(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = ConsoleTracker(steps=100, bits_per_nat=1.0)
    tracker({"kind": "grad_spike", "step": 7, "grad_norm": 18.9, "median": 1.549})
    tracker({"kind": "rollback", "step": 6, "failed": 9, "times": 1, "allowed": 3, "lr_factor": 0.5})
    assert capsys.readouterr().err.splitlines() == [
        "step 7: gradient norm spike: 18.9, 12.2 times the median",
        "rollback 1 of 3 to step 5, because step 9 was not finite; learning rate factor 0.5",
    ]
