"""`fabella plan`, as a user meets it."""

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


def test_a_plan_tells_memory_steps_disk_and_whether_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "minigpt-100m", "--no-measure", "--memory", "16GB"]) == 0
    told = capsys.readouterr().out
    for line in (
        "minigpt-100m: 105,204,480 parameters, 92,621,568 without embeddings",
        "  421 MB  weights",
        "steps      20,312, of windows: 512, 1,024 from step 8,750, 2,048 from step 13,125; 512 tokens each",
        "           12,123,635,712 tokens",
        "time       not measured (leave out --no-measure)",
        "It does not fit into memory: 16 GB of 16 GB memory are free.",
        "Try fabella batch-size, training.gradient_checkpointing=blocks, or a shorter data.sequences.length.",
    ):
        assert line in told.splitlines()
    assert (
        run(["plan", "minigpt-100m", "--no-measure", "--memory", "16GB", "training.gradient_checkpointing=blocks"]) == 0
    )
    assert "It fits: 16 GB of 16 GB memory are free.\n" in capsys.readouterr().out


def test_measured_in_real_steps_of_prepared_data_it_tells_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = tiny.run()
    data = prepare(of.data, of.tokenizer, tmp_path / "prepared", workers=1)
    words = [word for word in tiny.SETTINGS if not word.startswith(("data.", "tokenizer."))]
    assert run(["plan", "storybook-1m", *words, "data.sequences.length=32", "--data", str(data.folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["trial"] == "fits"
    assert facts["seconds"] > 0
    assert facts["tokens_per_second"] > 0
    assert facts["measured_peak_bytes"] > 10**7
    assert facts["epochs"] > 0
    assert (facts["fits_memory"], facts["fits_disk"]) == (True, True)
    assert facts["windows_per_step"] == [[0, 16], [12, 24], [20, 32]]


def test_of_a_run_that_has_begun_it_tells_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(run: Any, micro_batch: int, *rest: Any) -> ProbeResult:
        return ProbeResult(micro_batch=micro_batch, seconds=0.5, seconds_of_update=0.25)

    out = start_run(tiny.run(steps=15), tmp_path / "run", tiny.prepared(tmp_path)).folder
    told: dict[int, dict[str, Any]] = {}
    for steps in (15, 30, 60):
        assert run(["plan", str(out), "--steps", str(steps), "--json"]) == 0
        told[steps] = json.loads(capsys.readouterr().out)
        # The first is measured; of two others the longer one would be the faster one where the machine is busy.
        monkeypatch.setattr(planning, "try_out", same)
    assert {facts["steps_taken"] for facts in told.values()} == {15}
    assert (told[15]["trial"], told[15]["seconds"]) == ("fits", 0)
    assert told[15]["tokens_per_second"] > 0
    assert told[30]["seconds"] == 5 * (3 * 0.5 + 0.25) + 10 * (4 * 0.5 + 0.25), "micro-batches: 3, from step 20 on 4"
    assert told[60]["seconds"] == told[30]["seconds"] + 30 * (4 * 0.5 + 0.25)
    assert told[15]["disk_needed_bytes"] < 4 * told[15]["checkpoint_bytes"]
    assert run(["plan", str(out), "--steps", "40", "--no-measure"]) == 0
    assert "           15 steps are taken, 25 are left" in capsys.readouterr().out.splitlines()


@pytest.mark.fault("D9", cases=1)
def test_a_trial_killed_for_memory_is_an_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "try_out", lambda run, size, *rest: ProbeResult(micro_batch=size, reason="killed"))
    assert run(["plan", "storybook-1m", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["trial"], facts["fits_memory"], facts["seconds"]) == ("killed", False, None)
    assert run(["plan", "storybook-1m"]) == 0
    assert "the trial was killed, as the system does when its memory ends" in capsys.readouterr().out


def test_a_text_is_planned_with_the_reasons_of_its_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "tales.txt"
    text.write_text("Once upon a time there was a fox.\n\n" * 200)
    assert run(["plan", str(text), "--no-measure"]) == 0
    told = capsys.readouterr()
    assert "a model with the shape of storybook-1m" in told.err
    assert "tales: " in told.out
