"""A newer checkpoint without a pause; a bad one changes nothing."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fabella.server.served_models import ServedModels, load
from tests.generation import tiny_run
from tests.server.stubs import SMALL, InProcess, shelf, spelling, until

ASKED = {"prompt": "Once", "max_tokens": 12, "seed": 1, "logprobs": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "stories", steps=(20,), best=20)


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[tuple[Path, InProcess]]:
    """A copy of the run, served from its newest checkpoint."""
    copy = tmp_path / "stories"
    shutil.copytree(run, copy, symlinks=True)
    with InProcess(load([f"{copy}@latest"], device="cpu", limits=SMALL)) as near:
        yield copy, near


def told(near: InProcess) -> object:
    return near.post("/v1/completions", ASKED).json["choices"]


def newer(run: Path, tmp_path: Path) -> None:
    """Let the run have learned on."""
    other = tiny_run.make(tmp_path / "other", steps=(40,), best=40)
    shutil.copytree(other / "checkpoints" / "step-00000040", run / "checkpoints" / "step-00000040")
    (run / "latest").write_bytes((other / "latest").read_bytes())


def test_a_newer_checkpoint_takes_over(served: tuple[Path, InProcess], tmp_path: Path) -> None:
    run, near = served
    before, old = told(near), near.shelf.find("").scheduler
    newer(run, tmp_path)
    answer = near.post("/reload", {"model": "stories"})
    assert (answer.status, answer.json["fabella"]["step"]) == (200, 40)
    assert told(near) != before
    until(lambda: not old.alive, lambda: threading.Event().wait(0.01))
    assert near.get("/healthz").status == 200


def cut(file: str) -> Callable[[Path], object]:
    return lambda newest: (newest / file).write_bytes((newest / file).read_bytes()[:-7])


def flip(file: str) -> Callable[[Path], object]:
    def change(newest: Path) -> None:
        data = bytearray((newest / file).read_bytes())
        data[len(data) // 2] ^= 1
        (newest / file).write_bytes(data)

    return change


BROKEN: dict[str, Callable[[Path], object]] = {
    "weights cut": cut("model.safetensors"),
    "weights flipped": flip("model.safetensors"),
    "weights gone": lambda newest: (newest / "model.safetensors").unlink(),
    "weights empty": lambda newest: (newest / "model.safetensors").write_bytes(b""),
    "state cut": cut("state.json"),
    "manifest cut": cut("manifest.json"),
    "manifest gone": lambda newest: (newest / "manifest.json").unlink(),
    "checkpoint gone": shutil.rmtree,
    "config torn": lambda newest: (newest.parents[1] / "config.yaml").write_text("model: {family: nothing"),
    "tokenizer gone": lambda newest: shutil.rmtree(newest.parents[1] / "tokenizer"),
}


@pytest.mark.fault("F26", cases=10)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_checkpoint_that_cannot_be_read_changes_nothing(
    served: tuple[Path, InProcess], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, near = served
    before = told(near)
    BROKEN[kind](run / "checkpoints" / "step-00000020")
    answer = near.post("/reload", {"model": "stories"})
    assert (answer.status, answer.error["code"]) == (500, "reload_failed")
    assert str(run) not in answer.body.decode()
    assert answer.headers["x-request-id"] in capsys.readouterr().err
    assert told(near) == before
    assert near.get("/healthz").status == 200


def test_an_older_checkpoint_does_not_take_over(tmp_path: Path) -> None:
    run = tiny_run.make(tmp_path / "stories", steps=(10, 20))
    with InProcess(load([f"{run}@latest"], device="cpu", limits=SMALL)) as near:
        before = told(near)
        (run / "checkpoints" / "step-00000020" / "manifest.json").unlink()
        answer = near.post("/reload", {})
        assert (answer.status, answer.error["message"]) == (
            409, "The newest whole checkpoint is of step 10; the model stays as it was.",
        )  # fmt: skip
        assert told(near) == before


def test_a_model_that_is_no_run_and_one_that_is_not_there() -> None:
    models: ServedModels = shelf(spelling())
    with InProcess(models) as near:
        assert near.post("/reload", {"model": "a"}).status == 500
        assert near.post("/reload", {"model": "z"}).status == 404
        assert near.post("/reload", {"modell": "a"}).status == 400
        assert near.get("/reload").status == 405
