"""Texts told side by side are the texts told alone, whatever their lengths and whichever the family."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fabella.engine.engine_torch import load_model
from fabella.errors import NumericsError, TokenizerError, UsageError
from fabella.generation.context_shift import context_start
from fabella.generation.generate_torch import generate
from fabella.generation.sampling import SamplingParams, uniforms
from fabella.generation.sampling_torch import sample
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module, family_names
from tests.generation.fake_model import Config, Hashing

HOT = SamplingParams(temperature=1.0, top_p=1.0, seed=11)


def real(family: str, context_length: int = 12) -> nn.Module:
    """A tiny untrained model of a family, its weights made larger so that its choices are no even guess."""
    tiny: ModelConfig = family_module(family).Config.tiny()
    config = tiny.model_copy(update={"context_length": context_length})
    weights = initial_weights(config.parameters(), seed=5)
    louder = {name: array * 3 if array.ndim == 2 else array for name, array in weights.items()}
    return load_model(config, louder, "cpu")


def told(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    *,
    max_tokens: int,
    rows: Sequence[int] = (),
    **options: int,
) -> list[list[int]]:
    """The first ``max_tokens`` ids that each prompt gains."""
    ids = [np.array(prompt, dtype=np.int32) for prompt in prompts]
    steps = generate(
        model,
        ids,
        sampling,
        rows=rows or [0] * len(ids),
        max_tokens=max_tokens,
        **{"vocab_size": model.config.vocab_size, **options},
    )
    completions = [list(column) for column in zip(*steps, strict=True)]
    assert all(len(ids) == max_tokens and min(ids) >= 0 for ids in completions)
    return completions


def by_definition(
    model: Hashing, prompt: list[int], sampling: SamplingParams, max_tokens: int, context_length: int
) -> list[int]:
    """Token by token, each read from the beginning of its window, with nothing kept."""
    ids = list(prompt)
    numbers = torch.from_numpy(uniforms(sampling.seed, 0, max_tokens))
    for number in numbers:
        window = torch.tensor([ids[context_start(len(ids), context_length) :]])
        logits, _ = model.decode(window, model.init_state(1, window.shape[1]))
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, ids] = True
        ids += sample(logits, sampling, number.reshape(1), seen).tolist()
    return ids[len(prompt) :]


PROMPTS = st.lists(st.lists(st.integers(0, 31), min_size=1, max_size=40), min_size=1, max_size=5)
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**63 - 1),
)


@given(prompts=PROMPTS, sampling=SAMPLINGS, max_tokens=st.integers(1, 40), endless=st.booleans())
def test_every_text_is_the_one_told_alone_by_definition(
    prompts: list[list[int]], sampling: SamplingParams, max_tokens: int, endless: bool
) -> None:
    """Prompts shorter and longer than the context of 16, side by side, each outgrowing it at its own time."""
    model = Hashing(Config(endless=endless))
    together = told(model, prompts, sampling, max_tokens=max_tokens)
    for prompt, text in zip(prompts, together, strict=True):
        assert text == by_definition(model, prompt, sampling, max_tokens, 2**31 - 1 if endless else 16)


@settings(max_examples=10)
@given(prompts=PROMPTS, seed=st.integers(0, 2**63 - 1), family=st.sampled_from(family_names()))
def test_the_same_holds_for_every_family(prompts: list[list[int]], seed: int, family: str) -> None:
    model, sampling = real(family), SamplingParams(temperature=1.0, top_p=0.95, seed=seed)
    together = told(model, prompts, sampling, max_tokens=20)
    assert together == [told(model, [prompt], sampling, max_tokens=20)[0] for prompt in prompts]


@given(prompts=PROMPTS, row=st.integers(0, 100))
def test_samples_of_one_prompt_are_numbered_and_each_number_has_its_own_text(
    prompts: list[list[int]], row: int
) -> None:
    model = Hashing(Config())
    alone = told(model, prompts[:1], HOT, rows=[row], max_tokens=20)
    beside = told(model, [prompts[-1], prompts[0], prompts[0]], HOT, rows=[3, row, row + 1], max_tokens=20)
    assert beside[1] == alone[0]
    assert beside[2] != alone[0]


def test_a_shorter_limit_tells_the_beginning_of_the_same_text() -> None:
    model = Hashing(Config())
    assert told(model, [[1, 2]], HOT, max_tokens=9)[0] == told(model, [[1, 2]], HOT, max_tokens=70)[0][:9]


@pytest.mark.parametrize("family", family_names())
def test_greedy_text_is_the_most_likely_continuation_of_the_whole(family: str) -> None:
    model = real(family, context_length=64)
    prompt = [3, 1, 4, 1, 5]
    text = told(model, [prompt], SamplingParams(temperature=0), max_tokens=30)[0]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + text]))[0]
    assert logits[4:-1].argmax(-1).tolist() == text


def test_a_bounded_model_is_never_read_beyond_its_context_and_fills_it() -> None:
    model = Hashing(Config(context_length=16))
    told(model, [[1] * 5, [2] * 30], HOT, max_tokens=60)
    assert model.longest == 16


def test_a_shorter_context_may_be_asked_for() -> None:
    model = Hashing(Config(context_length=16))
    text = told(model, [[1, 2, 3]], HOT, max_tokens=40, context_length=6)[0]
    assert model.longest == 6
    assert text == by_definition(model, [1, 2, 3], HOT, 40, context_length=6)


def test_a_recurrent_model_never_forgets() -> None:
    model = Hashing(Config(context_length=16, endless=True))
    told(model, [[1] * 5, [2] * 30], HOT, max_tokens=60)
    assert model.longest == 30 + 60 - 1


def test_ids_that_the_tokenizer_lacks_are_never_chosen() -> None:
    model = Hashing(Config(vocab_size=32))
    flat = SamplingParams(temperature=100.0, top_p=1.0)
    assert set(told(model, [[1]], flat, max_tokens=600, vocab_size=20)[0]) == set(range(20))


def test_a_penalty_makes_a_text_repeat_less_and_the_opening_is_no_repetition() -> None:
    config = Config(vocab_size=8, context_length=64)
    model = Hashing(config, spread=0.1)
    nn.init.constant_(model.table, 1.0)
    model.table[:, 3] = 1.5
    much = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert told(model, [[3]], SamplingParams(temperature=0), max_tokens=3) == [[3, 3, 3]]
    assert told(model, [[3]], much, max_tokens=3) == [[0, 1, 2]]
    assert told(model, [[3, 0]], much, max_tokens=3, num_prefix_tokens=1) == [[3, 1, 2]]


def test_a_prompt_beyond_the_vocabulary_is_named() -> None:
    with pytest.raises(TokenizerError) as error:
        told(Hashing(Config(vocab_size=32)), [[1, 2], [5, 32, 40]], HOT, max_tokens=1)
    assert str(error.value) == (
        "Token id 32 of the prompt is outside the model's vocabulary of 32 ids. "
        "Encode the prompt with the tokenizer of the run."
    )
    with pytest.raises(TokenizerError, match=r"^Token id -1 of the prompt"):
        told(Hashing(Config()), [[-1]], HOT, max_tokens=1)


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_a_prompt_without_tokens_is_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="The prompt has no tokens"):
        told(Hashing(Config()), prompts, HOT, max_tokens=1)


def test_a_broken_model_is_an_error_not_a_text() -> None:
    model = Hashing(Config())
    nn.init.constant_(model.table, float("nan"))
    with pytest.raises(NumericsError, match="maximum is nan"):
        told(model, [[1]], HOT, max_tokens=5)


def test_telling_leaves_no_mode_behind_and_draws_no_random_number_of_torch() -> None:
    """Training goes on around it: a gradient can be taken between two tokens, and dropout is not shifted."""
    before = torch.get_rng_state()
    steps = generate(Hashing(Config()), [np.array([1], dtype=np.int32)], HOT, rows=[0], max_tokens=3, vocab_size=32)
    for _ in steps:
        assert not torch.is_inference_mode_enabled()
        (torch.ones(1, requires_grad=True) * 2).backward()
    assert torch.equal(torch.get_rng_state(), before)
