"""What a run told from checkpoint to checkpoint: recorded or told now, it is the same text."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import CheckpointError, UsageError
from fabella.evaluation.samples import Ask, asked_in_training, told
from fabella.generation.sampling import Sampling
from fabella.runs.run_dir import RunFolder
from fabella.training.run import start
from tests.training import tiny

PROMPTS = ("Once", "Tom said")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps: a sample every 10, a checkpoint every 5, all of them kept, a validation every 7."""
    place = tmp_path_factory.mktemp("told")
    of = tiny.run(f"samples.prompts={json.dumps(PROMPTS)}", "checkpoint.keep=9", steps=20)
    start(of, place / "run", tiny.prepared(place, of))
    return place / "run"


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def own(folder: Path) -> Ask:
    return asked_in_training(RunFolder.open(folder).run)


def test_every_step_that_was_told_or_saved_is_there_once_by_prompt_and_step(folder: Path) -> None:
    found = told(folder, own(folder))
    steps = {5: "now", 7: "now", 10: "while training", 14: "now", 15: "now", 20: "while training"}
    assert steps.keys() >= set(RunFolder.open(folder).steps())
    kept = [(step, how) for step, how in steps.items() if step in {*RunFolder.open(folder).steps(), 10, 20}]
    for prompt in PROMPTS:
        assert [(sample.step, sample.told) for sample in found.of(prompt)] == kept
    assert [sample.prompt for sample in found.samples] == sorted((s.prompt for s in found.samples), key=PROMPTS.index)
    assert found.remarks == ()


def test_a_checkpoint_tells_now_what_it_told_while_training(folder: Path) -> None:
    while_training = told(folder, own(folder)).samples
    (folder / "samples.jsonl").unlink()
    now = told(folder, own(folder)).samples
    assert {sample.told for sample in now} == {"now"}
    assert [(s.step, s.prompt, s.text, s.loss) for s in now] == [
        (s.step, s.prompt, s.text, s.loss) for s in while_training
    ]


def test_the_other_engine_tells_everything_anew(folder: Path) -> None:
    found = told(folder, replace(own(folder), prompts=PROMPTS[:1], tokens=4), engine="jax").samples
    assert [sample.step for sample in found] == RunFolder.open(folder).steps()
    assert {sample.told for sample in told(folder, own(folder), engine="torch").samples} == {"now", "while training"}


def test_what_was_told_outlives_its_checkpoint(folder: Path) -> None:
    whole = told(folder, own(folder))
    shutil.rmtree(folder / "checkpoints")
    left = told(folder, own(folder))
    assert left.samples == tuple(sample for sample in whole.samples if sample.told == "while training")
    assert len(left.samples) == 4


def test_other_prompts_or_settings_are_told_by_the_checkpoints_alone(folder: Path) -> None:
    greedy = Ask(("Once",), 12, Sampling(temperature=0.0))
    found = told(folder, greedy)
    assert [sample.step for sample in found.samples] == RunFolder.open(folder).steps()
    assert {sample.told for sample in found.samples} == {"now"}
    assert told(folder, greedy) == found


def test_the_validation_loss_stands_beside_the_steps_that_were_validated(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if row["kind"] == "validation"}
    samples = told(folder, own(folder)).samples
    assert {sample.loss for sample in samples if sample.step not in losses} == {None}
    assert all(sample.loss == losses[sample.step] for sample in samples if sample.step in losses)
    assert {sample.step for sample in samples} & losses.keys()


def test_a_damaged_checkpoint_is_passed_over_and_named(folder: Path) -> None:
    weights = folder / "checkpoints/step-00000005/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    found = told(folder, own(folder))
    assert 5 not in {sample.step for sample in found.samples}
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("step-00000005 was passed over: ")


def test_a_torn_last_line_is_left_out_and_a_damaged_one_named(folder: Path) -> None:
    whole = told(folder, own(folder))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"kind": "sam')
    assert told(folder, own(folder)) == whole
    (folder / "samples.jsonl").write_text('{"kind"\n')
    with pytest.raises(CheckpointError, match=r"samples\.jsonl, line 1: damaged"):
        told(folder, own(folder))


def test_nothing_to_tell_from_is_an_error_in_words(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(CheckpointError, match=r"has no checkpoint to tell from\. Train it: fabella resume "):
        told(folder, Ask(("Once",), 4, Sampling()))
    with pytest.raises(UsageError, match="There is no prompt"):
        Ask((), 4, Sampling())


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
    assert [sample["step"] for sample in found["samples"]] == RunFolder.open(folder).steps()
    assert fabella(["samples", str(folder), "--temperature", "-1"]) == 2
    assert "temperature = -1.0 is out of bounds" in capsys.readouterr().err
