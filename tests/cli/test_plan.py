"""Tests of the command `fabella plan`."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run
from fabella.data.prepare.pipeline import prepare
from fabella.planning import estimate as planning
from fabella.planning.probe import ProbeResult
from fabella.training.run import start_run
from tests.training import tiny


def test_plan_prints_memory_steps_disk_and_whether_the_run_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "minigpt-100m", "--no-measure", "--memory", "16GB"]) == 0
    printed = capsys.readouterr().out
    for line in (
        "minigpt-100m: 105,204,480 parameters, 92,621,568 non-embedding",
        "  421 MB  weights",
        "steps      20,312, sequences per step: 512, 1,024 from step 8,750, 2,048 from step 13,125; 512 tokens each",
        "           12,123,635,712 tokens",
        "time       not measured (remove --no-measure)",
        "It does not fit into memory: 16 GB memory are allowed by --memory.",
        "Try fabella batch-size, training.gradient_checkpointing=blocks, or a shorter data.sequences.length.",
    ):
        assert line in printed.splitlines()
    assert (
        run(["plan", "minigpt-100m", "--no-measure", "--memory", "16GB", "training.gradient_checkpointing=blocks"]) == 0
    )
    assert "It fits: 16 GB memory are allowed by --memory.\n" in capsys.readouterr().out


def test_plan_measures_the_time_in_real_steps_of_prepared_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = tiny.run()
    data = prepare(of.data, of.tokenizer, tmp_path / "prepared", workers=1)
    settings = [setting for setting in tiny.SETTINGS if not setting.startswith(("data.", "tokenizer."))]
    assert run(["plan", "storybook-1m", *settings, "data.sequences.length=32", "--data", str(data.path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["trial"] == "fits"
    assert facts["seconds"] > 0
    assert facts["tokens_per_second"] > 0
    assert facts["measured_peak_bytes"] > 10**7
    assert facts["epochs"] > 0
    assert (facts["fits_memory"], facts["fits_disk"]) == (True, True)
    assert facts["sequences_per_step"] == [[0, 16], [12, 24], [20, 32]]


def test_plan_of_a_started_run_prints_the_remaining_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(run: Any, micro_batch_size: int, *rest: Any) -> ProbeResult:
        return ProbeResult(micro_batch_size=micro_batch_size, seconds=0.5, update_seconds=0.25)

    out = start_run(tiny.run(steps=15), tmp_path / "run", tiny.prepared(tmp_path)).path
    printed: dict[int, dict[str, Any]] = {}
    for steps in (15, 30, 60):
        assert run(["plan", str(out), "--steps", str(steps), "--json"]) == 0
        printed[steps] = json.loads(capsys.readouterr().out)
        # Measure only the first: on a busy machine the longer of two others could be the faster one.
        monkeypatch.setattr(planning, "probe_batch_size", same)
    assert {facts["steps_taken"] for facts in printed.values()} == {15}
    assert (printed[15]["trial"], printed[15]["seconds"]) == ("fits", 0)
    assert printed[15]["tokens_per_second"] > 0
    assert printed[30]["seconds"] == 5 * (3 * 0.5 + 0.25) + 10 * (4 * 0.5 + 0.25), "micro-batches: 3, from step 20 on 4"
    assert printed[60]["seconds"] == printed[30]["seconds"] + 30 * (4 * 0.5 + 0.25)
    assert printed[15]["disk_needed_bytes"] < 4 * printed[15]["checkpoint_bytes"]
    assert run(["plan", str(out), "--steps", "40", "--no-measure"]) == 0
    assert "           15 steps done, 25 remaining" in capsys.readouterr().out.splitlines()


@pytest.mark.fault("D9", cases=1)
def test_a_trial_killed_for_memory_does_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        planning, "probe_batch_size", lambda run, size, *rest: ProbeResult(micro_batch_size=size, reason="killed")
    )
    assert run(["plan", "storybook-1m", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["trial"], facts["fits_memory"], facts["seconds"]) == ("killed", False, None)
    assert run(["plan", "storybook-1m"]) == 0
    assert "the trial was killed, probably because the machine ran out of memory" in capsys.readouterr().out


def test_a_trial_that_took_too_long_is_no_lack_of_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        planning, "probe_batch_size", lambda run, size, *rest: ProbeResult(micro_batch_size=size, reason="time")
    )
    assert run(["plan", "storybook-1m", "--memory", "16GB", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["trial"], facts["fits_memory"], facts["seconds"]) == ("time", True, None)
    assert (facts["tokens_per_second"], facts["measured_peak_bytes"]) == (None, None)
    assert run(["plan", "storybook-1m", "--memory", "16GB"]) == 0
    printed = capsys.readouterr().out
    assert "time       not measured: a few steps took longer than --measure-timeout\n" in printed
    assert "It fits by the estimate: 16 GB memory are allowed by --memory.\n" in printed
    assert run(["plan", "storybook-1m", "--memory", "300MB"]) == 0
    assert (
        "It does not fit into memory by the estimate: 300 MB memory are allowed by --memory." in capsys.readouterr().out
    )


def test_plan_of_a_text_prints_the_reasons_for_its_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "tales.txt"
    text.write_text("Once upon a time there was a fox.\n\n" * 200)
    assert run(["plan", str(text), "--no-measure"]) == 0
    printed = capsys.readouterr()
    assert "a model with the shape of storybook-1m" in printed.err
    assert "tales: " in printed.out
