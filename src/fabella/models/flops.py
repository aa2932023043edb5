"""How much arithmetic a model asks for, from its parameter table alone: what speed is measured against.

Counted are the matrix products, two operations (a product and a sum) for each weight and token, and twice as many
again on the way back (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): 6·N a token. Added are the products of
attention, which have no weights. Looking up an embedding is no product; an embedding that also reads out is one.
Norms, activations and recurrences are left out: a few operations for each number, not for each weight.

Attention is counted as causal: position t looks at t + 1 keys, on average (T + 1)/2. Others count all T, as if half
of the products were not masked away (Chowdhery et al. 2022, arXiv 2204.02311, appendix B); theirs gives slightly
higher figures: 2 % at the shapes of tinystories-8m.
"""

from dataclasses import dataclass

from fabella.models.model_config import ModelConfig
from fabella.models.parameters import ParameterTable

TRAINING = 3
"""A step's arithmetic by the forward pass's: the gradient of each product are two products of its size."""


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of the forward pass for one token, by part."""

    blocks: int
    """Matrices outside embeddings and heads."""
    head: int
    """The read-out: the product with a row for each id."""
    attention: int
    """Queries with keys, and weights with values."""

    @property
    def forward(self) -> int:
        """All parts together."""
        return self.blocks + self.head + self.attention


def forward_flops(config: ModelConfig, length: int) -> Flops:
    """Operations of one forward pass, a token, in windows of ``length`` tokens."""
    table = config.parameters()
    matrices = sum(row.size for row in table.values() if len(row.shape) == 2 and not row.embedding)
    heads = sum(table[name].size for name in output_head_params(table, config.vocab_size))
    # Both products have a multiplication and an addition for each dim of the queries and each key looked at.
    queries = sum(row.shape[0] for name, row in table.items() if name.endswith("query.weight"))
    return Flops(blocks=2 * matrices, head=2 * heads, attention=2 * queries * (length + 1))


def flops_per_token(config: ModelConfig, length: int) -> int:
    """Operations of a training step, forward and backward, for one token, in windows of ``length`` tokens.

    Model FLOPs utilisation = flops_per_token × tokens a second / the machine's peak. What is computed twice to save
    memory (``training.gradient_checkpointing``) is not counted twice: it is no part of the model.
    """
    return TRAINING * forward_flops(config, length).forward


def output_head_params(table: ParameterTable, vocab_size: int) -> list[str]:
    """The weights that logits are read out with: those called ``head``, or the embedding where it is tied to them."""
    rows = [name for name, row in table.items() if row.embedding and row.shape[0] == vocab_size]
    return [name for name in rows if "head" in name.split(".")] or rows[:1]
