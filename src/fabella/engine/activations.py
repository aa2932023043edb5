"""Activations of a model by name: what its blocks compute for given tokens, the same names for every family and engine.

embedding              [B T D]    residual stream before the first block
blocks.N.residual      [B T D]    residual stream after block N
blocks.N.mixer         [B T D]    output of the block's attention or MinGRU, before it is added
blocks.N.mlp           [B T D]    output of the block's MLP, before it is added
blocks.N.attention     [B H T T]  attention weights: rows are queries and sum to 1
blocks.N.gate          [B T S]    MinGRU: z, the share of the candidate in the new state, 0 to 1
blocks.N.candidate     [B T S]    MinGRU: candidate state
blocks.N.state         [B T S]    MinGRU: hidden state
logits                 [B T V]

The networks are not written for this: PyTorch's hooks read the modules, and JAX's shared blocks report what they
compute.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from fabella.engine.engine import backend
from fabella.errors import UsageError, did_you_mean

Recorded = Mapping[str, Any]
"""Name → tensor of PyTorch or array of JAX, in the order of computation."""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """Result of ``model(tokens, output_hidden_states=True, output_attentions=True)``, in the form of Transformers."""

    logits: Any
    """[B T V]"""
    hidden_states: tuple[Any, ...] | None = None
    """``embedding`` and the residual stream after each block, [B T D]; unlike in Transformers, the last one is not
    normed either."""
    attentions: tuple[Any, ...] | None = None
    """Attention weights of each block, [B H T T]; None for a block without attention."""


def activations(model: Any, tokens: Any, names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the activations of ``fabella.load(RUN).model`` for ``tokens``, ids [B T], by name.

    ``names``: patterns such as ``blocks.*.residual``; by default all. The values are tensors of PyTorch, or arrays of
    JAX. Raise UsageError for a pattern that matches nothing.
    """
    model = model.model if hasattr(model, "tokenizer") else model  # a TextGenerator
    engine = "jax" if hasattr(model, "network") else "torch"
    recorded = backend(engine, "activations").record(model, tokens)
    for pattern in names:
        if not any(fnmatchcase(name, pattern) for name in recorded):
            raise UsageError(f"No activation has a name like {pattern!r}.", hint=did_you_mean(pattern, list(recorded)))
    chosen = names or ("*",)
    return {name: value for name, value in recorded.items() if any(fnmatchcase(name, pattern) for pattern in chosen)}


def model_output(recorded: Recorded, *, hidden_states: bool, attentions: bool) -> ModelOutput:
    """Return recorded activations in the form of Transformers."""
    layers = [int(match[1]) for name in recorded if (match := re.fullmatch(r"blocks\.(\d+)\.residual", name))]
    residuals = (recorded["embedding"], *(recorded[f"blocks.{layer}.residual"] for layer in layers))
    weights = tuple(recorded.get(f"blocks.{layer}.attention") for layer in layers)
    return ModelOutput(recorded["logits"], residuals if hidden_states else None, weights if attentions else None)
