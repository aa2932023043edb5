"""A decoder as a program for the compiled step (decode.cpp): one call a token instead of some hundred.

The structures mirror those of decode.cpp field by field. Weights are not copied, save those in less memory: the program
points at the model's own, which the decoder keeps alive.
"""

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fabella.generation.decoder.graph_torch import (
    AttentionOp,
    DecoderGraph,
    EmbeddingAddOp,
    GELUOp,
    LayerNormOp,
    LinearOp,
    NormOp,
    RecurrenceOp,
    RMSNormOp,
    SwiGLUOp,
    copy_row,
    reset_row,
)
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype

PREFILL_CHUNK = 128
"""Tokens of prompts that are read at once: as many as let the products work, as few as fit into the cache."""
BLOCK, ROWS, STAGE_BYTES = 256, 6, 64
"""As in decode.cpp; ``ROWS``: the most of any ``Tile`` of matmul.h, which decides how much room sums have."""
LOOKUP, PROJECT, ATTEND = range(3)
PLAIN, ROOT_MEAN_SQUARE, LAYER = range(3)
STORE, GELU, GELU_TANH, SWIGLU, RECUR = range(5)
FORMATS: dict[WeightDtype, int] = {"float32": 0, "float16": 1, "int8": 2}
STREAM, OTHER_STREAM, WIDE, MIXED = range(4)
"""Buffers: what every op adds to, twice, as it cannot be read and written at once; what lies between two products."""
LOGITS = -1
LARGEST_HALF = 65504.0

_address = ctypes.c_void_p


class _Matrix(ctypes.Structure):
    _fields_ = [("weight", _address), ("scales", _address), ("bias", _address), ("rows", ctypes.c_int64)]


class _Operation(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("kind", "norm", "then", "format", "source", "to", "residual", "memory")),
        *((name, ctypes.c_int32) for name in ("last", "matrices", "heads", "kv_heads", "head_dim", "pairs", "halves")),
        ("eps", ctypes.c_float),
        ("inputs", ctypes.c_int64),
        ("matrix", _Matrix * 3),
        *((name, _address) for name in ("norm_weight", "norm_bias", "table", "places", "cos", "sin")),
    ]


class _Program(ctypes.Structure):
    _fields_ = [
        ("operations", ctypes.POINTER(_Operation)),
        ("stages", _address),
        ("buffers", ctypes.POINTER(_address)),
        ("scratch", _address),
        ("count", ctypes.c_int64),
        ("scratch_bytes", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("padding", ctypes.c_int32),
    ]


class _Call(ctypes.Structure):
    _fields_ = [
        ("memories", ctypes.POINTER(_address)),
        *((name, ctypes.c_int64) for name in ("capacity", "known", "n", "skip")),
        *((name, _address) for name in ("tokens", "rows", "positions", "logits")),
        ("stretch", ctypes.c_int64),
    ]


class UnsupportedOpError(Exception):
    """A decoder has something that the compiled step does not know."""


class NativeProgram:
    """The operations of one graph, in the order in which they are done."""

    def __init__(self, graph: DecoderGraph, library: ctypes.CDLL, weights: WeightDtype = "float32") -> None:
        """Raises UnwritableError where a op, a norm or a number is of a kind that decode.cpp does not have."""
        self.library, self._format = library, FORMATS[weights]
        if not library.fabella_has(self._format):
            raise UnsupportedOpError(weights)
        self.graph = graph
        self.vocab_size, self.known = len(graph.head[-1].weights[0]), len(graph.embedding.table)
        self.longest = 2**62 if graph.embedding.positions is None else len(graph.embedding.positions)
        """Positions that there are tables for"""
        self.attends = any(isinstance(op, AttentionOp) for op in graph.ops)
        self.widths = [0, 0, 0, 0]
        self.widest_input = 0
        self._kept: list[Tensor] = []
        self._stream = STREAM
        self._list: list[_Operation] = []
        self._begin(graph)
        for number, op in enumerate(graph.ops):
            self._part(op, number)
        for matrix in graph.head[:-1]:
            self._project(matrix, self._stream, WIDE, last=True)
            self._stream = WIDE
        self._project(graph.head[-1], self._stream, LOGITS, last=True)
        self.operations = (_Operation * len(self._list))(*self._list)

    def _begin(self, graph: DecoderGraph) -> None:
        first = graph.embedding
        self._look_up(first.table, STREAM if first.up_proj is None else WIDE, positions=first.positions)
        if first.up_proj is not None:
            self._project(first.up_proj, WIDE, STREAM)

    def _part(self, op: Any, number: int) -> None:
        """What a op adds to the stream."""
        stream = self._stream
        if isinstance(op, AttentionOp):
            self._project(op.matrix, stream, WIDE)
            self._attend(op, number)
            self._project(op.output, MIXED, stream, residual=stream)
        elif isinstance(op, RecurrenceOp) and op.output is None:
            self._stream = OTHER_STREAM if stream == STREAM else STREAM
            self._project(op.matrix, stream, self._stream, residual=stream, then=RECUR, memory=number)
        elif isinstance(op, RecurrenceOp):
            assert op.output is not None
            self._project(op.matrix, stream, WIDE, then=RECUR, memory=number)
            self._project(op.output, WIDE, stream, residual=stream)
        elif isinstance(op, SwiGLUOp):
            self._project(op.matrix, stream, WIDE, then=SWIGLU)
            self._project(op.down, WIDE, stream, residual=stream)
        elif isinstance(op, GELUOp):
            self._project(op.matrix, stream, WIDE, then=GELU_TANH if op.approximate == "tanh" else GELU)
            self._project(op.down, WIDE, stream, residual=stream)
        elif isinstance(op, EmbeddingAddOp):
            self._look_up(op.table, stream, residual=stream)
        else:
            raise UnsupportedOpError(type(op).__name__)

    def _look_up(self, table: Tensor, to: int, *, positions: Tensor | None = None, residual: int = -1) -> None:
        width = table.shape[1]
        self._widen(to, width)
        self._list.append(
            _Operation(
                kind=LOOKUP,
                to=to,
                residual=residual,
                memory=-1,
                inputs=width,
                table=self._at(table),
                places=None if positions is None else self._at(positions),
            )
        )

    def _project(
        self,
        matrix: LinearOp,
        source: int,
        to: int,
        *,
        residual: int = -1,
        then: int = STORE,
        memory: int = -1,
        last: bool = False,
    ) -> None:
        kind, norm_weight, norm_bias, eps = self._norm(matrix.norm)
        inputs = matrix.weights[0].shape[1]
        rows = [len(weight) for weight in matrix.weights]
        if to != LOGITS:
            self._widen(to, rows[0] if then in (SWIGLU, RECUR) else sum(rows))
        self._widen(source, inputs)
        self.widest_input = max(self.widest_input, inputs)
        self._list.append(
            _Operation(
                kind=PROJECT,
                norm=kind,
                then=then,
                format=self._format,
                source=source,
                to=to,
                residual=residual,
                memory=memory,
                last=last,
                matrices=len(rows),
                eps=eps,
                inputs=inputs,
                matrix=tuple(self._matrix(matrix, number) for number in range(len(rows))),
                norm_weight=norm_weight,
                norm_bias=norm_bias,
            )
        )

    def _matrix(self, matrix: LinearOp, number: int) -> _Matrix:
        weight, scales = self._in_format(matrix.weights[number])
        bias = self._at(matrix.biases[number]) if matrix.biases else None
        return _Matrix(self._at(weight), None if scales is None else self._at(scales), bias, len(weight))

    def _in_format(self, weight: Float[Tensor, "O I"]) -> tuple[Tensor, Tensor | None]:
        """The weight, and what a byte stands for, where it is in bytes: a scale of its own for each output."""
        if self._format == FORMATS["float16"]:
            return weight.clamp(-LARGEST_HALF, LARGEST_HALF).half(), None
        if self._format == FORMATS["int8"]:
            scales = weight.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
            return (weight / scales).round().to(torch.int8), scales.flatten()
        return weight, None

    def _norm(self, norm: NormOp | None) -> tuple[int, int | None, int | None, float]:
        if norm is None:
            return PLAIN, None, None, 0.0
        if isinstance(norm, RMSNormOp):
            return ROOT_MEAN_SQUARE, self._at(norm.weight), None, norm.eps
        if isinstance(norm, LayerNormOp):
            return LAYER, self._at(norm.weight), None if norm.bias is None else self._at(norm.bias), norm.eps
        raise UnsupportedOpError(type(norm).__name__)

    def _attend(self, op: AttentionOp, number: int) -> None:
        self._widen(MIXED, op.heads * op.head_dim)
        operation = _Operation(
            kind=ATTEND,
            source=WIDE,
            to=MIXED,
            residual=-1,
            memory=number,
            heads=op.heads,
            kv_heads=op.kv_heads,
            head_dim=op.head_dim,
            halves=op.half_rotation,
        )
        if op.rotary is not None:
            self.longest = min(self.longest, len(op.rotary))
            operation.pairs = op.rotary.shape[1]
            operation.cos, operation.sin = self._at(op.rotary.real), self._at(op.rotary.imag)
        self._list.append(operation)

    def _widen(self, buffer: int, width: int) -> None:
        self.widths[buffer] = max(self.widths[buffer], width)

    def _at(self, tensor: Tensor) -> int:
        """Where its numbers lie, one after the other, for as long as the program lives."""
        if tensor.dtype == torch.float64 or tensor.device.type != "cpu":
            raise UnsupportedOpError(f"{tensor.dtype} on {tensor.device}")
        kept = tensor.contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


class NativeBackend:
    """Rows of one memory that the compiled step reads: see ``Rows``. Nothing is allocated for a token."""

    def __init__(self, program: NativeProgram, rows: int, capacity: int) -> None:
        self._program, self._rows = program, rows
        self._capacity = min(capacity, program.longest)
        self._memory = program.graph.init_cache(rows, capacity)
        most = max(rows, PREFILL_CHUNK)
        self._threads = torch.get_num_threads()
        self._room = [torch.empty(max(1, most * width)) for width in program.widths]
        self._logits = torch.empty(rows, program.vocab_size)
        # Of each thread: two blocks of sums, scales, inputs normed and in bytes; or the scores of a text.
        floats = 2 * BLOCK + most * (2 * ROWS + 1 + program.widest_input + program.widest_input // 4 + 1) + 16
        scratch_bytes = (4 * max(floats, self._capacity if program.attends else 0) + 8191) // 4096 * 4096
        self._scratch = torch.empty(scratch_bytes * self._threads, dtype=torch.uint8)
        self._stages = torch.empty(2 * len(program.operations) * STAGE_BYTES, dtype=torch.uint8)
        self._all = (ctypes.c_int64 * most)(*range(most))
        self._places = (ctypes.c_int64 * most)()
        self._row = (ctypes.c_int64 * most)()
        self._tokens = (ctypes.c_int64 * most)()
        self._buffers = (_address * 4)(*(room.data_ptr() for room in self._room))
        self._memories = (_address * len(self._memory))(
            *(None if one is None else one.data_ptr() for one in self._memory)
        )
        self._made = _Program(
            ctypes.cast(program.operations, ctypes.POINTER(_Operation)),
            self._stages.data_ptr(),
            ctypes.cast(self._buffers, ctypes.POINTER(_address)),
            self._scratch.data_ptr(),
            len(program.operations),
            scratch_bytes,
            self._threads,
        )
        self._call = _Call(
            memories=ctypes.cast(self._memories, ctypes.POINTER(_address)),
            capacity=capacity,
            known=program.known,
            tokens=ctypes.addressof(self._tokens),
            positions=ctypes.addressof(self._places),
        )
        self.library = program.library
        self._step = self.library.fabella_step
        self._arguments = ctypes.byref(self._made), ctypes.byref(self._call)

    def reset(self, row: int) -> None:
        """See Rows."""
        reset_row(self._memory, row)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """See Rows."""
        copy_row(self._memory, source, target, length)

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """See Rows. The logits are overwritten by the next call."""
        count = len(positions)
        self._places[:count], self._tokens[:count] = positions, tokens
        call = self._call
        call.n, call.skip, call.stretch, call.rows = count, 0, 0, ctypes.addressof(self._all)
        call.logits = self._logits.data_ptr()
        self._run(max(positions))
        return self._logits[:count]

    def prefill(self, chunks: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """See Rows. As many tokens at once as a stretch has, of however many texts."""
        logits, call = torch.empty(len(chunks), self._program.vocab_size), self._call
        call.stretch, call.rows = 1, ctypes.addressof(self._row)
        done = 0
        for begun, ended in _split_chunks(chunks):
            tokens = begun + ended  # logits are made of the last ones
            for place, one in enumerate(tokens):
                self._row[place], self._tokens[place], self._places[place] = one
            call.n, call.skip = len(tokens), len(begun)
            call.logits = logits[done:].data_ptr()
            self._run(max(position for _, _, position in tokens))
            done += len(ended)
        return logits

    def _run(self, furthest: int) -> None:
        if furthest >= self._capacity:
            raise IndexError(f"position {furthest} of {self._capacity}")
        if self._step(*self._arguments):
            raise IndexError(f"an id beyond the {self._program.known} that the model knows")


_Token = tuple[int, int, int]
"""Row, id and position"""


def _split_chunks(chunks: Sequence[PrefillChunk]) -> Iterator[tuple[list[_Token], list[_Token]]]:
    """The tokens of all parts, STRETCH at a time: those after which a op goes on, and those with which one ends."""
    begun, ended = list[_Token](), list[_Token]()
    for row, tokens, start in chunks:
        for position, token in enumerate(tokens, start):
            (ended if position + 1 == start + len(tokens) else begun).append((row, token, position))
            if len(begun) + len(ended) == PREFILL_CHUNK:
                yield begun, ended
                begun, ended = [], []
    if begun or ended:
        yield begun, ended
