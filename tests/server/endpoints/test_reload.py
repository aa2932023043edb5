"""Tests that a newer checkpoint is served without downtime, and that a damaged one changes nothing."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fabella.server.served_models import ServedModels, load
from tests.generation import tiny_run
from tests.server.stubs import SMALL, InProcess, served_models, spelling, until

REQUEST = {"prompt": "Once", "max_tokens": 12, "seed": 1, "logprobs": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "stories", steps=(20,), best=20)


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[tuple[Path, InProcess]]:
    """A copy of the run, served from its newest checkpoint."""
    copy = tmp_path / "stories"
    shutil.copytree(run, copy, symlinks=True)
    with InProcess(load([f"{copy}@latest"], device="cpu", limits=SMALL)) as app:
        yield copy, app


def completion(app: InProcess) -> object:
    return app.post("/v1/completions", REQUEST).json["choices"]


def add_checkpoint(run: Path, tmp_path: Path) -> None:
    """Add a later checkpoint to the run."""
    other = tiny_run.make(tmp_path / "other", steps=(40,), best=40)
    shutil.copytree(other / "checkpoints" / "step-00000040", run / "checkpoints" / "step-00000040")
    (run / "latest").write_bytes((other / "latest").read_bytes())


def test_a_newer_checkpoint_replaces_the_model(served: tuple[Path, InProcess], tmp_path: Path) -> None:
    run, app = served
    before, old = completion(app), app.served.find("").scheduler
    add_checkpoint(run, tmp_path)
    response = app.post("/reload", {"model": "stories"})
    assert (response.status, response.json["fabella"]["step"]) == (200, 40)
    assert completion(app) != before
    until(lambda: not old.alive, lambda: threading.Event().wait(0.01))
    assert app.get("/healthz").status == 200


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
    "weights missing": lambda newest: (newest / "model.safetensors").unlink(),
    "weights empty": lambda newest: (newest / "model.safetensors").write_bytes(b""),
    "state cut": cut("state.json"),
    "manifest cut": cut("manifest.json"),
    "manifest missing": lambda newest: (newest / "manifest.json").unlink(),
    "checkpoint missing": shutil.rmtree,
    "config torn": lambda newest: (newest.parents[1] / "config.yaml").write_text("model: {family: nothing"),
    "tokenizer missing": lambda newest: shutil.rmtree(newest.parents[1] / "tokenizer"),
}


@pytest.mark.fault("F26", cases=10)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_damaged_checkpoint_changes_nothing(
    served: tuple[Path, InProcess], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, app = served
    before = completion(app)
    BROKEN[kind](run / "checkpoints" / "step-00000020")
    response = app.post("/reload", {"model": "stories"})
    assert (response.status, response.error["code"]) == (500, "reload_failed")
    assert str(run) not in response.body.decode()
    assert response.headers["x-request-id"] in capsys.readouterr().err
    assert completion(app) == before
    assert app.get("/healthz").status == 200


def test_an_older_checkpoint_does_not_replace_the_model(tmp_path: Path) -> None:
    run = tiny_run.make(tmp_path / "stories", steps=(10, 20))
    with InProcess(load([f"{run}@latest"], device="cpu", limits=SMALL)) as app:
        before = completion(app)
        (run / "checkpoints" / "step-00000020" / "manifest.json").unlink()
        response = app.post("/reload", {})
        assert (response.status, response.error["message"]) == (
            409, "The newest valid checkpoint is step 10; the served model is unchanged.",
        )  # fmt: skip
        assert completion(app) == before


def test_reload_of_a_model_without_a_run_and_of_an_unknown_model() -> None:
    models: ServedModels = served_models(spelling())
    with InProcess(models) as app:
        assert app.post("/reload", {"model": "a"}).status == 500
        assert app.post("/reload", {"model": "z"}).status == 404
        assert app.post("/reload", {"modell": "a"}).status == 400
        assert app.get("/reload").status == 405


def generated_tokens(app: InProcess) -> float:
    lines = app.get("/metrics").body.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("fabella_generation_tokens_total{"))


def test_token_counters_never_fall_at_a_reload(served: tuple[Path, InProcess]) -> None:
    """Prometheus takes a counter that falls for a restart of the server."""
    _, app = served
    counts = [generated_tokens(app)]
    for _ in range(3):
        completion(app)
        counts.append(generated_tokens(app))
        assert app.post("/reload", {"model": "stories"}).status == 200
        counts.append(generated_tokens(app))
    assert counts == [0, 12, 12, 24, 24, 36, 36]
