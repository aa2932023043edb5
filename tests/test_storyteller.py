"""Tests that the included model works wherever a run is read, without any training."""

from pathlib import Path

import pytest

import fabella
from fabella.cli.main import run as command
from fabella.generation.sampling import SamplingParams
from fabella.runs.branch import load_initial_weights
from fabella.runs.run_dir import RunDir
from fabella.storyteller import NAME, run_or_included

MAX_BYTES = 5_000_000


@pytest.fixture(scope="module")
def storyteller() -> Path:
    return run_or_included(Path(NAME))


def test_it_is_small_and_has_no_optimizer_state(storyteller: Path) -> None:
    files = [path for path in storyteller.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
    assert "optimizer.safetensors" not in {path.name for path in files}


def test_it_continues_a_prompt_and_repeats_itself_with_a_seed() -> None:
    generator = fabella.load(NAME)
    first, again = (
        generator.generate("Once upon a time", SamplingParams(seed=1), max_tokens=60)[0].completion for _ in range(2)
    )
    assert first == again
    assert len(first.split()) >= 10


def test_it_knows_stories_better_than_other_text() -> None:
    generator = fabella.load(NAME)
    story = "One day, a little girl named Lily went to the park with her mom. She saw a big dog and was very happy."
    other = "The committee approves amendments whenever quorum requirements under section four have been satisfied."
    scores = [generator.perplexity(text).bits_per_byte for text in (story, other)]
    assert scores[0] < 0.9 < 2.0 < scores[1]


def test_its_family_is_decoded_natively() -> None:
    generator = fabella.load(NAME)
    assert not [warning for warning in generator.warnings if generator.config.family in warning]
    assert RunDir.open(run_or_included(Path(NAME))).run.model.family == "hybrid"


def test_generate_takes_a_prompt_in_the_place_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["generate", "Once upon a time", "--max-tokens", "20", "--seed", "3"]) == 0
    by_prompt = capsys.readouterr().out
    assert by_prompt.startswith("Once upon a time")
    assert command(["generate", NAME, "Once upon a time", "--max-tokens", "20", "--seed", "3"]) == 0
    assert capsys.readouterr().out == by_prompt


def test_a_prompt_may_be_longer_than_a_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    prompt = "Once upon a time, there was a very long road. " * 10
    assert command(["generate", prompt, "The end", "--max-tokens", "2", "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith(prompt)


def test_a_word_that_is_no_run_is_not_taken_for_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["generate", "runs/quikstart"]) != 0
    assert "runs/quikstart" in capsys.readouterr().err


def test_a_directory_of_this_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_or_included(Path(NAME)) == Path(NAME)


def test_training_can_begin_with_its_weights(storyteller: Path) -> None:
    initial = load_initial_weights(Path(NAME))
    assert initial.run_dir.path == storyteller
    assert set(initial.weights) == set(initial.run.model.parameters())


def test_it_has_the_config_of_its_training(storyteller: Path) -> None:
    run = RunDir.open(storyteller).run
    assert run.name == NAME
