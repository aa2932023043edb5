"""Tests of the config that is suggested for a user's text."""

import re

import pytest

from fabella.config.data import BPE, Bytes, FilesSource
from fabella.config.training import MaxSteps
from fabella.run_config.files import apply_overrides, validate_config
from fabella.training.setup.suggest_config import advise, suggest_config
from tests.source_tree import REPOSITORY

SOURCE = FilesSource(paths=("mine.txt",))


@pytest.mark.parametrize(
    ("size", "tokenizer"),
    [
        (20_000, Bytes()),
        (1_100_000, BPE(vocab_size=1024)),
        (16_000_000, BPE(vocab_size=2048)),
        (10**9, BPE(vocab_size=4096)),
    ],
)
def test_the_vocabulary_grows_with_the_text(size: int, tokenizer: BPE | Bytes) -> None:
    run = suggest_config(SOURCE, "mine", size, gpu=False).run
    assert run.tokenizer == tokenizer
    assert run.model.vocab_size == getattr(tokenizer, "vocab_size", 256)


@pytest.mark.parametrize(("size", "steps"), [(1_000, 400), (1_100_000, 1646), (10**9, 6000)])
def test_the_length_is_about_ten_epochs_within_bounds(size: int, steps: int) -> None:
    assert suggest_config(SOURCE, "mine", size, gpu=False).run.training.length == MaxSteps(max_steps=steps)


@pytest.mark.parametrize(("size", "dropout"), [(1_000, 0.2), (150_000, 0.2), (1_100_000, 0.0), (10**9, 0.0)])
def test_a_text_that_is_read_many_times_is_learned_with_dropout(size: int, dropout: float) -> None:
    choice = suggest_config(SOURCE, "mine", size, gpu=False)
    assert choice.run.model_dump()["model"]["dropout"] == dropout
    assert ("with a dropout of 0.2 because the text is read many times" in choice.reasons["model"]) == bool(dropout)


def test_a_gpu_with_much_text_gets_a_larger_model() -> None:
    small, large = (suggest_config(SOURCE, "mine", 10**8, gpu=gpu).run.model for gpu in (False, True))
    assert sum(p.size for p in large.parameters().values()) > 20 * sum(p.size for p in small.parameters().values())


def test_the_reasons_are_printed() -> None:
    assert suggest_config(SOURCE, "mine", 1_100_000, gpu=False).reasons == {
        "tokenizer": "1.1 MB of text: BPE with 1,024 tokens.",
        "model": "CPU: a model with the shape of storybook-1m.",
        "training": "1,646 steps of 2,304 tokens: about 10 epochs.",
    }


@pytest.mark.parametrize(
    ("override", "left"),
    [
        ("seed=7", ["tokenizer", "model", "training"]),
        ("training.length.max_steps=10", ["tokenizer", "model"]),
        ("data.sequences.stride=64", ["tokenizer", "model"]),
        ("model.layers=2", ["tokenizer", "training"]),
        ("tokenizer.vocab_size=900", ["model", "training"]),
    ],
)
def test_a_setting_of_the_user_has_no_reason(override: str, left: list[str]) -> None:
    choice = suggest_config(SOURCE, "mine", 1_100_000, gpu=False)
    run = validate_config(apply_overrides(choice.run.model_dump(mode="json"), [override]))
    assert choice.reasons_for(run) == tuple(choice.reasons[section] for section in left)


def test_the_run_is_named_and_reads_the_source() -> None:
    run = suggest_config(SOURCE, "mine", 1_000, gpu=False).run
    assert (run.name, run.data.source) == ("mine", SOURCE)


def test_a_text_that_is_read_in_part_is_not_read_zero_times() -> None:
    reasons = {size: suggest_config(SOURCE, "mine", size, gpu=False).reasons["training"] for size in (10**8, 10**9)}
    assert reasons[10**9] == "6,000 steps of 2,304 tokens: about 5.3 % of the text."
    assert reasons[10**8].endswith("about 52.5 % of the text.")


@pytest.mark.parametrize("size", [1_000, 400_000, 10_000_000, 10**9])
def test_train_check_data_and_the_readme_name_the_same_model_for_a_text(size: int) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    named = re.search(r"your own text starts from `([\w-]+)`", readme)
    assert named
    chosen = suggest_config(SOURCE, "mine", size, gpu=False)
    assert chosen.reasons["model"].startswith(f"CPU: a model with the shape of {named[1]}")
    assert advise(SOURCE, size)[: len(chosen.reasons)] == list(chosen.reasons.values())
