"""Tests of the command `fabella batch-size`."""

import json
from pathlib import Path

import pytest

from fabella.cli.main import run
from fabella.planning import batch_size_finder
from fabella.planning.probe import ProbeResult
from fabella.run_config.files import load_config
from fabella.training.schedule import batch_size_at

PEAKS = {1: 300e6, 2: 400e6, 4: 600e6, 8: 1000e6, 16: 1800e6}
SPEEDS = {1: 500.0, 2: 900.0, 4: 1000.0, 8: 800.0}


@pytest.fixture
def fits_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-batches of up to 8 sequences fit, and 4 is the fastest."""

    def probe_batch_size(run: object, size: int, limits: object) -> ProbeResult:
        if size > 8:
            return ProbeResult(micro_batch_size=size, reason="memory")
        return ProbeResult(micro_batch_size=size, tokens_per_second=SPEEDS[size], peak_bytes=int(PEAKS[size]))

    monkeypatch.setattr(batch_size_finder, "probe_batch_size", probe_batch_size)


@pytest.mark.usefixtures("fits_8")
def test_batch_size_prints_the_largest_and_the_fastest_and_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["batch-size", "piny-37m", "--memory", "1GB"]) == 0
    printed = capsys.readouterr()
    assert printed.out == (
        "Largest that fits: 8 (800 tokens/s, 1 GB peak)\n"
        "Fastest:           4 (1,000 tokens/s, 600 MB peak)\n"
        "Same global batch with: training.micro_batch_size=8 'training.gradient_accumulation=[[0,128]]'\n"
    )
    assert "micro-batch     16: needs more memory than available\n" in printed.err


@pytest.mark.usefixtures("fits_8")
@pytest.mark.parametrize(("option", "size"), [([], 8), (["--fastest"], 4), (["--max-micro-batch-size", "3"], 2)])
def test_the_result_is_written_as_a_config(
    option: list[str], size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    assert run(["batch-size", "minigpt-100m", *option, "--write", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    written, before = load_config(str(file)), load_config("minigpt-100m")
    assert (facts["micro_batch_size"], facts["written"]) == (size, str(file))
    assert written.training.micro_batch_size == size
    assert [batch_size_at(written.training, s) for s in (0, 8750, 13125)] == [
        batch_size_at(before.training, s) for s in (0, 8750, 13125)
    ]
    assert run(["batch-size", str(file), *option, "--write", str(file)]) == 0  # again, into the same file
    assert load_config(str(file)) == written


@pytest.mark.usefixtures("fits_8")
def test_a_file_that_is_not_a_config_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diary = tmp_path / "diary.yaml"
    diary.write_text("- dear diary\n")
    assert run(["batch-size", "storybook-1m", "--write", str(diary)]) == 2
    assert "a config must be a mapping of sections" in capsys.readouterr().err
    assert diary.read_text() == "- dear diary\n"
    assert run(["batch-size", "storybook-1m", "--write", str(tmp_path / "answer.txt")]) == 2
    assert "is not a .yaml file. Use --write" in capsys.readouterr().err


@pytest.mark.usefixtures("fits_8")
def test_the_config_is_written_atomically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fabella.storage.atomic_file.os.write", full)
    assert run(["batch-size", "storybook-1m", "--write", str(tmp_path / "mine.yaml")]) == 4
    assert "disk full: writing mine.yaml" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_an_error_with_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """A real trial: the process is killed while it loads PyTorch."""
    assert run(["batch-size", "storybook-1m", "--memory", "50MB"]) == 2
    printed = capsys.readouterr().err
    assert (
        "A micro-batch of 1 sequence of 288 tokens needs more memory than available: 50 MB. "
        "Try training.gradient_checkpointing" in printed
    )
