"""The loop that tells several texts at once, the same for attention and recurrence: the model's state is opaque."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fabella.generation.context_shift import UNLIMITED
from fabella.generation.continuous_batching import SequenceRequest, require_readable
from fabella.generation.continuous_batching_torch import ContinuousBatcher
from fabella.generation.sampling import SamplingParams
from fabella.models.nn.language_model_torch import LanguageModel


def generate(
    model: LanguageModel,
    prompts: Sequence[NDArray[np.int32]],
    sampling: SamplingParams,
    *,
    rows: Sequence[int],
    max_tokens: int,
    vocab_size: int,
    context: int = UNLIMITED,
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
        require_readable(prompt, model.config.vocab_size)
    longest = max(len(prompt) for prompt in prompts) + max_tokens
    # Nobody waits for the first word of another: all prompts are read in the first step.
    slots = ContinuousBatcher(
        model, len(prompts), vocab_size=vocab_size, context=context, capacity=longest, max_prefill_tokens=UNLIMITED
    )
    numbers = [
        slots.add(SequenceRequest(ids=prompt, sampling=sampling, row=row, opening=opening))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    for _ in range(max_tokens):
        chosen = {choice.request: choice.token for choice in slots.step()}
        yield [chosen[number] for number in numbers]
