"""Decode loop of the PyTorch engine: all prompts in one batch, with any model, since its state is opaque."""

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
    """Yield the sampled token ids of each step, one per prompt, ``max_tokens`` times.

    A sequence is the same as if it were decoded in a batch of its own, up to rounding. The loop does not know EOS: the
    caller stops iterating when it has enough.

    ``rows`` number the sequences of one prompt, see ``uniforms``. Ids from ``vocab_size`` on are never sampled. When
    ``context`` tokens, or all positions of the model, are full, the context is shifted, see ``context_start``. The
    first ``opening`` ids of each prompt are no text (EOS) and are not penalized as repetitions.
    """
    for prompt in prompts or [np.empty(0, dtype=np.int32)]:
        require_readable(prompt, model.config.vocab_size)
    longest = max(len(prompt) for prompt in prompts) + max_tokens
    # Without a prefill limit, every prompt gives its first token in the first step.
    batcher = ContinuousBatcher(
        model, len(prompts), vocab_size=vocab_size, context=context, capacity=longest, max_prefill_tokens=UNLIMITED
    )
    numbers = [
        batcher.add(SequenceRequest(ids=prompt, sampling=sampling, row=row, opening=opening))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    for _ in range(max_tokens):
        tokens = {sampled.request: sampled.token for sampled in batcher.step()}
        yield [tokens[number] for number in numbers]
