"""Gradient checkpointing: recompute the activations of each block in the backward pass instead of storing them.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174). Only the input of each block is
stored. Memory falls from the activations of all blocks to the blocks' inputs and the activations of one block; a step
takes about a third longer, because the forward pass runs twice.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(model: Any) -> None:
    """Checkpoint each of ``model.blocks``; parameter names and results stay the same.

    Only ``forward`` is replaced, so that hooks and ``compile()`` of a block wrap it. The random state is stored with
    each input, so that dropout draws the same mask again. Without gradients nothing is recomputed.
    """
    for block in model.blocks:
        block.forward = partial(_forward, block, block.forward)


def _forward(block: nn.Module, forward: Any, *arguments: Any, **named: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, preserve_rng_state=True, **named)
