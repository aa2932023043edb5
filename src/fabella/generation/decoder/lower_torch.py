"""Lower a model to a ``DecoderGraph`` by walking its modules, so that no family describes its network a second time.

A model is lowered if it is built like this; everything else raises ``UnsupportedModelError``:

    embedding (nn.Embedding) [+ positions (nn.Embedding)] [→ embedding_norm (RMSNorm)]
        [→ input_projection (nn.Linear)]
    blocks, each a sequence of: NAME_norm (RMSNorm, nn.LayerNorm) and NAME (an attention, MinGRU, GatedMinGRU, SwiGLU,
        GELUMLP), added to the residual stream; before an attention or a GatedMinGRU, a ShortConvolution of its normed
        input, which all its layers but ``output_gate`` read; embedding (nn.Embedding), the token's row, added to the
        residual stream;
        first of all residual_weight · x + embedding_weight · (start of the residual stream), if it has these parameters
    norm [→ output_projection (nn.Linear)] → head_weight

``dropout`` modules have no effect in decoding. A model may start with the embedding of its first block, and end with
the ``head_norm`` and ``head`` of its last one (deep supervision). With rotary attention, the model has a method
``rotary_table(length, device)``. Modules are applied in the order in which they are defined; those of a block class
with ``parallel_residual = True`` all read the block's input.

An attention is CausalAttention, or any module with the layers ``query``, ``key``, ``value`` and ``output`` whose
property ``spec`` is an ``AttentionSpec``: how many heads, which rotation, head norms, window and scale.

A module tree does not prove that ``forward`` applies its modules so. Therefore the result is checked once: the graph
and ``Model.decode`` must give the same logits for a few tokens, up to rounding.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fabella.generation.decoder.graph_torch import (
    AttentionOp,
    ConvolutionOp,
    DecoderGraph,
    EmbeddingAddOp,
    EmbeddingMixOp,
    EmbeddingOp,
    GatedRecurrenceOp,
    GELUOp,
    HeadNormOp,
    LayerNormOp,
    LinearOp,
    NormOp,
    ParallelOp,
    RecurrenceOp,
    ResidualOp,
    RMSNormOp,
    StatelessOp,
    SwiGLUOp,
    flat_ops,
)
from fabella.generation.decoder.packed_linear_torch import LinearFactory, PackedLinear
from fabella.generation.decoder.step_inputs_torch import PrefillInputs
from fabella.models.nn.attention_torch import AttentionSpec
from fabella.models.nn.convolution_torch import ShortConvolution
from fabella.models.nn.layers_torch import GELUMLP, RMSNorm, SwiGLU
from fabella.models.nn.recurrence_torch import GatedMinGRU, MinGRU
from fabella.models.nn.rotary_torch import apply_rotary, apply_rotary_interleaved, apply_rotary_partial

MODEL_CHILDREN = {
    "embedding",
    "embedding_norm",
    "positions",
    "dropout",
    "input_projection",
    "blocks",
    "norm",
    "output_projection",
    "head",
}
"""Modules that a model may have; other names are unsupported."""
CHECK_TOKENS = 5
"""Tokens of the comparison with ``Model.decode``; positions 0 to 4 show a wrong rotary embedding or state."""
MAX_CHECK_TOKENS = 40
"""Tokens of the comparison if an attention sees fewer, so that a wrong window shows."""
CHECK_TOLERANCE = 1e-3
"""Largest difference of two logits, relative to the largest logit; rounding reaches about 1e-5."""


class UnsupportedModelError(Exception):
    """The model has a module, or an order of modules, that has no decode operation."""


def lower(model: Any, factory: LinearFactory) -> DecoderGraph:
    """Return the graph of ``model``; ``factory`` packs its weights. Raises UnsupportedModelError.

    The graph refers to the model's weights: it sees later changes of some of them, so the weights must be final.
    """
    _require_known_modules(model)
    _require_same_logits(model)
    return DecoderGraph(*_start_and_ops(model, factory), _head(model, factory))


def _require_known_modules(model: Any) -> None:
    if not isinstance(getattr(model, "blocks", None), nn.ModuleList) or not len(model.blocks):
        raise UnsupportedModelError(f"{type(model).__name__} without blocks")
    unknown = [name for name, _ in model.named_children() if name not in MODEL_CHILDREN]
    unknown += [name for name, _ in model.named_parameters(recurse=False)]
    if unknown:
        raise UnsupportedModelError(unknown[0])


def _start_and_ops(model: Any, factory: LinearFactory) -> tuple[EmbeddingOp, list[ResidualOp]]:
    rotary = _rotary(model)
    ops = [op for block in model.blocks for op in _block_ops(block, factory, rotary)]
    _keep_first_values(ops)
    if isinstance(getattr(model, "embedding", None), nn.Embedding):
        start = _embedding(model, factory)
    elif ops and isinstance(ops[0], EmbeddingAddOp):
        start, ops = EmbeddingOp(ops[0].table), ops[1:]
    else:
        raise UnsupportedModelError(f"{type(model).__name__} without embedding")
    start.is_kept = any(isinstance(op, EmbeddingMixOp) for op in ops)
    return start, ops


def _embedding(model: Any, factory: LinearFactory) -> EmbeddingOp:
    positions, projection = getattr(model, "positions", None), getattr(model, "input_projection", None)
    up_proj = None if projection is None else LinearOp(factory, None, projection)
    norm = None
    if hasattr(model, "embedding_norm"):
        norm = _lower_norm(model.embedding_norm, model.embedding.weight)
        if not isinstance(norm, RMSNormOp):
            raise UnsupportedModelError("an embedding_norm that is no RMSNorm")
    return EmbeddingOp(model.embedding.weight, getattr(positions, "weight", None), up_proj, norm)


def _keep_first_values(ops: list[ResidualOp]) -> None:
    """Let the first attention keep its values, if a later one reads them."""
    attentions = [op for op in flat_ops(ops) if isinstance(op, AttentionOp)]
    if any(op.value_weights is not None for op in attentions):
        if attentions[0].value_weights is not None:
            raise UnsupportedModelError("a first attention that reads the values of an earlier one")
        attentions[0].keeps_values = True


def _rotary(model: Any) -> Tensor | None:
    """Return e^(i·angle) of every position and pair of a head, computed once for all layers."""
    for module in model.modules():
        spec = _spec(module)
        if spec is not None and spec.rotate is not None:
            if not hasattr(model, "rotary_table"):
                raise UnsupportedModelError(f"{type(model).__name__} without rotary_table")
            device = next(module.parameters()).device
            return torch.complex(*model.rotary_table(model.config.context_length, device))
    return None


def _spec(module: nn.Module) -> AttentionSpec | None:
    """Return what an attention computes; None for another module."""
    spec = getattr(module, "spec", None)
    return spec if isinstance(spec, AttentionSpec) else None


def _head(model: Any, factory: LinearFactory) -> list[LinearOp]:
    last = model.blocks[-1]
    if not hasattr(model, "norm") and hasattr(last, "head_norm") and hasattr(last, "head"):
        return [LinearOp(factory, _lower_norm(last.head_norm, last.head.weight), last.head)]
    if not hasattr(model, "norm") or not hasattr(model, "head_weight"):
        raise UnsupportedModelError(f"{type(model).__name__} without norm and head_weight")
    norm = _lower_norm(model.norm, model.head_weight)
    if hasattr(model, "output_projection"):
        return [LinearOp(factory, norm, model.output_projection), LinearOp(factory, None, model.head_weight)]
    return [LinearOp(factory, norm, model.head_weight)]


def _block_ops(block: nn.Module, factory: LinearFactory, rotary: Tensor | None) -> list[ResidualOp]:
    ops = list(_lower_block(block, factory, rotary))
    if not getattr(type(block), "parallel_residual", False):
        return ops
    if sum(not isinstance(op, StatelessOp) for op in ops) > 1:
        raise UnsupportedModelError(f"{type(block).__name__} with two states in parallel")
    return [ParallelOp(ops)]


def _lower_block(block: nn.Module, factory: LinearFactory, rotary: Tensor | None) -> Iterator[ResidualOp]:
    children = dict(block.named_children())
    own = dict(block.named_parameters(recurse=False))
    if own.keys() == {"residual_weight", "embedding_weight"} and all(weight.numel() == 1 for weight in own.values()):
        yield EmbeddingMixOp(own["residual_weight"], own["embedding_weight"])
    elif own:
        raise UnsupportedModelError(f"{type(block).__name__}.{next(iter(own))}")
    convolution: ShortConvolution | None = None
    for name, module in children.items():
        if isinstance(module, nn.Embedding):
            yield EmbeddingAddOp(module)
        elif type(module) is ShortConvolution and convolution is None:
            convolution = module
        elif f"{name}_norm" in children and name != "head":
            norm = children[f"{name}_norm"]
            if convolution is None:
                yield _lower_residual(module, norm, factory, rotary)
            else:
                yield ConvolutionOp(convolution.weight, _lower_norm(norm, convolution.weight.squeeze(1).T))
                yield _lower_convolved(module, factory, rotary)
                convolution = None
        elif not (isinstance(module, nn.Dropout) or name in ("head", "head_norm") or name.endswith("_norm")):
            raise UnsupportedModelError(type(module).__name__)
    if convolution is not None:
        raise UnsupportedModelError(f"a {type(convolution).__name__} that no mixer follows")


def _lower_convolved(module: nn.Module, factory: LinearFactory, rotary: Tensor | None) -> ResidualOp:
    """Return a mixer that reads the convolution before it."""
    spec = _spec(module)
    if spec is not None:
        return _lower_attention(module, spec, None, factory, rotary)
    if type(module) is GatedMinGRU:
        return GatedRecurrenceOp(module, None, factory)
    raise UnsupportedModelError(f"{type(module).__name__} after a ShortConvolution")


def _lower_residual(module: Any, norm: nn.Module, factory: LinearFactory, rotary: Tensor | None) -> ResidualOp:
    spec = _spec(module)
    if spec is not None:
        return _lower_attention(module, spec, _lower_norm(norm, module.query.weight), factory, rotary)
    if type(module) is MinGRU:
        return RecurrenceOp(module, _lower_norm(norm, module.gate.weight), factory)
    if type(module) is GatedMinGRU:
        return GatedRecurrenceOp(module, _lower_norm(norm, module.gate.weight), factory)
    if type(module) is SwiGLU:
        return SwiGLUOp(module, _lower_norm(norm, module.up.weight), factory)
    if type(module) is GELUMLP:
        return GELUOp(module, _lower_norm(norm, module.up.weight), factory, approximate=module.approximate)
    raise UnsupportedModelError(type(module).__name__)


def _lower_attention(
    module: Any, spec: AttentionSpec, norm: NormOp | None, factory: LinearFactory, rotary: Tensor | None
) -> AttentionOp:
    if spec.rotate not in (None, apply_rotary, apply_rotary_partial, apply_rotary_interleaved):
        raise UnsupportedModelError(str(spec.rotate))
    if hasattr(module, "output_gate") != spec.output_gate:
        raise UnsupportedModelError(f"{type(module).__name__}.output_gate, of which its spec says otherwise")
    return AttentionOp(
        module, norm, factory, heads=spec.heads, kv_heads=spec.kv_heads,
        rotary=rotary if spec.rotate else None, half_rotation=spec.rotate in (apply_rotary, apply_rotary_partial),
        head_norm=_lower_head_norms(spec, len(module.key.weight) // spec.kv_heads, module.key.weight),
        window=spec.window, scale=spec.scale, value_weights=spec.value_weights,
    )  # fmt: skip


def _lower_head_norms(spec: AttentionSpec, head_dim: int, like: Tensor) -> HeadNormOp | None:
    norms = spec.query_norm, spec.key_norm
    if norms == (None, None):
        return None
    same = [norm for norm in norms if type(norm) is RMSNorm and not (norm.scale and len(norm.weight) != head_dim)]
    if len(same) < len(norms) or same[0].eps != same[1].eps:
        raise UnsupportedModelError("norms of queries and keys that are not two RMSNorms of a head")
    query, key = (norm.weight if norm.scale else like.new_ones(head_dim) for norm in same)
    return HeadNormOp(query, key, same[0].eps)


def _lower_norm(norm: nn.Module, like: Tensor) -> NormOp:
    """``like`` [O D] is a matrix that reads the normed vector [D]."""
    if type(norm) is RMSNorm:
        return RMSNormOp(norm.weight if norm.scale else torch.ones_like(like[0]), norm.eps)
    if type(norm) is nn.LayerNorm:
        return LayerNormOp(norm)
    raise UnsupportedModelError(type(norm).__name__)


@torch.inference_mode()
def _require_same_logits(model: Any) -> None:
    """Raise UnsupportedModelError if the operations compute something else than ``Model.decode``."""
    device = next(model.parameters()).device
    windows = [spec.window for module in model.modules() if (spec := _spec(module)) and spec.window is not None]
    count = max(CHECK_TOKENS, min([window + 2 for window in windows], default=0))
    count = min(count, MAX_CHECK_TOKENS, model.config.context_length)
    tokens = torch.arange(count, device=device) % model.config.vocab_size
    expected, _ = model.decode(tokens[None], model.init_state(1, len(tokens)))
    if not expected.isfinite().all():
        return  # weights that are not finite: nothing to compare
    inputs = PrefillInputs(tokens, 0, 0)
    embedding, ops = _start_and_ops(model, _unpacked)
    x = embedding(inputs)
    while ops:  # an operation holds a copy of its weights: free it before the next one
        op = ops.pop(0)
        x.add_(op(x, inputs, op.init_cache(1, len(tokens))))
    x = inputs.last(x)
    for matrix in _head(model, _unpacked):
        x = matrix(x)
    if not torch.allclose(x, expected, rtol=0, atol=CHECK_TOLERANCE * float(expected.abs().max())):
        raise UnsupportedModelError(f"{type(model).__name__}.decode, which is not its blocks in order")


def _unpacked(weight: Tensor, bias: Tensor | None) -> PackedLinear:
    return lambda x: functional.linear(x, weight, bias)
