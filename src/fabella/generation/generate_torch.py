"""Decode loop of the PyTorch engine: all prompts in one batch. The state of the model is opaque."""

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
    context_length: int = UNLIMITED,
    num_prefix_tokens: int = 0,
) -> Iterator[list[int]]:
    """Yield the sampled token ids of each step, one per prompt, ``max_tokens`` times.

    A sequence does not depend on the others in the batch, up to rounding. The loop does not stop at EOS: the caller
    stops iterating.

    ``rows`` number the sequences of one prompt, see ``uniforms``. Ids from ``vocab_size`` on are never sampled. The
    context is shifted when it holds ``context_length`` tokens, or as many as the model supports, see ``context_start``.
    The first ``num_prefix_tokens`` ids of each prompt are not text (EOS) and are not penalized as repetitions.

    Raises UsageError for an empty prompt, TokenizerError for ids outside the vocabulary of the model, NumericsError if
    logits are not finite.
    """
    for prompt in prompts or [np.empty(0, dtype=np.int32)]:
        require_readable(prompt, model.config.vocab_size)
    longest = max(len(prompt) for prompt in prompts) + max_tokens
    # Without a prefill limit, every prompt gives its first token in the first step.
    batcher = ContinuousBatcher(
        model,
        len(prompts),
        vocab_size=vocab_size,
        context_length=context_length,
        capacity=longest,
        max_prefill_tokens=UNLIMITED,
    )
    requests = [
        batcher.add(SequenceRequest(ids=prompt, sampling=sampling, row=row, num_prefix_tokens=num_prefix_tokens))
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    for _ in range(max_tokens):
        tokens = {sampled.request: sampled.token for sampled in batcher.step()}
        yield [tokens[request] for request in requests]
