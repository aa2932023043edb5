"""Tests that sequences which join and leave a batch equal those decoded one by one."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fabella.errors import TokenizerError, UsageError
from fabella.generation.continuous_batching import SequenceRequest
from fabella.generation.continuous_batching_torch import ContinuousBatcher
from fabella.generation.sampling import SamplingParams
from fabella.models.registry import family_names
from tests.generation.fake_model import Config, Hashing
from tests.generation.test_generate_torch import SAMPLINGS, by_definition, untrained

# Log-probabilities in nats, of float32 sums in another order.
TOLERANCE = 1e-5


def request(prompt: list[int], sampling: SamplingParams | None = None, **others: Any) -> SequenceRequest:
    return SequenceRequest(
        ids=np.array(prompt, dtype=np.int32), sampling=sampling or SamplingParams(temperature=0), **others
    )


def batcher_for(model: Any, number: int = 4, **others: Any) -> ContinuousBatcher:
    return ContinuousBatcher(model, number, vocab_size=model.config.vocab_size, **others)


@dataclass
class Client:
    """Request that arrives at step ``arrival`` and leaves after ``max_tokens`` tokens."""

    prompt: list[int]
    sampling: SamplingParams
    arrival: int
    max_tokens: int
    tokens: list[int] = field(default_factory=list)


CLIENTS = st.lists(
    st.builds(
        Client,
        prompt=st.lists(st.integers(0, 31), min_size=1, max_size=40),
        sampling=SAMPLINGS,
        arrival=st.integers(0, 12),
        max_tokens=st.integers(1, 25),
    ),
    min_size=1,
    max_size=6,
)


def serve(batcher: ContinuousBatcher, clients: list[Client]) -> None:
    """Add each client at its arrival, or later when a row is free, and remove it when it has its tokens."""
    waiting, running, steps = sorted(clients, key=lambda client: client.arrival), dict[int, Client](), 0
    while waiting or running:
        while waiting and waiting[0].arrival <= steps and batcher.free:
            client = waiting.pop(0)
            running[batcher.add(request(client.prompt, client.sampling))] = client
        for sampled in batcher.step():
            client = running[sampled.request]
            client.tokens.append(sampled.token)
            if len(client.tokens) == client.max_tokens:
                batcher.remove(sampled.request)
                del running[sampled.request]
        steps += 1
        assert steps < 10_000, "a client is never served"


@given(clients=CLIENTS, number=st.integers(1, 4), budget=st.integers(1, 20), endless=st.booleans())
def test_every_sequence_equals_its_definition(clients: list[Client], number: int, budget: int, endless: bool) -> None:
    """Prompts are prefilled in chunks, sequences shift the context of 16, and others join and leave."""
    model = Hashing(Config(endless=endless))
    serve(batcher_for(model, number, max_prefill_tokens=budget), clients)
    for client in clients:
        context_length = 2**31 - 1 if endless else 16
        assert client.tokens == by_definition(model, client.prompt, client.sampling, client.max_tokens, context_length)


@settings(max_examples=15)
@given(clients=CLIENTS, number=st.integers(2, 4), budget=st.integers(1, 20), family=st.sampled_from(family_names()))
def test_every_sequence_equals_the_one_decoded_alone_for_every_family(
    clients: list[Client], number: int, budget: int, family: str
) -> None:
    model = untrained(family)
    serve(batcher_for(model, number, max_prefill_tokens=budget), clients)
    for client in clients:
        single = Client(client.prompt, client.sampling, arrival=0, max_tokens=client.max_tokens)
        serve(batcher_for(model, 1), [single])
        assert client.tokens == single.tokens


def test_a_long_prompt_does_not_stall_the_others() -> None:
    """Every step decodes one more token of the running sequence and prefills a limited part of the prompt."""
    model = Hashing(Config(context_length=500))
    batcher = batcher_for(model, max_prefill_tokens=10)
    short = batcher.add(request([1]))
    batcher.step()
    long = batcher.add(request([2] * 95))
    received = [[sampled.request for sampled in batcher.step()] for _ in range(10)]
    assert received == [[short]] * 9 + [[short, long]]


def test_slots_are_counted_and_freed_immediately() -> None:
    batcher = batcher_for(Hashing(Config()), 2)
    first, second = batcher.add(request([1])), batcher.add(request([2] * 9))
    assert batcher.free == 0
    with pytest.raises(UsageError, match=r"^All 2 slots are in use\. Wait until a sequence has ended"):
        batcher.add(request([3]))
    batcher.remove(second)  # before a step: it was not prefilled
    third = batcher.add(request([3]))
    assert [sampled.request for sampled in batcher.step()] == [first, third]
    batcher.remove(first)
    assert batcher.free == 1
    with pytest.raises(KeyError):
        batcher.remove(first)


def test_a_sequence_removed_during_its_prefill_does_not_affect_the_next_one() -> None:
    model = Hashing(Config(endless=True))
    batcher = batcher_for(model, 2, max_prefill_tokens=3)
    removed = batcher.add(request([5] * 10))
    batcher.step()
    batcher.remove(removed)
    client = Client([1, 2, 3, 4], SamplingParams(temperature=0), arrival=0, max_tokens=5)
    serve(batcher, [client])
    assert client.tokens == by_definition(model, client.prompt, client.sampling, 5, 2**31 - 1)


def test_a_step_without_sequences_returns_nothing() -> None:
    assert batcher_for(Hashing(Config())).step() == []


def test_log_probabilities_are_those_of_the_model() -> None:
    """They are computed before temperature and filters, and only on request."""
    model = Hashing(Config(vocab_size=32))
    batcher = batcher_for(model)
    hot = SamplingParams(temperature=5.0, top_k=2, seed=3)
    scored = batcher.add(request([4, 5], hot, log_probabilities=True, alternatives=3))
    unscored = batcher.add(request([4, 5]))
    samples = {sampled.request: sampled for sampled in batcher.step()}
    expected = model(torch.tensor([[4, 5]]))[0, -1].log_softmax(-1)
    sampled = samples[scored]
    assert sampled.log_probability == pytest.approx(float(expected[sampled.token]), abs=TOLERANCE)
    best = expected.topk(3)
    assert [token for token, _ in sampled.alternatives] == best.indices.tolist()
    assert [value for _, value in sampled.alternatives] == pytest.approx(best.values.tolist(), abs=TOLERANCE)
    assert samples[unscored].token == int(expected.argmax())
    assert np.isnan(samples[unscored].log_probability)
    assert samples[unscored].alternatives == ()


def test_an_invalid_prompt_takes_no_slot() -> None:
    batcher = batcher_for(Hashing(Config(vocab_size=32)), 1)
    with pytest.raises(UsageError, match="The prompt has no tokens"):
        batcher.add(request([]))
    with pytest.raises(TokenizerError, match="Token id 32 of the prompt is outside the model's vocabulary of 32 ids"):
        batcher.add(request([32]))
    assert batcher.free == 1


@pytest.mark.parametrize("family", family_names())
def test_sequences_can_be_added_in_inference_mode_and_decoded_outside_it(family: str) -> None:
    """They can also be removed, moved to another row, and have a repetition penalty."""
    model, penalized = untrained(family), SamplingParams(temperature=0, repetition_penalty=1.3)
    with torch.inference_mode():
        batcher = batcher_for(model, 3)
        numbers = [batcher.add(request(prompt, penalized)) for prompt in ([3, 1, 4], [1, 5], [9, 2])]
    expected = batcher_for(model, 3)
    same = [expected.add(request(prompt, penalized)) for prompt in ([3, 1, 4], [1, 5], [9, 2])]
    for _ in range(3):
        assert [sampled.token for sampled in batcher.step()] == [sampled.token for sampled in expected.step()]
    batcher.remove(numbers[0])
    expected.remove(same[0])
    assert [sampled.token for sampled in batcher.step()] == [sampled.token for sampled in expected.step()]


def test_the_state_of_a_model_in_training_has_no_gradients() -> None:
    class LearnedState(Hashing):
        """Model whose initial state depends on a parameter."""

        def __init__(self) -> None:
            super().__init__(Config())
            self.first = nn.Parameter(torch.zeros(1))

        def init_state(self, batch_size: int, capacity: int) -> Any:
            states.append(self.first * 2)
            return super().init_state(batch_size, capacity)

    states: list[Tensor] = []
    batcher = batcher_for(LearnedState(), 1)
    batcher.add(request([1, 2]))
    batcher.step()
    assert [state.requires_grad for state in states] == [False]
