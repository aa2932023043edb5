"""Tests that sequences decoded in one batch equal those decoded one by one, for prompts of any length."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fabella.engine.build_model_torch import load_model
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


def untrained(family: str, context_length: int = 12) -> nn.Module:
    """Return a tiny untrained model of a family; larger weights make the logits differ more."""
    tiny: ModelConfig = family_module(family).Config.tiny()
    config = tiny.model_copy(update={"context_length": context_length})
    weights = initial_weights(config.parameters(), seed=5)
    scaled = {name: array * 3 if array.ndim == 2 else array for name, array in weights.items()}
    return load_model(config, scaled, "cpu")


def complete(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    *,
    max_tokens: int,
    rows: Sequence[int] = (),
    **options: int,
) -> list[list[int]]:
    """Return the ``max_tokens`` generated ids of each prompt."""
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
    """Return the generated ids, each from a forward pass over the whole context, without a state."""
    ids, counts = list(prompt), torch.zeros(model.config.vocab_size, dtype=torch.float64)
    bias = torch.zeros_like(counts)
    for token, value in sampling.logit_bias:
        bias[token] = value
    numbers = torch.from_numpy(uniforms(sampling.seed, 0, max_tokens))
    for number in numbers:
        inputs = torch.tensor([ids[context_start(len(ids), context_length) :]])
        logits, _ = model.decode(inputs, model.init_state(1, inputs.shape[1]))
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, ids] = True
        added = bias - counts * sampling.frequency_penalty - (counts > 0) * sampling.presence_penalty
        ids += sample(logits, sampling, number.reshape(1), seen, added.float()[None]).tolist()
        counts[ids[-1]] += 1
    return ids[len(prompt) :]


PROMPTS = st.lists(st.lists(st.integers(0, 31), min_size=1, max_size=40), min_size=1, max_size=5)
SAMPLINGS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.8, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.5, -0.25]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5]),
    logit_bias=st.sampled_from([(), (), ((3, 4.0), (7, -100.0))]),
    seed=st.integers(0, 2**63 - 1),
)


@given(prompts=PROMPTS, sampling=SAMPLINGS, max_tokens=st.integers(1, 40), endless=st.booleans())
def test_every_sequence_of_a_batch_equals_its_definition(
    prompts: list[list[int]], sampling: SamplingParams, max_tokens: int, endless: bool
) -> None:
    """Prompts are shorter and longer than the context of 16, and each sequence shifts it at another step."""
    model = Hashing(Config(endless=endless))
    batched = complete(model, prompts, sampling, max_tokens=max_tokens)
    for prompt, completion in zip(prompts, batched, strict=True):
        assert completion == by_definition(model, prompt, sampling, max_tokens, 2**31 - 1 if endless else 16)


@settings(max_examples=10)
@given(prompts=PROMPTS, seed=st.integers(0, 2**63 - 1), family=st.sampled_from(family_names()))
def test_a_batch_equals_single_sequences_for_every_family(prompts: list[list[int]], seed: int, family: str) -> None:
    model, sampling = untrained(family), SamplingParams(temperature=1.0, top_p=0.95, seed=seed)
    batched = complete(model, prompts, sampling, max_tokens=20)
    assert batched == [complete(model, [prompt], sampling, max_tokens=20)[0] for prompt in prompts]


@given(prompts=PROMPTS, row=st.integers(0, 100))
def test_a_completion_depends_on_its_row_number_and_not_on_the_batch(prompts: list[list[int]], row: int) -> None:
    model = Hashing(Config())
    single = complete(model, prompts[:1], HOT, rows=[row], max_tokens=20)
    batched = complete(model, [prompts[-1], prompts[0], prompts[0]], HOT, rows=[3, row, row + 1], max_tokens=20)
    assert batched[1] == single[0]
    assert batched[2] != single[0]


def test_fewer_tokens_are_the_start_of_the_same_completion() -> None:
    model = Hashing(Config())
    assert complete(model, [[1, 2]], HOT, max_tokens=9)[0] == complete(model, [[1, 2]], HOT, max_tokens=70)[0][:9]


@pytest.mark.parametrize("family", family_names())
def test_greedy_decoding_takes_the_argmax_of_the_full_forward_pass(family: str) -> None:
    model = untrained(family, context_length=64)
    prompt = [3, 1, 4, 1, 5]
    completion = complete(model, [prompt], SamplingParams(temperature=0), max_tokens=30)[0]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + completion]))[0]
    assert logits[4:-1].argmax(-1).tolist() == completion


def test_a_model_with_a_context_length_gets_at_most_that_many_tokens() -> None:
    model = Hashing(Config(context_length=16))
    complete(model, [[1] * 5, [2] * 30], HOT, max_tokens=60)
    assert model.longest == 16


def test_context_length_can_be_lower_than_the_models() -> None:
    model = Hashing(Config(context_length=16))
    completion = complete(model, [[1, 2, 3]], HOT, max_tokens=40, context_length=6)[0]
    assert model.longest == 6
    assert completion == by_definition(model, [1, 2, 3], HOT, 40, context_length=6)


def test_a_recurrent_model_never_shifts_its_context() -> None:
    model = Hashing(Config(context_length=16, endless=True))
    complete(model, [[1] * 5, [2] * 30], HOT, max_tokens=60)
    assert model.longest == 30 + 60 - 1


def test_ids_outside_the_tokenizer_are_never_sampled() -> None:
    model = Hashing(Config(vocab_size=32))
    flat = SamplingParams(temperature=100.0, top_p=1.0)
    assert set(complete(model, [[1]], flat, max_tokens=600, vocab_size=20)[0]) == set(range(20))


def test_the_repetition_penalty_applies_to_prompt_and_completion_without_the_prefix() -> None:
    config = Config(vocab_size=8, context_length=64)
    model = Hashing(config, spread=0.1)
    nn.init.constant_(model.table, 1.0)
    model.table[:, 3] = 1.5
    penalized = SamplingParams(temperature=0, repetition_penalty=2.0)
    assert complete(model, [[3]], SamplingParams(temperature=0), max_tokens=3) == [[3, 3, 3]]
    assert complete(model, [[3]], penalized, max_tokens=3) == [[0, 1, 2]]
    assert complete(model, [[3, 0]], penalized, max_tokens=3, num_prefix_tokens=1) == [[3, 1, 2]]


def test_frequency_and_presence_penalties_count_the_completion_and_not_the_prompt() -> None:
    model = Hashing(Config(vocab_size=8, context_length=64), spread=0.1)
    nn.init.constant_(model.table, 1.0)
    model.table[:, 3] = 1.9
    model.table[:, 5] = 1.5

    def greedy(**penalties: float) -> list[int]:
        return complete(model, [[3, 3, 3]], SamplingParams(temperature=0, **penalties), max_tokens=4)[0]  # type: ignore[arg-type]

    assert greedy() == [3, 3, 3, 3]
    assert greedy(frequency_penalty=0.25) == [3, 3, 5, 3]  # 1.9, 1.65, then 1.4 < 1.5, then 5 has 1.25
    assert greedy(presence_penalty=0.75) == [3, 5, 3, 3]  # 3 keeps 1.15 and 5 has 0.75
    assert greedy(frequency_penalty=-1.0) == [3, 3, 3, 3]


def test_a_logit_bias_is_added_and_can_exclude_a_token() -> None:
    model = Hashing(Config(vocab_size=8, context_length=64), spread=0.1)
    assert complete(model, [[1]], SamplingParams(temperature=0, logit_bias=((6, 50.0),)), max_tokens=5) == [[6] * 5]
    banned = tuple((token, -100.0) for token in range(8) if token not in {2, 4})
    assert set(complete(model, [[1]], SamplingParams(logit_bias=banned, top_p=1.0), max_tokens=60)[0]) == {2, 4}
    with pytest.raises(UsageError, match=r"^logit_bias has the token id 8, but the vocabulary has 8 ids\. Use ids"):
        complete(model, [[1]], SamplingParams(logit_bias=((8, 1.0),)), max_tokens=1)


def test_a_token_id_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(TokenizerError) as error:
        complete(Hashing(Config(vocab_size=32)), [[1, 2], [5, 32, 40]], HOT, max_tokens=1)
    assert str(error.value) == (
        "Token id 32 of the prompt is outside the model's vocabulary of 32 ids. "
        "Encode the prompt with the tokenizer of the run."
    )
    with pytest.raises(TokenizerError, match=r"^Token id -1 of the prompt"):
        complete(Hashing(Config()), [[-1]], HOT, max_tokens=1)


@pytest.mark.parametrize("prompts", [[], [[]], [[1], []]])
def test_a_prompt_without_tokens_is_refused(prompts: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="The prompt has no tokens"):
        complete(Hashing(Config()), prompts, HOT, max_tokens=1)


def test_nan_logits_are_an_error() -> None:
    model = Hashing(Config())
    nn.init.constant_(model.table, float("nan"))
    with pytest.raises(NumericsError, match="maximum is nan"):
        complete(model, [[1]], HOT, max_tokens=5)


def test_generation_leaves_inference_mode_and_does_not_change_torch_rng_state() -> None:
    """During training, gradients can be computed between two tokens, and dropout masks do not change."""
    before = torch.get_rng_state()
    steps = generate(Hashing(Config()), [np.array([1], dtype=np.int32)], HOT, rows=[0], max_tokens=3, vocab_size=32)
    for _ in steps:
        assert not torch.is_inference_mode_enabled()
        (torch.ones(1, requires_grad=True) * 2).backward()
    assert torch.equal(torch.get_rng_state(), before)
