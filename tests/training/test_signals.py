"""Tests of stop and save requests by signals, and of their synchronization between ranks."""

import os
import signal

import pytest

from fabella.engine.distributed.process_group import SingleProcess
from fabella.training import signals as module
from fabella.training.loop import Progress
from fabella.training.signals import Signals, SyncedSignals, handle_signals


class Result:
    def read(self) -> dict[str, float]:
        return {}


def test_a_signal_requests_a_stop_or_a_save() -> None:
    with handle_signals(report=lambda text: None) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (signals.stop_requested, signals.save_requested) == (False, True)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop_requested
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_without_sigusr1_stop_signals_are_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_SIGNAL", None)
    before = signal.getsignal(signal.SIGUSR1)
    with handle_signals(report=lambda text: None) as signals:
        assert signal.getsignal(signal.SIGUSR1) is before
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop_requested


def test_in_a_single_process_a_request_takes_effect_at_once() -> None:
    signals = Signals(save_requested=True)
    synced = SyncedSignals(signals, SingleProcess())
    synced(Progress(1), Result())
    assert (synced.save_requested, synced.stop_requested, signals.save_requested) == (True, False, False)
    synced(Progress(2), Result())
    assert not synced.save_requested
    synced.retry_save()
    synced(Progress(3), Result())
    assert synced.save_requested
    signals.stop_requested = True
    synced(Progress(4), Result())
    assert synced.stop_requested
    assert synced.stop_requested_anywhere()
