"""What Weights & Biases is told, through a package that stands in for theirs."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fabella.engine.engine import Histogram
from fabella.run_config.files import apply_overrides, validate_config
from fabella.run_config.run import RunConfig
from fabella.tracking.wandb import WandbTracker, own_id
from tests.runs import stub
from tests.tracking.fake_wandb import FakeWandb

TRAIN = {"kind": "train", "step": 10, "loss": 2.0}


def run(*overrides: str) -> RunConfig:
    settings = ["tracking.wandb.mode=offline", "tracking.wandb.project=stories", *overrides]
    return validate_config(apply_overrides(stub.RUN.model_dump(mode="json"), settings))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # pyright: ignore[reportArgumentType]
    return fake


def unheard(text: str) -> None:
    raise AssertionError(f"nothing was to be reported: {text}")


def test_a_run_is_begun_with_its_config_and_without_listening_to_the_console(
    package: FakeWandb, tmp_path: Path
) -> None:
    WandbTracker(tmp_path, run(), unheard)
    options = package.inits[0]
    assert (options["project"], options["mode"], options["dir"]) == ("stories", "offline", str(tmp_path))
    assert options["config"] == run().model_dump(mode="json")
    assert (options["settings"]["console"], options["settings"]["save_code"]) == ("off", False)


def test_resumed_it_has_the_same_id_and_is_told_no_step_twice(package: FakeWandb, tmp_path: Path) -> None:
    WandbTracker(tmp_path, run(), unheard)
    package.steps_known = 15
    resumed = WandbTracker(tmp_path, run(), unheard)
    assert package.inits[0]["id"] == package.inits[1]["id"] == own_id(tmp_path)
    assert package.inits[1]["resume"] == "allow"
    for step in (10, 15, 20):
        resumed({**TRAIN, "step": step})
    assert [step for step, _ in package.logged] == [15, 20]


def test_numbers_texts_and_histograms_are_told(package: FakeWandb, tmp_path: Path) -> None:
    tracked = WandbTracker(tmp_path, run(), unheard)
    tracked(TRAIN)
    tracked({"kind": "sample", "step": 10, "prompt": "Once", "text": " upon"})
    tracked({"kind": "histograms", "step": 10, "histograms": {"weights/a": Histogram(0.0, 1.0, (1, 3))}})
    tracked.close()
    assert package.logged == [
        (10, {"train/loss": 2.0}),
        (10, {"sample/Once": "Once upon"}),
        (10, {"weights/a": ("histogram", ([1, 3], [0.0, 0.5, 1.0]))}),
    ]
    assert package.finished == 1


@pytest.mark.parametrize(("wanted", "count"), [("true", 1), ("false", 0)])
def test_after_the_final_score_the_model_is_kept_there_unless_that_is_not_wanted(
    wanted: str, count: int, package: FakeWandb, tmp_path: Path
) -> None:
    tracked = WandbTracker(tmp_path, run(f"tracking.wandb.artifact={wanted}"), unheard)
    tracked({"kind": "final", "step": 40, "loss": 1.0})
    assert len(package.artifacts) == count
    for artifact in package.artifacts:
        assert artifact.files[0] == str(tmp_path / "checkpoints" / "step-00000040" / "model.safetensors")


def test_online_where_the_run_can_be_seen_is_said(package: FakeWandb, tmp_path: Path) -> None:
    said: list[str] = []
    WandbTracker(tmp_path, run("tracking.wandb.mode=online"), said.append)
    assert said == ["Weights & Biases: https://example.org/run"]


def test_online_without_an_account_it_says_that_none_is_needed(package: FakeWandb, tmp_path: Path) -> None:
    package.logged_in = False
    with pytest.raises(RuntimeError, match=r"tracking\.wandb\.mode=offline needs no account"):
        WandbTracker(tmp_path, run("tracking.wandb.mode=online"), unheard)


@pytest.mark.parametrize("damaged", [b"", b"\xff\x00", b"../../etc", b"x" * 100])
def test_a_damaged_id_is_made_anew(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "wandb-id").write_bytes(damaged)
    made = own_id(tmp_path)
    assert len(made) == 16
    assert own_id(tmp_path) == made


def test_the_settings_are_those_of_the_package(tmp_path: Path) -> None:
    """The stand-in takes any setting; the package itself refuses those it does not know."""
    package: Any = pytest.importorskip("wandb")
    fake = FakeWandb()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", fake)
        WandbTracker(tmp_path, run(), unheard)
    package.Settings(**fake.inits[0]["settings"])
