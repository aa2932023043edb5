"""What a run told from checkpoint to checkpoint: recorded or told now, it is the same text."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import CheckpointError, UsageError
from fabella.evaluation.samples import SamplePrompts, asked_in_training, collect_samples
from fabella.generation.sampling import SamplingParams
from fabella.runs.run_dir import RunDir
from fabella.training.run import start_run
from tests.training import tiny

PROMPTS = ("Once", "Tom said")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps: a sample every 10, a checkpoint every 5, all of them kept, a validation every 7."""
    place = tmp_path_factory.mktemp("told")
    of = tiny.run(f"samples.prompts={json.dumps(PROMPTS)}", "checkpoint.keep_last=9", steps=20)
    start_run(of, place / "run", tiny.prepared(place, of))
    return place / "run"


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def own(folder: Path) -> SamplePrompts:
    return asked_in_training(RunDir.open(folder).run)


def test_every_step_that_was_told_or_saved_is_there_once_by_prompt_and_step(folder: Path) -> None:
    found = collect_samples(folder, own(folder))
    steps = {5: "now", 7: "now", 10: "while training", 14: "now", 15: "now", 20: "while training"}
    assert steps.keys() >= set(RunDir.open(folder).steps())
    kept = [(step, how) for step, how in steps.items() if step in {*RunDir.open(folder).steps(), 10, 20}]
    for prompt in PROMPTS:
        assert [(sample.step, sample.completion) for sample in found.of(prompt)] == kept
    assert [sample.prompt for sample in found.samples] == sorted((s.prompt for s in found.samples), key=PROMPTS.index)
    assert found.remarks == ()


def test_a_checkpoint_tells_now_what_it_told_while_training(folder: Path) -> None:
    while_training = collect_samples(folder, own(folder)).samples
    (folder / "samples.jsonl").unlink()
    now = collect_samples(folder, own(folder)).samples
    assert {sample.completion for sample in now} == {"now"}
    assert [(s.step, s.prompt, s.text, s.loss) for s in now] == [
        (s.step, s.prompt, s.text, s.loss) for s in while_training
    ]


def test_the_other_engine_tells_everything_anew(folder: Path) -> None:
    found = collect_samples(folder, replace(own(folder), prompts=PROMPTS[:1], tokens=4), engine="jax").samples
    assert [sample.step for sample in found] == RunDir.open(folder).steps()
    assert {sample.completion for sample in collect_samples(folder, own(folder), engine="torch").samples} == {
        "now",
        "while training",
    }


def test_what_was_told_outlives_its_checkpoint(folder: Path) -> None:
    whole = collect_samples(folder, own(folder))
    shutil.rmtree(folder / "checkpoints")
    left = collect_samples(folder, own(folder))
    assert left.samples == tuple(sample for sample in whole.samples if sample.completion == "while training")
    assert len(left.samples) == 4


def test_other_prompts_or_settings_are_told_by_the_checkpoints_alone(folder: Path) -> None:
    greedy = SamplePrompts(("Once",), 12, SamplingParams(temperature=0.0))
    found = collect_samples(folder, greedy)
    assert [sample.step for sample in found.samples] == RunDir.open(folder).steps()
    assert {sample.completion for sample in found.samples} == {"now"}
    assert collect_samples(folder, greedy) == found


def test_the_validation_loss_stands_beside_the_steps_that_were_validated(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "validation"}
    samples = collect_samples(folder, own(folder)).samples
    assert {sample.loss for sample in samples if sample.step not in losses} == {None}
    assert all(sample.loss == losses[sample.step] for sample in samples if sample.step in losses)
    assert {sample.step for sample in samples} & losses.keys()


def test_a_damaged_checkpoint_is_passed_over_and_named(folder: Path) -> None:
    weights = folder / "checkpoints/step-00000005/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = collect_samples(folder, own(folder))
    assert 5 not in {sample.step for sample in found.samples}
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("step-00000005 was passed over: ")


def test_a_torn_last_line_is_left_out_and_a_damaged_one_named(folder: Path) -> None:
    whole = collect_samples(folder, own(folder))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"kind": "sam')
    assert collect_samples(folder, own(folder)) == whole
    (folder / "samples.jsonl").write_text('{"kind"\n')
    with pytest.raises(CheckpointError, match=r"samples\.jsonl, line 1: damaged"):
        collect_samples(folder, own(folder))


def test_nothing_to_tell_from_is_an_error_in_words(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match=r"has no checkpoint to tell from\. Train it: fabella resume "):
        collect_samples(folder, SamplePrompts(("Once",), 4, SamplingParams()))
    with pytest.raises(UsageError, match="There is no prompt"):
        SamplePrompts((), 4, SamplingParams())


def test_the_command_shows_prompt_by_prompt_and_step_by_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fabella(["samples", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("At most 8 tokens, temperature 0.8, top-p 0.95, seed ")
    assert out.index("== Once\n") < out.index("-- step 10, told while training\nOnce") < out.index("== Tom said\n")


def test_the_command_gives_one_json_object_and_takes_other_settings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fabella(["samples", str(folder), "A", "A", "--temperature", "0", "--tokens", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ask"]["prompts"] == ["A"]
    assert (found["ask"]["tokens"], found["ask"]["sampling"]["temperature"]) == (3, 0.0)
    assert [sample["step"] for sample in found["samples"]] == RunDir.open(folder).steps()
    assert fabella(["samples", str(folder), "--temperature", "-1"]) == 2
    assert "temperature = -1.0 is out of range" in capsys.readouterr().err
