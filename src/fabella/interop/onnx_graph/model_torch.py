"""A model as an ONNX graph, made from the operations of the decoder graph, so that no family is described twice.

Inputs are the ids [batch, length] and the state of each layer, empty at first; outputs are the logits at every position
and the new states. So one graph reads a whole text, a prompt, or one more token. Names are those of Hugging Face's
exports where they have one: ``input_ids``, ``past_key_values.0.key``, ``present.0.key``, ``logits``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fabella.engine.build_model_torch import load_model
from fabella.generation.decoder.graph_torch import (
    AttentionOp,
    ConvolutionOp,
    DecoderGraph,
    EmbeddingAddOp,
    EmbeddingMixOp,
    GatedRecurrenceOp,
    GELUOp,
    LayerNormOp,
    LinearOp,
    ParallelOp,
    RecurrenceOp,
    SwiGLUOp,
)
from fabella.generation.decoder.lower_torch import UnsupportedModelError, lower
from fabella.generation.decoder.packed_linear_torch import float32_linear
from fabella.interop.onnx_graph.builder import FLOAT, INT64, GraphBuilder
from fabella.models.model_config import ModelConfig

UnsupportedModel = UnsupportedModelError
IDS, LOGITS = "input_ids", "logits"


@torch.inference_mode()
def model_of(onnx: Any, config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], *, half: bool) -> Any:
    """Return the ``ModelProto`` of a model; ``half``: matrices in float16. Raises UnsupportedModel."""
    graph = lower(load_model(config, weights, "cpu"), float32_linear)
    return _Writer(GraphBuilder(onnx, half), config.context_length).write(graph, config.vocab_size)


class _Writer:
    """Writes the operations of one graph. Values are [batch, length, D]."""

    def __init__(self, builder: GraphBuilder, context_length: int) -> None:
        self._builder, self._context_length = builder, context_length
        self._ids = builder.add_input(IDS, INT64, ["batch", "length"])
        self._matrices: dict[tuple[int, bool], str] = {}
        self._kept: list[Tensor] = []
        self._masks: dict[int | None, str] = {}
        self._states = 0
        self._start = self._end = ""
        """First position of the ids, and the one after the last, as vectors of one number; empty without attention."""
        self._embedded = self._first_values = ""
        """Start of the residual stream, and the values of the first attention where later ones read them."""
        self._normed = self._convolved = ""
        """Input and output of the last convolution."""

    def write(self, graph: DecoderGraph, vocab_size: int) -> Any:
        build = self._builder
        x = build.node("Gather", self._matrix(graph.embedding.table), self._ids)
        # The number of the positions is that of the first KV cache, so the layers come before the start.
        caches = [self._add_inputs(op) for op in graph.ops]
        if graph.embedding.positions is not None:
            x = build.node("Add", x, self._rows(graph.embedding.positions))
        if graph.embedding.norm is not None:
            x = self._norm(graph.embedding.norm, x)
        if graph.embedding.up_proj is not None:
            x = self._linear(graph.embedding.up_proj, x)[0]
        self._embedded = x
        for op, cache in zip(graph.ops, caches, strict=True):
            if isinstance(op, ConvolutionOp):
                self._convolve(op, x, cache[0])
            elif isinstance(op, EmbeddingMixOp):
                x = self._weighted_sum(x, self._embedded, float(op.own_weight), float(op.embedding_weight))
            else:
                x = build.node("Add", x, self._op(op, x, cache))
        for matrix in graph.head:
            (x,) = self._linear(matrix, x)
        build.outputs.insert(0, build.onnx.helper.make_tensor_value_info(
            build.rename(x, LOGITS), FLOAT, ["batch", "length", vocab_size]
        ))  # fmt: skip
        return build.model("fabella")

    def _add_inputs(self, op: Any) -> tuple[str, ...]:
        """Add the inputs for the state of an operation and return their names."""
        if isinstance(op, ParallelOp):
            return next((names for member in op.members if (names := self._add_inputs(member))), ())
        build, number = self._builder, self._states
        if isinstance(op, AttentionOp):
            self._states += 1
            shape = ["batch", op.kv_heads, "past_length", op.head_dim]
            names = tuple(
                build.add_input(f"past_key_values.{number}.{part}", FLOAT, shape) for part in ("key", "value")
            )
            if not self._start:
                self._start = build.dimension(names[0], 2)
                self._end = build.node("Add", self._start, build.dimension(self._ids, 1))
            return names
        if isinstance(op, RecurrenceOp | GatedRecurrenceOp):
            self._states += 1
            shape = ["batch", len(op.matrix.weights[0])]
            return (build.add_input(f"past_hidden.{number}", FLOAT, shape),)
        if isinstance(op, ConvolutionOp):  # its number is that of the mixer that follows
            size, dim = op.taps.shape
            return (build.add_input(f"past_inputs.{number}", FLOAT, ["batch", size - 1, dim]),)
        return ()

    def _op(self, op: Any, x: str, cache: tuple[str, ...]) -> str:
        """Return what an operation adds to the residual stream."""
        build = self._builder
        if isinstance(op, ParallelOp):
            return build.node("Sum", *(self._op(member, x, cache) for member in op.members))
        if isinstance(op, AttentionOp):
            return self._attention(op, x, cache)
        if isinstance(op, RecurrenceOp):
            hidden = self._hidden_states(op, x, cache[0])
            return hidden if op.output is None else self._linear(op.output, hidden)[0]
        if isinstance(op, GatedRecurrenceOp):
            read, normed = (self._convolved, self._normed) if op.convolved else (x, x)
            hidden = self._norm(op.norm, self._hidden_states(op, read, cache[0]))
            (gate,) = self._linear(op.output_gate, normed)
            return self._linear(op.output, build.node("Mul", hidden, self._silu(gate)))[0]
        if isinstance(op, SwiGLUOp):
            gate, up = self._linear(op.matrix, x)
            return self._linear(op.down, build.node("Mul", self._silu(gate), up))[0]
        if isinstance(op, GELUOp):
            (up,) = self._linear(op.matrix, x)
            return self._linear(op.down, build.node("Gelu", up, approximate=op.approximate))[0]
        if isinstance(op, EmbeddingAddOp):
            return build.node("Gather", self._matrix(op.table), self._ids)
        raise UnsupportedModelError(type(op).__name__)

    def _linear(self, linear: LinearOp, x: str, orders: tuple[Tensor | None, ...] = ()) -> list[str]:
        """Return the output of each layer that reads the normed ``x``; ``orders``: permutations of their rows."""
        build = self._builder
        if linear.norm is not None:
            x = self._norm(linear.norm, x)
        outputs: list[str] = []
        for number, weight in enumerate(linear.weights):
            order = orders[number] if orders else None
            y = build.node("MatMul", x, self._matrix(weight if order is None else weight[order], transposed=True))
            if linear.biases:
                bias = linear.biases[number]
                y = build.node("Add", y, build.constant(_array(bias if order is None else bias[order])))
            outputs.append(y)
        return outputs

    def _matrix(self, weight: Tensor, *, transposed: bool = False) -> str:
        """Return the name of a matrix [O I], or of its transpose; equal tensors of the model are stored once."""
        key = (weight.data_ptr(), transposed)
        if key not in self._matrices:
            self._kept.append(weight)  # its address stays its own
            if transposed:
                self._matrices[key] = self._builder.node("Transpose", self._matrix(weight), perm=[1, 0])
            else:
                self._matrices[key] = self._builder.constant(_array(weight), "weight")
        return self._matrices[key]

    def _weighted_sum(self, x: str, other: str, weight: float, other_weight: float) -> str:
        build = self._builder
        terms = (build.node("Mul", y, build.number(w)) for y, w in ((x, weight), (other, other_weight)))
        return build.node("Add", *terms)

    def _silu(self, x: str) -> str:
        return self._builder.node("Mul", x, self._builder.node("Sigmoid", x))

    def _norm(self, norm: Any, x: str) -> str:
        build = self._builder
        weight = build.constant(_array(norm.weight))
        if isinstance(norm, LayerNormOp):
            bias = [] if norm.bias is None else [build.constant(_array(norm.bias))]
            return build.node("LayerNormalization", x, weight, *bias, axis=-1, epsilon=norm.eps)
        return self._rms_norm(x, weight, norm.eps)

    def _rms_norm(self, x: str, weight: str, eps: float) -> str:
        build = self._builder
        mean = build.node("ReduceMean", build.node("Mul", x, x), build.integers(-1), keepdims=1)
        root = build.node("Sqrt", build.node("Add", mean, build.number(eps)))
        return build.node("Mul", build.node("Div", x, root), weight)

    def _rows(self, table: Tensor) -> str:
        """Return the rows of a table [S d] at the positions of the ids."""
        if not self._start:
            raise UnsupportedModelError("positions without attention")
        build = self._builder
        name = build.constant(_array(table[: self._context_length]), "table")
        return build.node("Slice", name, self._start, self._end, build.integers(0))

    def _attention(self, op: AttentionOp, x: str, cache: tuple[str, ...]) -> str:
        build, group = self._builder, op.heads // op.kv_heads
        order = _halves(op)
        orders = tuple(None if order is None else _of_heads(order, heads) for heads in (op.heads, op.kv_heads))
        projected = self._linear(op.matrix, self._convolved if op.convolved else x, (*orders, None, None))
        if op.gate_matrix is not None:
            projected += self._linear(op.gate_matrix, self._normed)
        query, key, value = (
            self._heads(y, heads, op.head_dim)
            for y, heads in zip(projected[:3], (op.heads, op.kv_heads, op.kv_heads), strict=True)
        )
        if op.head_norm is not None:
            weights = (op.head_norm.query_weight, op.head_norm.key_weight)
            query, key = (
                self._rms_norm(y, build.constant(_array(w if order is None else w[order])), op.head_norm.eps)
                for y, w in zip((query, key), weights, strict=True)
            )
        if op.rotary is not None:
            cos, sin = self._rows(op.rotary.real), self._rows(op.rotary.imag)
            query, key = (self._rotated(y, cos, sin, op) for y in (query, key))
        value = self._mixed_values(op, value)
        number = cache[0].split(".")[1]
        key, value = (build.node("Concat", past, new, axis=2) for past, new in zip(cache, (key, value), strict=True))
        for name, present in (("key", key), ("value", value)):
            build.add_output(present, f"present.{number}.{name}", ["batch", op.kv_heads, "total_length", op.head_dim])
        # Queries that share a key are one dimension more, along which keys and values are broadcast.
        grouped = build.reshaped(query, 0, op.kv_heads, group, -1, op.head_dim)
        keys, values = (build.node("Unsqueeze", y, build.integers(2)) for y in (key, value))
        scores = build.node("MatMul", grouped, build.node("Transpose", keys, perm=[0, 1, 2, 4, 3]))
        scores = build.node("Mul", scores, build.number(op.score_scale))
        weights = build.node("Softmax", build.node("Add", scores, self._mask(op.window)), axis=-1)
        sums = build.node("Transpose", build.node("MatMul", weights, values), perm=[0, 3, 1, 2, 4])
        if op.output_gate:
            sums = self._gated(op, sums, projected[3])
        return self._linear(op.output, build.reshaped(sums, 0, 0, op.heads * op.head_dim))[0]

    def _gated(self, op: AttentionOp, sums: str, gates: str) -> str:
        """Return the output of each head times 2·σ of its gate."""
        build = self._builder
        factors = build.node("Mul", build.node("Sigmoid", gates), build.number(2.0))
        heads = build.reshaped(sums, 0, 0, op.heads, op.head_dim)
        return build.node("Mul", heads, build.node("Unsqueeze", factors, build.integers(3)))

    def _mixed_values(self, op: AttentionOp, value: str) -> str:
        """Return the values mixed with those of the first attention, if the attention mixes them."""
        if op.keeps_values:
            self._first_values = value
        if op.value_weights is None:
            return value
        own, first = op.value_weights.tolist()
        return self._weighted_sum(value, self._first_values, own, first)

    def _heads(self, x: str, heads: int, head_dim: int) -> str:
        """Return [batch, heads, length, E] from [batch, length, heads · E]."""
        return self._builder.node("Transpose", self._builder.reshaped(x, 0, 0, heads, head_dim), perm=[0, 2, 1, 3])

    def _rotated(self, x: str, cos: str, sin: str, op: AttentionOp) -> str:
        """Rotate dimension i of each head with i + P; those from 2·P on stay."""
        assert op.rotary is not None
        build, pairs = self._builder, op.rotary.shape[1]
        rest = op.head_dim - 2 * pairs
        sizes = build.integers(pairs, pairs, *([rest] if rest else []))
        first, second, *others = build.node("Split", x, sizes, outputs=3 if rest else 2, axis=3)
        rotated = build.node("Sub", build.node("Mul", first, cos), build.node("Mul", second, sin))
        partner = build.node("Add", build.node("Mul", second, cos), build.node("Mul", first, sin))
        return build.node("Concat", rotated, partner, *others, axis=3)

    def _mask(self, window: int | None) -> str:
        """Return [length, total length]: 0 where a position is seen, else −∞."""
        if window not in self._masks:
            build, zero, one = self._builder, self._scalar(0), self._scalar(1)
            start, end = build.scalar(self._start), build.scalar(self._end)
            keys = build.node("Range", zero, end, one)
            queries = build.node("Unsqueeze", build.node("Range", start, end, one), build.integers(1))
            seen = build.node("LessOrEqual", keys, queries)
            if window is not None:
                oldest = build.node("Sub", queries, build.integers(window))
                seen = build.node("And", seen, build.node("Greater", keys, oldest))
            self._masks[window] = build.node("Where", seen, build.number(0.0), build.number(-np.inf))
        return self._masks[window]

    def _scalar(self, value: int) -> str:
        return self._builder.constant(np.array(value, dtype=np.int64))

    def _convolve(self, op: ConvolutionOp, x: str, past: str) -> None:
        """Set the input and the output of a convolution, and add its last inputs as an output."""
        build, (size, dim) = self._builder, op.taps.shape
        self._normed = self._norm(op.norm, x)
        inputs = build.node("Concat", past, self._normed, axis=1)
        channels = build.node("Transpose", inputs, perm=[0, 2, 1])
        weight = build.constant(_array(op.taps.T.unsqueeze(1)), "taps")
        sums = build.node("Transpose", build.node("Conv", channels, weight, group=dim), perm=[0, 2, 1])
        self._convolved = build.node("Add", self._normed, sums)
        end = build.dimension(inputs, 1)
        start = build.node("Sub", end, build.integers(size - 1))
        last = build.node("Slice", inputs, start, end, build.integers(1))
        build.add_output(last, past.replace("past", "present"), ["batch", size - 1, dim])

    def _hidden_states(self, op: RecurrenceOp | GatedRecurrenceOp, x: str, past: str) -> str:
        """Return the hidden state at every position, and add the last one as an output."""
        build = self._builder
        gate, candidate = self._linear(op.matrix, x)
        number = past.split(".")[1]
        z = build.node("Sigmoid", gate)
        # g(x) = x + 0.5 for x ≥ 0 and σ(x) below is the larger of the two: σ is less steep than 1 everywhere
        shifted = build.node("Add", candidate, build.number(0.5))
        target = build.node("Max", build.node("Sigmoid", candidate), shifted)
        last, hidden = build.node(
            "Scan", past, z, target, outputs=2, num_scan_inputs=2, scan_input_axes=[1, 1], scan_output_axes=[1],
            body=_recurrence_step(build.onnx, number, len(op.matrix.weights[0])),
        )  # fmt: skip
        build.add_output(last, past.replace("past", "present"), ["batch", len(op.matrix.weights[0])])
        return hidden


def _recurrence_step(onnx: Any, number: str, width: int) -> Any:
    """Return the body of a scan: h + z · (target − h)."""
    step = GraphBuilder(onnx, prefix=f"step_{number}_")
    names = [step.add_input(f"{step.prefix}{name}", FLOAT, ["batch", width]) for name in ("h", "z", "target")]
    change = step.node("Mul", names[1], step.node("Sub", names[2], names[0]))
    hidden = step.node("Add", names[0], change)
    for name in ("next", "output"):
        step.add_output(hidden, f"{step.prefix}{name}", ["batch", width])
    return onnx.helper.make_graph(step.nodes, "recurrence", step.inputs, step.outputs, step.constants)


def _halves(op: AttentionOp) -> Tensor | None:
    """Return the order of a head's dimensions that puts rotated neighbors P apart; None if they are so already."""
    if op.rotary is None or op.half_rotation:
        return None
    rotated = 2 * op.rotary.shape[1]
    return torch.cat((torch.arange(0, rotated, 2), torch.arange(1, rotated, 2), torch.arange(rotated, op.head_dim)))


def _of_heads(order: Tensor, heads: int) -> Tensor:
    return (torch.arange(heads).unsqueeze(1) * len(order) + order).flatten()


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.contiguous().numpy()
