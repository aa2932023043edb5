"""The loop that tells several texts at once, the same for attention and recurrence: the model's state is opaque."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fabella.generation.context_shift import ENDLESS
from fabella.generation.continuous_batching import Request, require_readable
from fabella.generation.continuous_batching_torch import Slots
from fabella.generation.decoder.backends_torch import LanguageModel
from fabella.generation.sampling import Sampling


def generate(
    model: LanguageModel,
    prompts: Sequence[NDArray[np.int32]],
    sampling: Sampling,
    *,
    rows: Sequence[int],
    max_tokens: int,
    vocabulary: int,
    context: int = ENDLESS,
    opening: int = 0,
) -> Iterator[list[int]]:
    """Yield the ids chosen at each step, one a prompt, ``max_tokens`` times.

    Every text is the one that it would be alone, up to rounding. Whoever has enough stops asking; nothing here knows of
    ends.

    ``rows`` number the texts of one prompt (see ``uniforms``). Ids from ``vocabulary`` on are never chosen. When
    ``context`` positions are full, or all that a bounded model has, the text goes on in a window (see
    ``window_start``). The first ``opening`` ids of each prompt are not text, and not penalised as repetition.
    """
    for prompt in prompts or [np.empty(0, dtype=np.int32)]:
        require_readable(prompt, model.config.vocabulary)
    longest = max(len(prompt) for prompt in prompts) + max_tokens
    # Nobody waits for the first word of another: all prompts are read in the first step.
    slots = Slots(model, len(prompts), vocabulary=vocabulary, context=context, capacity=longest, tokens_a_step=ENDLESS)
    numbers = [
        slots.add(Request(ids=prompt, sampling=sampling, row=row, opening=opening))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    for _ in range(max_tokens):
        chosen = {choice.request: choice.token for choice in slots.step()}
        yield [chosen[number] for number in numbers]
