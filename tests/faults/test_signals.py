"""Signals in every phase of a training: it ends with everything saved and says how to go on, or saves and goes on.

Row C1 of the fault matrix. Each training is the command line's own, in a process forked from this one.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabella.cli import main, train
from fabella.data.prepare import pipeline
from fabella.engine.engine_torch import TorchEngine
from fabella.runs.run_dir import RunDir
from fabella.training import eval_loss, fit
from fabella.training.callbacks import checkpointing
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
WORDS = ["train", "storybook-1m", *SETTINGS, "--steps", str(STEPS), "--device", "cpu"]
BEFORE, DURING, AFTER = ("start", "data"), ("step", "evaluation", "sampling", "saving"), ("last save", "final score")
PHASES = (*BEFORE, *DURING, *AFTER)
STOPPED_AT = {"step": 3, "evaluation": 4, "sampling": 4, "saving": 6}
"""The step that is finished after the signal; where it comes while a step is saved, that is the one after it."""
Strike = Callable[[], None]


def once(strike: Strike, when: Callable[..., bool] = lambda *arguments, **named: True) -> Callable[..., None]:
    """Strike at the first call that ``when`` is true of."""
    struck: list[bool] = []

    def call(*arguments: Any, **named: Any) -> None:
        if not struck and when(*arguments, **named):
            struck.append(True)
            strike()

    return call


def before(patch: pytest.MonkeyPatch, place: Any, name: str, call: Callable[..., None]) -> None:
    """Call ``call`` before every call of ``place.name``."""
    whole = getattr(place, name)

    def both(*arguments: Any, **named: Any) -> Any:
        call(*arguments, **named)
        return whole(*arguments, **named)

    patch.setattr(place, name, both)


def strike_in_phase(phase: str, strike: Strike, patch: pytest.MonkeyPatch) -> None:
    """Let ``strike`` happen in a phase of the next training."""
    match phase:
        case "start":
            before(patch, train, "resolve_request", once(strike))
        case "data":
            before(patch, pipeline, "_encode", once(strike))
        case "step":
            before(patch, TorchEngine, "step", once(strike, lambda engine, *_: engine.steps == 2))
        case "evaluation":
            before(patch, TorchEngine, "losses", once(strike))
        case "sampling":
            make_sampler = fit.make_sampler

            def make_struck_sampler(*arguments: Any) -> Callable[[str], str]:
                generate, struck = make_sampler(*arguments), once(strike)
                return lambda prompt: (struck(), generate(prompt))[1]

            patch.setattr(fit, "make_sampler", make_struck_sampler)
        case "saving":
            at_five = once(strike, lambda session, progress, state: progress.step == 5)
            before(patch, checkpointing, "take_snapshot", at_five)
        case "last save":
            last = once(strike, lambda session, progress, state: progress.step == STEPS)
            before(patch, checkpointing, "take_snapshot", last)
        case _:
            before(patch, eval_loss, "validate", once(strike, lambda *arguments: len(arguments[3]) > 8))


def trained(folder: Path, phase: str = "", number: int = 0) -> tuple[int, str]:
    """Exit code of a training in a process of its own that is struck in ``phase``, and what it said."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with (folder / "said").open("wb") as said:
                os.dup2(said.fileno(), 2)
                os.dup2(said.fileno(), 1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            if phase:
                strike_in_phase(phase, lambda: os.kill(os.getpid(), number), pytest.MonkeyPatch())
            main.install_signal_handlers()
            prepared = folder if phase == "data" else folder.parent
            code = main.run([*WORDS, "--out", str(folder / "run"), "--prepared", str(prepared / "prepared")])
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return os.waitstatus_to_exitcode(status), (folder / "said").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the prepared data of all trainings lies."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "straight").mkdir()
    assert trained(folder / "straight")[0] == 0
    return folder


@pytest.fixture
def folder(place: Path, request: pytest.FixtureRequest) -> Path:
    mine = place / "".join(letter for letter in request.node.name if letter.isalnum())
    mine.mkdir()
    return mine


def straight(place: Path) -> str:
    return tiny.fingerprint(place / "straight" / "run")


@pytest.mark.slow
@pytest.mark.fault("C1", cases=2 * len(PHASES))
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_signal_ends_training_with_everything_saved(
    number: signal.Signals, phase: str, place: Path, folder: Path
) -> None:
    code, said = trained(folder, phase, number)
    assert code == 130, said
    assert "Traceback" not in said
    out = folder / "run"
    if phase in BEFORE:
        ends = {"start": "fabella: interrupted.\n", "data": "no files were left. Run the same command again.\n"}
        assert said.endswith(ends[phase])
        assert not out.exists()
        assert trained(folder)[0] == 0
    else:
        assert f"fabella resume {out}" in said
        saved = RunDir.open(out).steps()[-1]
        assert saved == STOPPED_AT.get(phase, STEPS)
        assert (f"Stopped at step {saved} of {STEPS}" if phase in DURING else "before the final loss") in said
        resume(out, device="cpu")
    assert tiny.fingerprint(out) == straight(place)


@pytest.mark.slow
@pytest.mark.fault("C1", cases=len(PHASES))
@pytest.mark.parametrize("phase", PHASES)
def test_a_save_signal_saves_and_training_continues(phase: str, place: Path, folder: Path) -> None:
    code, said = trained(folder, phase, signal.SIGUSR1)
    assert code == 0, said
    asked_for = {STOPPED_AT[phase]} if phase in DURING else set[int]()
    assert {5, STEPS, *asked_for} <= set(RunDir.open(folder / "run").steps())
    assert tiny.fingerprint(folder / "run") == straight(place)
