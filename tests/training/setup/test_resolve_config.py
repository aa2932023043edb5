"""Tests that lengths and milestones in other units become steps."""

from pathlib import Path

import pytest

from fabella.data.dataset import TokenizedDataset
from fabella.data.sequences import SequenceDataset
from fabella.errors import ConfigError
from fabella.training.schedule import sequences_before
from fabella.training.setup.resolve_config import is_resolved, resolve_config, tokens_per_word
from tests.training import tiny

STREAM = "data.mode.kind=streaming"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenizedDataset:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def test_a_length_in_tokens_is_the_fewest_steps_that_use_them(data: TokenizedDataset) -> None:
    for tokens in (1, 512, 513, 50_000):
        run = resolve_config(tiny.run(f"training.length={{max_tokens: {tokens}}}"), data)
        steps = getattr(run.training.length, "max_steps", 0)
        assert 32 * sequences_before(run.training, steps - 1) < tokens <= 32 * sequences_before(run.training, steps)
    stream = tiny.run(STREAM, "training.length.max_tokens=50000")
    assert resolve_config(stream, data).training.length == run.training.length


def test_milestones_become_steps_in_order_and_doubling_stays(data: TokenizedDataset) -> None:
    run = tiny.run("checkpoint.milestones=[doubling, 30, '512 tokens', 1 epochs, 1k tokens, 2]")
    assert not is_resolved(run)
    resolved = resolve_config(run, data)
    sequences = len(SequenceDataset(data.train, run.data.sequences, 0))
    epoch = next(step for step in range(1000) if sequences_before(run.training, step) >= sequences)
    assert resolved.checkpoint.milestones == (*sorted({30, 1, epoch, 2}), "doubling")
    assert is_resolved(resolved)
    assert resolve_config(resolved, data) == resolved


def test_words_are_counted_in_the_text_of_the_dataset(data: TokenizedDataset) -> None:
    text = data.tokenizer.decode(data.validation.read(0, data.validation.tokens).tolist())
    assert tokens_per_word(data) == data.validation.tokens / len(text.split())
    run = resolve_config(tiny.run("checkpoint.milestones=[1k words]"), data)
    (step,) = run.checkpoint.milestones
    tokens = 1000 * tokens_per_word(data)
    assert isinstance(step, int)
    assert 32 * sequences_before(run.training, step - 1) < tokens <= 32 * sequences_before(run.training, step)


@pytest.mark.parametrize("milestone", ["0", "-1", "10 pages", "words", "1e3 tokens", "''", "tripling", "true", "1.5"])
def test_an_unknown_milestone_is_refused_with_what_can_be_given(milestone: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.milestones"):
        tiny.run(f"checkpoint.milestones=[{milestone}]")


@pytest.mark.parametrize(
    ("setting", "instead"),
    [
        ("training.length.epochs=2", "training.length.max_steps"),
        ("validation.every_epochs=1", "set validation.every_steps"),
        ("checkpoint.every_epochs=1", "set checkpoint.every_steps"),
        ("samples.every_epochs=1", "set samples.every_steps"),
        ("checkpoint.milestones=[1 epochs]", "give them in steps, tokens or words"),
    ],
)
def test_epochs_of_a_stream_are_refused_with_what_to_set_instead(setting: str, instead: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"streaming does not know; ") as caught:
        tiny.run(STREAM, setting)
    assert instead in str(caught.value)


def test_the_checkpoints_kept_for_good_are_those_of_the_config_and_counted() -> None:
    config = tiny.run("checkpoint.keep_every_steps=10", "checkpoint.milestones=[1, 2, 39, doubling]").checkpoint
    assert [step for step in range(1, 41) if config.keeps(step)] == [1, 2, 4, 8, 10, 16, 20, 30, 32, 39, 40]
    for steps in range(1, 200):
        assert sum(config.keeps(step) for step in range(1, steps + 1)) <= config.max_kept(steps) <= steps // 10 + 11
    assert tiny.run().checkpoint.max_kept(10**6) == 0
