"""Texts that join and leave while others are told are the texts told alone; see slots.py for the contract."""

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
from tests.generation.test_generate_torch import SAMPLINGS, by_definition, real

# float32 sums in another order, in nats
TOLERANCE = 1e-5


def request(prompt: list[int], sampling: SamplingParams | None = None, **others: Any) -> SequenceRequest:
    return SequenceRequest(
        ids=np.array(prompt, dtype=np.int32), sampling=sampling or SamplingParams(temperature=0), **others
    )


def slots_of(model: Any, number: int = 4, **others: Any) -> ContinuousBatcher:
    return ContinuousBatcher(model, number, vocab_size=model.config.vocab_size, **others)


@dataclass
class Wish:
    """A text that somebody will ask for, and leave after so many ids."""

    prompt: list[int]
    sampling: SamplingParams
    at: int
    ids: int
    told: list[int] = field(default_factory=list)


WISHES = st.lists(
    st.builds(
        Wish,
        prompt=st.lists(st.integers(0, 31), min_size=1, max_size=40),
        sampling=SAMPLINGS,
        at=st.integers(0, 12),
        ids=st.integers(1, 25),
    ),
    min_size=1,
    max_size=6,
)


def serve(slots: ContinuousBatcher, wishes: list[Wish]) -> None:
    """Let everybody come in their time, or when there is room, and go when they have what they want."""
    coming, being_told, steps = sorted(wishes, key=lambda wish: wish.at), dict[int, Wish](), 0
    while coming or being_told:
        while coming and coming[0].at <= steps and slots.free:
            wish = coming.pop(0)
            being_told[slots.add(request(wish.prompt, wish.sampling))] = wish
        for choice in slots.step():
            wish = being_told[choice.request]
            wish.told.append(choice.token)
            if len(wish.told) == wish.ids:
                slots.remove(choice.request)
                del being_told[choice.request]
        steps += 1
        assert steps < 10_000, "somebody is never served"


@given(wishes=WISHES, number=st.integers(1, 4), budget=st.integers(1, 20), endless=st.booleans())
def test_every_text_is_the_one_told_alone_by_definition(
    wishes: list[Wish], number: int, budget: int, endless: bool
) -> None:
    """Prompts read in pieces, texts outgrowing the context of 16, neighbours coming and going."""
    model = Hashing(Config(endless=endless))
    serve(slots_of(model, number, max_prefill_tokens=budget), wishes)
    for wish in wishes:
        context_length = 2**31 - 1 if endless else 16
        assert wish.told == by_definition(model, wish.prompt, wish.sampling, wish.ids, context_length)


@settings(max_examples=15)
@given(wishes=WISHES, number=st.integers(2, 4), budget=st.integers(1, 20), family=st.sampled_from(family_names()))
def test_the_same_holds_for_every_family(wishes: list[Wish], number: int, budget: int, family: str) -> None:
    model = real(family)
    serve(slots_of(model, number, max_prefill_tokens=budget), wishes)
    for wish in wishes:
        alone = Wish(wish.prompt, wish.sampling, at=0, ids=wish.ids)
        serve(slots_of(model, 1), [alone])
        assert wish.told == alone.told


def test_a_long_prompt_does_not_stall_the_others() -> None:
    """Every step tells one more id of the text that is being told, and reads no more than its share of the prompt."""
    model = Hashing(Config(context_length=500))
    slots = slots_of(model, max_prefill_tokens=10)
    told = slots.add(request([1]))
    slots.step()
    long = slots.add(request([2] * 95))
    heard = [[choice.request for choice in slots.step()] for _ in range(10)]
    assert heard == [[told]] * 9 + [[told, long]]


def test_slots_are_counted_and_freed_at_once() -> None:
    slots = slots_of(Hashing(Config()), 2)
    first, second = slots.add(request([1])), slots.add(request([2] * 9))
    assert slots.free == 0
    with pytest.raises(UsageError, match=r"^All 2 slots are in use\. Wait until a sequence has ended"):
        slots.add(request([3]))
    slots.remove(second)  # before a step: it was never read
    third = slots.add(request([3]))
    assert [choice.request for choice in slots.step()] == [first, third]
    slots.remove(first)
    assert slots.free == 1
    with pytest.raises(KeyError):
        slots.remove(first)


def test_a_text_that_leaves_while_it_is_read_leaves_nothing_behind() -> None:
    model = Hashing(Config(endless=True))
    slots = slots_of(model, 2, max_prefill_tokens=3)
    gone = slots.add(request([5] * 10))
    slots.step()
    slots.remove(gone)
    wish = Wish([1, 2, 3, 4], SamplingParams(temperature=0), at=0, ids=5)
    serve(slots, [wish])
    assert wish.told == by_definition(model, wish.prompt, wish.sampling, 5, 2**31 - 1)


def test_without_texts_a_step_does_nothing() -> None:
    assert slots_of(Hashing(Config())).step() == []


def test_probabilities_are_the_models_own() -> None:
    """Before temperature and cuts, whatever is chosen, and only for who asks."""
    model = Hashing(Config(vocab_size=32))
    slots = slots_of(model)
    hot = SamplingParams(temperature=5.0, top_k=2, seed=3)
    asked = slots.add(request([4, 5], hot, log_probabilities=True, alternatives=3))
    silent = slots.add(request([4, 5]))
    choices = {choice.request: choice for choice in slots.step()}
    expected = model(torch.tensor([[4, 5]]))[0, -1].log_softmax(-1)
    choice = choices[asked]
    assert choice.log_probability == pytest.approx(float(expected[choice.token]), abs=TOLERANCE)
    best = expected.topk(3)
    assert [token for token, _ in choice.alternatives] == best.indices.tolist()
    assert [value for _, value in choice.alternatives] == pytest.approx(best.values.tolist(), abs=TOLERANCE)
    assert choices[silent].token == int(expected.argmax())
    assert np.isnan(choices[silent].log_probability)
    assert choices[silent].alternatives == ()


def test_a_prompt_that_cannot_be_read_takes_no_slot() -> None:
    slots = slots_of(Hashing(Config(vocab_size=32)), 1)
    with pytest.raises(UsageError, match="The prompt has no tokens"):
        slots.add(request([]))
    with pytest.raises(TokenizerError, match="Token id 32 of the prompt is outside the model's vocabulary of 32 ids"):
        slots.add(request([32]))
    assert slots.free == 1


@pytest.mark.parametrize("family", family_names())
def test_texts_may_be_added_in_inference_mode_and_told_outside_it(family: str) -> None:
    """They leave, move and forget, too."""
    model, careful = real(family), SamplingParams(temperature=0, repetition_penalty=1.3)
    with torch.inference_mode():
        slots = slots_of(model, 3)
        numbers = [slots.add(request(prompt, careful)) for prompt in ([3, 1, 4], [1, 5], [9, 2])]
    beside = slots_of(model, 3)
    same = [beside.add(request(prompt, careful)) for prompt in ([3, 1, 4], [1, 5], [9, 2])]
    for _ in range(3):
        assert [choice.token for choice in slots.step()] == [choice.token for choice in beside.step()]
    slots.remove(numbers[0])
    beside.remove(same[0])
    assert [choice.token for choice in slots.step()] == [choice.token for choice in beside.step()]


def test_what_a_learning_model_remembers_of_a_text_has_no_gradients() -> None:
    class Beginning(Hashing):
        """Its state begins with what it learns."""

        def __init__(self) -> None:
            super().__init__(Config())
            self.first = nn.Parameter(torch.zeros(1))

        def init_state(self, batch_size: int, capacity: int) -> Any:
            seen.append(self.first * 2)
            return super().init_state(batch_size, capacity)

    seen: list[Tensor] = []
    slots = slots_of(Beginning(), 1)
    slots.add(request([1, 2]))
    slots.step()
    assert [kept.requires_grad for kept in seen] == [False]
