"""Tests that the samples of a checkpoint are the same whether logged in training or generated later."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import CheckpointError, UsageError
from fabella.evaluation.samples import SamplePrompts, collect_samples, training_prompts
from fabella.generation.sampling import SamplingParams
from fabella.runs.run_dir import RunDir
from fabella.training.run import start_run
from tests.training import tiny

PROMPTS = ("Once", "Tom said")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps with a sample every 10, a checkpoint every 5 and a validation every 7 steps."""
    directory = tmp_path_factory.mktemp("samples")
    config = tiny.run(f"samples.prompts={json.dumps(PROMPTS)}", "checkpoint.keep_last=9", steps=20)
    start_run(config, directory / "run", tiny.prepared(directory, config))
    return directory / "run"


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def saved_samples(folder: Path) -> SamplePrompts:
    return training_prompts(RunDir.open(folder).run)


def test_every_logged_or_saved_step_appears_once_by_prompt_and_step(folder: Path) -> None:
    result = collect_samples(folder, saved_samples(folder))
    steps = {5: "now", 7: "now", 10: "while training", 14: "now", 15: "now", 20: "while training"}
    assert steps.keys() >= set(RunDir.open(folder).steps())
    expected = [(step, how) for step, how in steps.items() if step in {*RunDir.open(folder).steps(), 10, 20}]
    for prompt in PROMPTS:
        assert [(sample.step, sample.generated) for sample in result.of(prompt)] == expected
    assert [sample.prompt for sample in result.samples] == sorted((s.prompt for s in result.samples), key=PROMPTS.index)
    assert result.warnings == ()


def test_a_checkpoint_generates_the_text_that_training_logged(folder: Path) -> None:
    while_training = collect_samples(folder, saved_samples(folder)).samples
    (folder / "samples.jsonl").unlink()
    now = collect_samples(folder, saved_samples(folder)).samples
    assert {sample.generated for sample in now} == {"now"}
    assert [(s.step, s.prompt, s.text, s.loss) for s in now] == [
        (s.step, s.prompt, s.text, s.loss) for s in while_training
    ]


def test_another_engine_generates_every_sample(folder: Path) -> None:
    result = collect_samples(
        folder, replace(saved_samples(folder), prompts=PROMPTS[:1], max_tokens=4), engine="jax"
    ).samples
    assert [sample.step for sample in result] == RunDir.open(folder).steps()
    assert {sample.generated for sample in collect_samples(folder, saved_samples(folder), engine="torch").samples} == {
        "now",
        "while training",
    }


def test_logged_samples_remain_when_checkpoints_are_deleted(folder: Path) -> None:
    all_samples = collect_samples(folder, saved_samples(folder))
    shutil.rmtree(folder / "checkpoints")
    remaining = collect_samples(folder, saved_samples(folder))
    assert remaining.samples == tuple(sample for sample in all_samples.samples if sample.generated == "while training")
    assert len(remaining.samples) == 4


def test_other_prompts_or_settings_use_checkpoints_only(folder: Path) -> None:
    greedy = SamplePrompts(("Once",), 12, SamplingParams(temperature=0.0))
    result = collect_samples(folder, greedy)
    assert [sample.step for sample in result.samples] == RunDir.open(folder).steps()
    assert {sample.generated for sample in result.samples} == {"now"}
    assert collect_samples(folder, greedy) == result


def test_validated_steps_have_their_validation_loss(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "validation"}
    samples = collect_samples(folder, saved_samples(folder)).samples
    assert {sample.loss for sample in samples if sample.step not in losses} == {None}
    assert all(sample.loss == losses[sample.step] for sample in samples if sample.step in losses)
    assert {sample.step for sample in samples} & losses.keys()


def test_a_damaged_checkpoint_is_skipped_with_a_warning(folder: Path) -> None:
    weights = folder / "checkpoints/step-00000005/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    result = collect_samples(folder, saved_samples(folder))
    assert 5 not in {sample.step for sample in result.samples}
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith("Skipped step-00000005: ")


def test_a_torn_last_line_is_ignored_and_a_damaged_line_is_an_error(folder: Path) -> None:
    all_samples = collect_samples(folder, saved_samples(folder))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"kind": "sam')
    assert collect_samples(folder, saved_samples(folder)) == all_samples
    (folder / "samples.jsonl").write_text('{"kind"\n')
    with pytest.raises(CheckpointError, match=r"samples\.jsonl, line 1: damaged"):
        collect_samples(folder, saved_samples(folder))


def test_no_checkpoint_and_no_prompt_are_errors(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match=r"has no checkpoint to generate from\. Train it: fabella resume "):
        collect_samples(folder, SamplePrompts(("Once",), 4, SamplingParams()))
    with pytest.raises(UsageError, match="No prompt"):
        SamplePrompts((), 4, SamplingParams())


def test_the_command_prints_samples_by_prompt_and_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["samples", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("At most 8 tokens, temperature 0.8, top-p 0.95, seed ")
    assert out.index("== Once\n") < out.index("-- step 10, generated while training\nOnce") < out.index("== Tom said\n")


def test_the_command_prints_one_json_object_and_accepts_other_settings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fabella(["samples", str(folder), "A", "A", "--temperature", "0", "--max-tokens", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["prompts"] == ["A"]
    assert (result["config"]["max_tokens"], result["config"]["sampling"]["temperature"]) == (3, 0.0)
    assert [sample["step"] for sample in result["samples"]] == RunDir.open(folder).steps()
    assert fabella(["samples", str(folder), "--temperature", "-1"]) == 2
    assert "temperature = -1.0 is out of range" in capsys.readouterr().err
