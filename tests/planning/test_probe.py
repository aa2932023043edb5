"""Tests that the worker of a probe may exit in any way, and that the caller continues and reports why."""

from pathlib import Path

import pytest

from fabella.errors import ConfigError, FabellaError
from fabella.planning import probe
from fabella.planning.probe import ProbeLimits, probe_batch_size
from tests.planning import fake_worker
from tests.training import tiny

AMPLE = ProbeLimits(limit=10**11, on_gpu=False, seconds=120, device="cpu")


def replace_worker(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Replace the worker by one that runs ``code``, which may set ``result``."""
    monkeypatch.setattr(probe, "WORKER", fake_worker.__name__)
    monkeypatch.setenv(fake_worker.CODE, code)


def test_a_micro_batch_that_fits_is_measured(tmp_path: Path) -> None:
    data = tiny.prepared(tmp_path)
    limits = ProbeLimits(limit=10**11, on_gpu=False, seconds=120, device="cpu", prepared=str(data.path))
    trial = probe_batch_size(tiny.run(), 4, limits, (1, 2))
    assert trial.fits
    assert trial.micro_batch_size == 4
    assert trial.tokens_per_second == pytest.approx(4 * 32 / (trial.seconds + trial.update_seconds))
    assert trial.peak_bytes > trial.program_bytes > 10**7
    assert trial.engine is not None
    assert trial.engine["device"].startswith("cpu")


@pytest.mark.fault("D9", cases=1)
def test_a_worker_that_takes_more_memory_than_allowed_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_worker(monkeypatch, "taken = bytearray(b'x') * 300_000_000\nimport threading; threading.Event().wait()")
    trial = probe_batch_size(tiny.run(), 4, ProbeLimits(limit=2 * 10**8, on_gpu=False, seconds=120))
    assert (trial.fits, trial.reason) == (False, "memory")


@pytest.mark.fault("D9", cases=4)
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed"),
        ("result = {'reason': 'memory'}", "memory"),
        ("sys.exit('terminate called after throwing an instance of std::bad_alloc')", "memory"),
        ("result = {'peak_bytes': 200000000000, 'on_gpu': False}", "memory"),
    ],
    ids=["killed", "raised", "aborted", "between two readings"],
)
def test_a_worker_that_runs_out_of_memory_does_not_fit(code: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_worker(monkeypatch, code)
    assert probe_batch_size(tiny.run(), 4, AMPLE).reason == reason


def test_a_worker_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_worker(monkeypatch, "import threading; threading.Event().wait()")
    trial = probe_batch_size(tiny.run(), 4, ProbeLimits(limit=10**11, on_gpu=False, seconds=0.2))
    assert (trial.measured, trial.fits, trial.reason) == (False, None, "time")


def test_an_error_of_the_worker_is_raised_with_its_class() -> None:
    with pytest.raises(ConfigError, match="Unknown device 'tpu'"):
        probe_batch_size(tiny.run(), 4, ProbeLimits(limit=10**11, on_gpu=False, seconds=120, device="tpu"))


def test_any_other_exit_is_reported_with_its_last_line(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_worker(monkeypatch, "sys.exit('the kernel is of another version')")
    with pytest.raises(
        FabellaError, match=r"exited \(exit code 1\)\. Its last line of output: the kernel is of another version"
    ):
        probe_batch_size(tiny.run(), 4, AMPLE)


@pytest.mark.fault("D9", cases=1)
def test_a_real_probe_without_memory_does_not_fit() -> None:
    """The step needs sixteen gigabytes of activations, and the process is killed before that."""
    run = tiny.run("model.vocab_size=256", "model.layers=64", "model.dim=256", "model.ffn_dim=1024")
    trial = probe_batch_size(run, 8192, ProbeLimits(limit=7 * 10**8, on_gpu=False, seconds=120, device="cpu"))
    assert trial.reason == "memory"
