"""A model as a program of the page's decoder: the operations of Fabella's int8 decoder, and their tensors.

The operations are those of the decoder graph (``fabella.generation.decoder``), so that no family describes its network
a second time. ``decoder.js`` runs them; the names of its fields are the keys here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    HeadNormOp,
    LayerNormOp,
    LinearOp,
    ParallelOp,
    RecurrenceOp,
    SwiGLUOp,
    flat_ops,
)
from fabella.generation.decoder.lower_torch import UnsupportedModelError, lower
from fabella.generation.decoder.packed_linear_torch import float32_linear, quantize_rows
from fabella.models.model_config import ModelConfig

RESIDUAL, RESIDUAL_ALT, WIDE, MIXED, EMBEDDED, VALUES, NORMED, CONVOLVED, GATES = range(9)
"""Buffers: the residual stream; a second one, for an op that cannot update it in place; two between matrix products;
the embeddings and the values of the first attention, where later layers read them; input and output of a convolution,
and the gates of heads that read its input."""
LOGITS = -1
ALIGNMENT = 4
"""Bytes: JavaScript reads a float32 array at multiples of 4 only."""

UnsupportedModel = UnsupportedModelError


@dataclass(slots=True)
class Program:
    """Operations, buffers and caches for ``decoder.js``, and the tensors that the operations name by number."""

    capacity: int
    """Positions of the KV caches."""
    operations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    widths: list[int] = field(default_factory=lambda: [0] * 9)
    caches: list[int] = field(default_factory=list[int])
    """Numbers in each cache."""
    vocab_size: int = 0
    widest_output: int = 0
    tensors: list[NDArray[Any]] = field(default_factory=list[NDArray[Any]])
    stream: int = RESIDUAL
    """Buffer of the residual stream after the last operation."""
    _numbers: dict[tuple[int, str], Any] = field(default_factory=dict[tuple[int, str], Any])
    _kept: list[Tensor] = field(default_factory=list[Tensor])

    def as_json(self) -> dict[str, Any]:
        """Return ``program`` and ``tensors`` of the page's model: for each tensor dtype, first byte, length."""
        table: list[tuple[str, int, int]] = []
        offset = 0
        for array in self.tensors:
            table.append((array.dtype.name, offset, array.size))
            offset += _padded(array.nbytes)
        program = {
            "operations": self.operations, "widths": self.widths, "caches": self.caches, "capacity": self.capacity,
            "vocab_size": self.vocab_size, "widest_output": self.widest_output,
        }  # fmt: skip
        return {"program": program, "tensors": table}

    def tensor_bytes(self) -> bytes:
        """Return all tensors, each from a multiple of ``ALIGNMENT`` bytes."""
        return b"".join(array.tobytes().ljust(_padded(array.nbytes), b"\0") for array in self.tensors)

    def floats(self, tensor: Tensor | None) -> int | None:
        """Return the number of a float32 tensor; equal tensors of the model are stored once."""
        return None if tensor is None else self._number(tensor, "float32", lambda: self._store(tensor))

    def matrix(self, weight: Tensor, bias: Tensor | None = None) -> dict[str, Any]:
        """Return a weight [O I] in int8 with the scales of its rows."""

        def store() -> tuple[int, int]:
            quantized, scales = quantize_rows(weight)
            return self._store(quantized), self._store(scales)

        numbers, rows = self._number(weight, "int8", store), len(weight)
        self.widest_output = max(self.widest_output, rows)
        return _given(weight=numbers[0], scales=numbers[1], bias=self.floats(bias), rows=rows)

    def angles(self, rotary: Tensor) -> tuple[int, int]:
        """Return the numbers of cosine and sine of e^(i·angle) [S P], one table for all layers."""
        rows = rotary[: self.capacity]
        return self._number(rotary, "angles", lambda: (self._store(rows.real), self._store(rows.imag)))

    def reserve(self, buffer: int, width: int) -> None:
        """Make a buffer at least ``width`` numbers wide."""
        if buffer != LOGITS:
            self.widths[buffer] = max(self.widths[buffer], width)

    def add_cache(self, size: int) -> int:
        """Return the number of a new cache of ``size`` numbers."""
        self.caches.append(size)
        return len(self.caches) - 1

    def _number(self, tensor: Tensor, kind: str, store: Any) -> Any:
        key = (tensor.data_ptr(), kind)
        if key not in self._numbers:
            self._kept.append(tensor)  # its address stays its own
            self._numbers[key] = store()
        return self._numbers[key]

    def _store(self, tensor: Tensor) -> int:
        self.tensors.append(np.ascontiguousarray(tensor.numpy()))
        return len(self.tensors) - 1


@torch.inference_mode()
def program_of(config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], capacity: int) -> Program:
    """Return the program of a model whose KV caches hold ``capacity`` tokens. Raises UnsupportedModel."""
    graph = lower(load_model(config, weights, "cpu"), float32_linear)
    program = Program(capacity=capacity)
    _add_embedding(program, graph)
    for op in graph.ops:
        _add_op(program, op)
    for matrix in graph.head[:-1]:
        _linear(program, matrix, program.stream, WIDE, last_only=True)
        program.stream = WIDE
    _linear(program, graph.head[-1], program.stream, LOGITS, last_only=True)
    program.vocab_size = len(graph.head[-1].weights[0])
    return program


def _add_embedding(program: Program, graph: DecoderGraph) -> None:
    embedding = graph.embedding
    positions = None if embedding.positions is None else embedding.positions[: program.capacity]
    _embed(
        program,
        embedding.table,
        RESIDUAL if embedding.up_proj is None else WIDE,
        positions=positions,
        norm=embedding.norm,
    )
    if embedding.up_proj is not None:
        _linear(program, embedding.up_proj, WIDE, RESIDUAL)


def _add_op(program: Program, op: Any) -> None:
    """Append the operations that add the output of ``op`` to the residual stream."""
    stream = program.stream
    if isinstance(op, ParallelOp) or (isinstance(op, RecurrenceOp) and op.output is None):
        program.stream = RESIDUAL_ALT if stream == RESIDUAL else RESIDUAL  # the input must stay until the last op
    sums = stream
    for member in flat_ops([op]):
        _add_member(program, member, stream, sums)
        sums = program.stream


def _add_member(program: Program, op: Any, stream: int, sums: int) -> None:
    """Append operations that read ``stream``, and add their output to ``sums`` in the new residual stream."""
    target = program.stream
    if isinstance(op, AttentionOp):
        _linear(program, op.matrix, CONVOLVED if op.convolved else stream, WIDE)
        if op.gate_matrix is not None:
            _linear(program, op.gate_matrix, NORMED, GATES)
        _attention(program, op)
        _linear(program, op.output, MIXED, target, residual=sums)
    elif isinstance(op, EmbeddingMixOp):
        _mix(program, op, target)
    elif isinstance(op, ConvolutionOp):
        _convolution(program, op, stream)
    elif isinstance(op, GatedRecurrenceOp):
        read, normed = (CONVOLVED, NORMED) if op.convolved else (stream, stream)
        cache = program.add_cache(len(op.matrix.weights[0]))
        _linear(program, op.matrix, read, WIDE, epilogue="mingru", cache=cache)
        _linear(program, op.output_gate, normed, MIXED)
        _linear(program, op.output, WIDE, target, residual=sums, norm=_norm(program, op.norm), gate=MIXED)
    elif isinstance(op, RecurrenceOp):
        cache = program.add_cache(len(op.matrix.weights[0]))
        if op.output is None:
            _linear(program, op.matrix, stream, target, residual=sums, epilogue="mingru", cache=cache)
        else:
            _linear(program, op.matrix, stream, WIDE, epilogue="mingru", cache=cache)
            _linear(program, op.output, WIDE, target, residual=sums)
    elif isinstance(op, SwiGLUOp | GELUOp):
        gelu = "gelu_tanh" if isinstance(op, GELUOp) and op.approximate == "tanh" else "gelu"
        _linear(program, op.matrix, stream, WIDE, epilogue="swiglu" if isinstance(op, SwiGLUOp) else gelu)
        _linear(program, op.down, WIDE, target, residual=sums)
    elif isinstance(op, EmbeddingAddOp):
        _embed(program, op.table, target, residual=sums)
    else:
        raise UnsupportedModelError(type(op).__name__)


def _mix(program: Program, op: EmbeddingMixOp, target: int) -> None:
    """Append the sum of the residual stream and the embeddings, which the first operation keeps."""
    start, width = program.operations[0], program.widths[target]
    if start["target"] != RESIDUAL:
        raise UnsupportedModelError("projected embeddings that later layers read again")
    start["kept"] = EMBEDDED
    program.reserve(EMBEDDED, width)
    own, kept = float(op.own_weight), float(op.embedding_weight)
    program.operations.append(
        {"kind": "mix", "target": target, "kept": EMBEDDED, "inputs": width, "own_weight": own, "kept_weight": kept}
    )


def _convolution(program: Program, op: ConvolutionOp, stream: int) -> None:
    size, width = op.taps.shape
    for buffer in (NORMED, CONVOLVED):
        program.reserve(buffer, width)
    program.operations.append(
        {
            "kind": "convolve",
            "source": stream,
            "target": CONVOLVED,
            "kept": NORMED,
            "inputs": width,
            "norm": _norm(program, op.norm),
            "past": size - 1,
            "taps": program.floats(op.taps),
            "cache": program.add_cache((size - 1) * width),
        }
    )


def _embed(
    program: Program,
    table: Tensor,
    target: int,
    *,
    positions: Tensor | None = None,
    norm: Any = None,
    residual: int | None = None,
) -> None:
    program.reserve(target, table.shape[1])
    rows = program.matrix(table)
    program.operations.append(
        _given(
            kind="embed",
            target=target,
            inputs=table.shape[1],
            table=rows["weight"],
            scales=rows["scales"],
            positions=program.floats(positions),
            norm=_norm(program, norm),
            residual=residual,
        )
    )


def _linear(program: Program, linear: LinearOp, source: int, target: int, **more: Any) -> None:
    """``more``: fields of the operation, such as a ``norm`` other than that of ``linear``."""
    epilogue = more.setdefault("epilogue", "store")
    rows, inputs = [len(weight) for weight in linear.weights], linear.weights[0].shape[1]
    program.reserve(source, inputs)
    program.reserve(target, rows[0] if epilogue in ("swiglu", "mingru") else sum(rows))
    biases = linear.biases or [None] * len(rows)
    matrices = [program.matrix(weight, bias) for weight, bias in zip(linear.weights, biases, strict=True)]
    more.setdefault("norm", _norm(program, linear.norm))
    program.operations.append(
        _given(
            kind="project",
            source=source,
            target=target,
            inputs=inputs,
            matrices=matrices,
            **more,
        )
    )


def _norm(program: Program, norm: Any) -> dict[str, Any] | None:
    if norm is None:
        return None
    kind = "layer" if isinstance(norm, LayerNormOp) else "rms"
    bias = norm.bias if isinstance(norm, LayerNormOp) else None
    return _given(kind=kind, eps=norm.eps, weight=program.floats(norm.weight), bias=program.floats(bias))


def _attention(program: Program, op: AttentionOp) -> None:
    program.reserve(MIXED, op.heads * op.head_dim)
    cache = program.add_cache(2 * op.kv_heads * program.capacity * op.head_dim)
    cos, sin = (None, None) if op.rotary is None else program.angles(op.rotary)
    own, first = (None, None) if op.value_weights is None else op.value_weights.tolist()
    if op.keeps_values or op.value_weights is not None:
        program.reserve(VALUES, op.kv_heads * op.head_dim)
    program.operations.append(
        _given(
            kind="attend",
            source=WIDE,
            target=MIXED,
            cache=cache,
            heads=op.heads,
            kv_heads=op.kv_heads,
            head_dim=op.head_dim,
            half_rotation=op.half_rotation,
            cos=cos,
            sin=sin,
            rotary_pairs=0 if op.rotary is None else op.rotary.shape[1],
            score_scale=op.score_scale,
            window=op.window,
            head_norm=None if op.head_norm is None else _head_norm(program, op.head_norm),
            gate=None if not op.output_gate else WIDE if op.gate_matrix is None else GATES,
            keeps_values=op.keeps_values or None,
            first_values=VALUES if op.keeps_values or op.value_weights is not None else None,
            own_weight=own,
            kept_weight=first,
        )
    )


def _head_norm(program: Program, norm: HeadNormOp) -> dict[str, Any]:
    return {"eps": norm.eps, "query": program.floats(norm.query_weight), "key": program.floats(norm.key_weight)}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
