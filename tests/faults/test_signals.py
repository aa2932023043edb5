"""Tests that a stop signal in any phase of training saves and ends it, and that a save signal saves and continues.

Row C1 of the fault matrix. Each run is started by the command line, in a forked process.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabella.cli import main
from fabella.data.prepare import pipeline
from fabella.engine.engine_torch import TorchEngine
from fabella.runs.run_dir import RunDir
from fabella.training import eval_loss
from fabella.training.callbacks import build, checkpointing
from fabella.training.fine_tuning import request as training_request
from fabella.training.run import resume
from tests.training import tiny

STEPS = 10
SETTINGS = [
    *tiny.SETTINGS,
    "validation.every_steps=4",
    "samples.every_steps=4",
    "checkpoint.every_steps=5",
    "checkpoint.keep_last=100",
]
COMMAND = ["train", "storybook-1m", *SETTINGS, "--steps", str(STEPS), "--device", "cpu"]
BEFORE, DURING, AFTER = ("start", "data"), ("step", "evaluation", "sampling", "saving"), ("last save", "final score")
PHASES = (*BEFORE, *DURING, *AFTER)
STOPPED_AT = {"step": 3, "evaluation": 4, "sampling": 4, "saving": 6}
"""The last step after the signal. A signal during a save is handled one step later."""
Send = Callable[[], None]


def once(send: Send, when: Callable[..., bool] = lambda *arguments, **named: True) -> Callable[..., None]:
    """Return a function that calls ``send`` at the first call for which ``when`` is true."""
    sent: list[bool] = []

    def call(*arguments: Any, **named: Any) -> None:
        if not sent and when(*arguments, **named):
            sent.append(True)
            send()

    return call


def call_before(patch: pytest.MonkeyPatch, target: Any, name: str, call: Callable[..., None]) -> None:
    """Call ``call`` before each call of ``target.name``."""
    real = getattr(target, name)

    def both(*arguments: Any, **named: Any) -> Any:
        call(*arguments, **named)
        return real(*arguments, **named)

    patch.setattr(target, name, both)


def send_in_phase(phase: str, send: Send, patch: pytest.MonkeyPatch) -> None:
    """Call ``send`` in a phase of the next training run."""
    match phase:
        case "start":
            call_before(patch, training_request, "resolve_request", once(send))
        case "data":
            call_before(patch, pipeline, "_encode", once(send))
        case "step":
            call_before(patch, TorchEngine, "step", once(send, lambda engine, *_: engine.steps == 2))
        case "evaluation":
            call_before(patch, TorchEngine, "losses", once(send))
        case "sampling":
            make_sampler = build.make_sampler

            def make_signaling_sampler(*arguments: Any) -> Callable[[str], str]:
                generate, sent = make_sampler(*arguments), once(send)
                return lambda prompt: (sent(), generate(prompt))[1]

            patch.setattr(build, "make_sampler", make_signaling_sampler)
        case "saving":
            at_five = once(send, lambda session, progress, state: progress.step == 5)
            call_before(patch, checkpointing, "take_snapshot", at_five)
        case "last save":
            last = once(send, lambda session, progress, state: progress.step == STEPS)
            call_before(patch, checkpointing, "take_snapshot", last)
        case _:
            call_before(patch, eval_loss, "validate", once(send, lambda *arguments, **named: len(arguments[3]) > 8))


def train_in_child(folder: Path, phase: str = "", number: int = 0) -> tuple[int, str]:
    """Train in a child that gets the signal ``number`` in ``phase``. Return its exit code and output."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with (folder / "output").open("wb") as output:
                os.dup2(output.fileno(), 2)
                os.dup2(output.fileno(), 1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            if phase:
                send_in_phase(phase, lambda: os.kill(os.getpid(), number), pytest.MonkeyPatch())
            main.install_signal_handlers()
            prepared = folder if phase == "data" else folder.parent
            code = main.run([*COMMAND, "--out", str(folder / "run"), "--prepared", str(prepared / "prepared")])
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status), (folder / "output").read_text()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the uninterrupted run. Its parent directory has the prepared data of all runs."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "straight").mkdir()
    assert train_in_child(folder / "straight")[0] == 0
    return folder


@pytest.fixture
def folder(root: Path, request: pytest.FixtureRequest) -> Path:
    path = root / "".join(letter for letter in request.node.name if letter.isalnum())
    path.mkdir()
    return path


def straight(root: Path) -> str:
    return tiny.fingerprint(root / "straight" / "run")


@pytest.mark.slow
@pytest.mark.fault("C1", cases=2 * len(PHASES))
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_signal_ends_training_with_everything_saved(
    number: signal.Signals, phase: str, root: Path, folder: Path
) -> None:
    code, output = train_in_child(folder, phase, number)
    assert code == 130, output
    assert "Traceback" not in output
    out = folder / "run"
    if phase in BEFORE:
        ends = {"start": "fabella: interrupted.\n", "data": "no files were left. Run the same command again.\n"}
        assert output.endswith(ends[phase])
        assert not out.exists()
        assert train_in_child(folder)[0] == 0
    else:
        assert f"fabella resume {out}" in output
        saved = RunDir.open(out).steps()[-1]
        assert saved == STOPPED_AT.get(phase, STEPS)
        assert (f"Stopped at step {saved} of {STEPS}" if phase in DURING else "before the final loss") in output
        resume(out, device="cpu")
    assert tiny.fingerprint(out) == straight(root)


@pytest.mark.slow
@pytest.mark.fault("C1", cases=len(PHASES))
@pytest.mark.parametrize("phase", PHASES)
def test_a_save_signal_saves_and_training_continues(phase: str, root: Path, folder: Path) -> None:
    code, output = train_in_child(folder, phase, signal.SIGUSR1)
    assert code == 0, output
    requested = {STOPPED_AT[phase]} if phase in DURING else set[int]()
    assert {5, STEPS, *requested} <= set(RunDir.open(folder / "run").steps())
    assert tiny.fingerprint(folder / "run") == straight(root)
