"""FLOPs of a model, from its parameter table alone: the basis of model FLOPs utilization.

A matrix product takes two operations, a multiplication and an addition, per weight and token, and twice as many in the
backward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): 6·N per token. The products of attention, which have
no weights, are added. An embedding lookup is not a product; a tied output head is one. Norms, activations and
recurrences are omitted: they take a few operations per number, not per weight.

Attention is counted as causal: position t attends to t + 1 keys, (T + 1)/2 on average. Other counts include the masked
products, T keys per position (Chowdhery et al. 2022, arXiv 2204.02311, appendix B); they are slightly higher, by 2 % at
the shapes of tinystories-8m.
"""

from dataclasses import dataclass

from fabella.models.model_config import ModelConfig
from fabella.models.parameters import ParameterTable

TRAINING_FACTOR = 3
"""FLOPs of a training step per FLOP of its forward pass: the backward pass computes two products for each one."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of the forward pass per token, by part."""

    blocks: int
    """Matrix products outside embeddings and output heads."""
    head: int
    """Matrix products of the output heads."""
    attention: int
    """Products of queries with keys, and of attention weights with values."""

    @property
    def forward(self) -> int:
        """Sum of all parts."""
        return self.blocks + self.head + self.attention


def forward_flops(config: ModelConfig, length: int) -> Flops:
    """Return the FLOPs of a forward pass per token, for sequences of ``length`` tokens."""
    table = config.parameters()
    matrices = sum(row.size for row in table.values() if len(row.shape) == 2 and not row.embedding)
    heads = sum(table[name].size for name in output_head_params(table, config.vocab_size))
    # Each of both products takes a multiplication and an addition per query dimension and visible key.
    queries = sum(row.shape[0] for name, row in table.items() if name.endswith("query.weight"))
    return Flops(blocks=2 * matrices, head=2 * heads, attention=2 * queries * (length + 1))


def flops_per_token(config: ModelConfig, length: int) -> int:
    """Return the FLOPs of forward and backward pass per token, for sequences of ``length`` tokens.

    Model FLOPs utilization = flops_per_token × tokens per second / peak FLOPS of the machine. Operations repeated by
    ``training.gradient_checkpointing`` count once.
    """
    return TRAINING_FACTOR * forward_flops(config, length).forward


def output_head_params(table: ParameterTable, vocab_size: int) -> list[str]:
    """Return the names of the output heads: the weights called ``head``, or the tied embedding."""
    rows = [name for name, row in table.items() if row.embedding and row.shape[0] == vocab_size]
    return [name for name in rows if "head" in name.split(".")] or rows[:1]
