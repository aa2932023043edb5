"""Gradient checkpointing: a block's activations are computed again on the way back instead of being kept.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174): of every block only the input
is kept; when its gradient is due, it runs once more. Memory falls from all that every block computes to the blocks'
inputs and one block; a step takes about a third longer, the forward pass being done twice.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_blocks(model: Any) -> None:
    """Let every one of ``model.blocks`` forget its activations; names, weights and results stay as they are.

    Only ``forward`` is replaced, so that hooks and ``compile()`` of a block go around it. The random state is kept with
    each input: dropout leaves out the same numbers both times. Without gradients nothing is done twice.
    """
    for block in model.blocks:
        block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Any, *arguments: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=True, **named)
