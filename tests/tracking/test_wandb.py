"""Tests of the rows logged to Weights & Biases, which a fake package records."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fabella.engine.engine import Histogram
from fabella.run_config.files import apply_overrides, validate_config
from fabella.run_config.run import RunConfig
from fabella.tracking.wandb import WandbTracker, run_id
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


def fail_on_report(text: str) -> None:
    raise AssertionError(f"unexpected report: {text}")


def test_a_run_is_created_with_its_config_and_without_console_capture(package: FakeWandb, tmp_path: Path) -> None:
    WandbTracker(tmp_path, run(), fail_on_report)
    options = package.inits[0]
    assert (options["project"], options["mode"], options["dir"]) == ("stories", "offline", str(tmp_path))
    assert options["config"] == run().model_dump(mode="json")
    assert (options["settings"]["console"], options["settings"]["save_code"]) == ("off", False)


def test_a_resumed_run_has_the_same_id_and_logs_no_step_twice(package: FakeWandb, tmp_path: Path) -> None:
    WandbTracker(tmp_path, run(), fail_on_report)
    package.steps_known = 15
    resumed = WandbTracker(tmp_path, run(), fail_on_report)
    assert package.inits[0]["id"] == package.inits[1]["id"] == run_id(tmp_path)
    assert package.inits[1]["resume"] == "allow"
    for step in (10, 15, 20):
        resumed({**TRAIN, "step": step})
    assert [step for step, _ in package.logged] == [15, 20]


def test_scalars_texts_and_histograms_are_logged(package: FakeWandb, tmp_path: Path) -> None:
    tracker = WandbTracker(tmp_path, run(), fail_on_report)
    tracker(TRAIN)
    tracker({"kind": "sample", "step": 10, "prompt": "Once", "text": " upon"})
    tracker({"kind": "histograms", "step": 10, "histograms": {"weights/a": Histogram(0.0, 1.0, (1, 3))}})
    tracker.close()
    assert package.logged == [
        (10, {"train/loss": 2.0}),
        (10, {"sample/Once": "Once upon"}),
        (10, {"weights/a": ("histogram", ([1, 3], [0.0, 0.5, 1.0]))}),
    ]
    assert package.finished == 1


@pytest.mark.parametrize(("artifact", "count"), [("true", 1), ("false", 0)])
def test_the_model_is_uploaded_after_the_final_loss_unless_disabled(
    artifact: str, count: int, package: FakeWandb, tmp_path: Path
) -> None:
    tracker = WandbTracker(tmp_path, run(f"tracking.wandb.artifact={artifact}"), fail_on_report)
    tracker({"kind": "final", "step": 40, "loss": 1.0})
    assert len(package.artifacts) == count
    for uploaded in package.artifacts:
        assert uploaded.files[0] == str(tmp_path / "checkpoints" / "step-00000040" / "model.safetensors")


def test_the_url_of_an_online_run_is_reported(package: FakeWandb, tmp_path: Path) -> None:
    reports: list[str] = []
    WandbTracker(tmp_path, run("tracking.wandb.mode=online"), reports.append)
    assert reports == ["Weights & Biases: https://example.org/run"]


def test_an_online_run_without_an_account_names_offline_mode(package: FakeWandb, tmp_path: Path) -> None:
    package.logged_in = False
    with pytest.raises(RuntimeError, match=r"tracking\.wandb\.mode=offline needs no account"):
        WandbTracker(tmp_path, run("tracking.wandb.mode=online"), fail_on_report)


@pytest.mark.parametrize("damaged", [b"", b"\xff\x00", b"../../etc", b"x" * 100])
def test_a_damaged_id_is_replaced(damaged: bytes, tmp_path: Path) -> None:
    (tmp_path / "wandb-id").write_bytes(damaged)
    new = run_id(tmp_path)
    assert len(new) == 16
    assert run_id(tmp_path) == new


def test_the_wandb_package_accepts_the_settings(tmp_path: Path) -> None:
    """The fake accepts any setting; the package rejects unknown ones."""
    package: Any = pytest.importorskip("wandb")
    fake = FakeWandb()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "wandb", fake)
        WandbTracker(tmp_path, run(), fail_on_report)
    package.Settings(**fake.inits[0]["settings"])
