"""Log-probabilities of the tokens of a prompt under a PyTorch model."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fabella.generation.likelihood import PromptScores, TokenLogprobs, sequence_starts
from fabella.models.nn.language_model_torch import LanguageModel


@torch.inference_mode()
def score_prompt(
    model: LanguageModel, ids: NDArray[np.int32], *, alternatives: int, vocab_size: int, context_length: int
) -> PromptScores:
    """Return the scores of ``ids[1:]``, each with its ``alternatives`` most likely ids below ``vocab_size``.

    A prompt of more than ``context_length`` tokens is scored in windows that overlap by half, as in ``perplexity``.
    The sums are those of ``evaluation``, so that a task scored over HTTP has the same result.
    """
    nats: list[float] = []
    best: list[TokenLogprobs] = []
    device = next(model.parameters()).device
    for start, stop, new in _windows(len(ids) - 1, context_length):
        window = torch.from_numpy(ids[start : stop + 1].astype(np.int64)).to(device)
        logits: Float[Tensor, "T V"] = model(window[None, :-1])[0].float()
        top = logits.amax(-1, keepdim=True)
        total = (logits - top).exp_().sum(-1).log_().add_(top[:, 0])
        chosen = logits.gather(-1, window[1:, None])[:, 0] - total
        nats += chosen[new:].tolist()
        ranked = logits[new:, :vocab_size].topk(min(alternatives, vocab_size))
        values = (ranked.values - total[new:, None]).tolist()
        best += [tuple(zip(*row, strict=True)) for row in zip(ranked.indices.tolist(), values, strict=True)]
    return PromptScores(nats, best)


def _windows(length: int, context_length: int) -> Iterator[tuple[int, int, int]]:
    """Yield start and stop of each window of ``length`` targets, and how many of them an earlier one has scored."""
    done = 0
    for start in sequence_starts(length, context_length).tolist() if length else []:
        stop = min(start + context_length, length)
        yield start, stop, done - start
        done = stop
