"""Tests that a section of the GPU check passes on sound code and fails on broken code."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_check import decoding_torch, environment_torch, kernels_torch, kill, parity_torch, steps_torch
from benchmarks.gpu_check.child import examine, run_section
from benchmarks.gpu_check.sections import SECTIONS, Section, Settings, SkipCaseError, Values

Cases = dict[str, dict[str, Any]]


def settings(directory: Path) -> Settings:
    return Settings(device="cpu", tiny=True, directory=str(directory), limit_seconds=60.0)


def cases_of(name: str, directory: Path) -> Cases:
    """Return what a section writes."""
    section = next(section for section in SECTIONS if section.name == name)
    run_section(section, settings(directory), directory / "result.json")
    return json.loads((directory / "result.json").read_text(encoding="utf-8"))["cases"]


def statuses(cases: Cases) -> set[str]:
    return {case["status"] for case in cases.values()}


def skip() -> Values:
    raise SkipCaseError("no such device")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda: {"passed": True, "speed": 2.0}, {"status": "passed", "speed": 2.0}),
        (lambda: {"passed": False, "speed": 2.0}, {"status": "failed", "speed": 2.0}),
        (skip, {"status": "skipped", "reason": "no such device"}),
        (lambda: {"passed": 1 / 0}, {"status": "failed", "error": "ZeroDivisionError: division by zero"}),
    ],
)
def test_a_case_becomes_its_status_and_its_values(function: Callable[[], Values], expected: Values) -> None:
    assert expected.items() <= examine(function).items()


def test_results_are_written_after_every_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_settings: Settings) -> Iterator[tuple[str, Callable[[], Values]]]:
        yield "first", lambda: {"passed": True}
        raise RuntimeError("the process crashes here")

    monkeypatch.setattr(steps_torch, "syncs", endless)
    with pytest.raises(RuntimeError, match="crashes"):
        cases_of("syncs", tmp_path)
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert statuses(written["cases"]) == {"passed"}


def test_a_section_that_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(_settings: Settings) -> Iterator[Any]:
        yield from ()
        skip()

    monkeypatch.setattr(steps_torch, "syncs", impossible)
    assert cases_of("syncs", tmp_path) == {}
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["skipped"] == "no such device"


def test_every_section_has_its_function() -> None:
    modules = {section.name: section.module for section in SECTIONS}
    assert len(modules) == len(SECTIONS) == 14
    for section in SECTIONS:
        if section.name != "jax":
            assert isinstance(section, Section)
            assert hasattr(__import__(f"benchmarks.gpu_check.{section.module}", fromlist=["x"]), section.name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["defaults", "loss", "scan", "parity"])
def test_a_section_passes_on_a_cpu(name: str, tmp_path: Path) -> None:
    assert statuses(cases_of(name, tmp_path)) == {"passed"}


def scaled(function: Callable[..., Any], factor: float) -> Callable[..., Any]:
    return lambda *arguments, **named: function(*arguments, **named) * factor


def test_a_recurrence_that_is_off_by_a_thousandth_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_torch, "recur", scaled(kernels_torch.recur, 1.001))
    assert cases_of("scan", tmp_path)["accuracy"]["status"] == "failed"


def test_a_loss_that_is_off_by_a_tenth_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_torch, "linear_cross_entropy", scaled(kernels_torch.linear_cross_entropy, 1.1))
    assert cases_of("loss", tmp_path)["loss of tiny"]["status"] == "failed"


def test_another_loss_than_that_of_the_cpu_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, weights = itertools.count(), parity_torch.initial_weights
    # The first call is the reference, the second the device.
    monkeypatch.setattr(parity_torch, "initial_weights", lambda table, seed: weights(table, seed + next(calls)))
    case = examine(lambda: parity_torch.examine_parity(settings(tmp_path), "mingru-17m", "float32"))
    assert case["status"] == "failed"


def test_steps_with_other_bits_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, create = itertools.count(), steps_torch.create_engine
    monkeypatch.setattr(
        steps_torch, "create_engine", lambda run, device: create(run.model_copy(update={"seed": next(seeds)}), device)
    )
    case = examine(lambda: steps_torch.examine_repetition(settings(tmp_path), "minigpt-100m"))
    assert (case["status"], case["equal"]) == ("failed", False)


def test_a_loss_that_is_not_finite_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        def read(self) -> dict[str, float]:
            return {"loss": float("nan")}

    class Broken:
        def step(self, batch: Any, lr: float) -> Result:
            del batch, lr
            return Result()

    monkeypatch.setattr(steps_torch, "create_engine", lambda run, device: Broken())
    assert statuses(cases_of("syncs", tmp_path)) == {"failed"}


def test_a_token_that_is_not_the_most_likely_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        decoding_torch, "generate", lambda model, prompts, *_, max_tokens, **__: iter([[3] * len(prompts)] * max_tokens)
    )
    case = examine(lambda: decoding_torch.examine_decoding(settings(tmp_path), "mingru-17m", 1, 1e9))
    assert case["status"] == "failed"


def test_a_missing_interface_of_pytorch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_torch, "INTERFACES", ("torch.optim.AdamW", "torch.optim.AdamZ", "torch.no.thing"))
    case = examine(environment_torch.examine_interfaces)
    assert (case["status"], case["missing"]) == ("failed", ["torch.optim.AdamZ", "torch.no.thing"])


def test_checkpoints_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for name, value in (("one", 0.0), ("same", 0.0), ("other", 1.0)):
        folder = tmp_path / name / "checkpoints" / "step-00000060"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(np.array([value]).tobytes())
        (folder / "state.json").write_text(name)
    one, same, other = (kill.checkpoint(tmp_path / name, 60) for name in ("one", "same", "other"))
    assert one == same != other
    assert kill.latest_step(tmp_path / "one") == 60
    assert kill.latest_step(tmp_path / "missing") == 0
