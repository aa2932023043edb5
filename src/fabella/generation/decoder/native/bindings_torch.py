"""Bindings of decode.cpp: a decoder graph as a program that runs a decode step in one call instead of some hundred.

The structures mirror those of decode.cpp field by field. float32 weights are not copied: the program points at those
of the model, which the graph keeps alive.
"""

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

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
    NormOp,
    ParallelOp,
    RecurrenceOp,
    RMSNormOp,
    SwiGLUOp,
    copy_row,
    flat_ops,
    reset_row,
)
from fabella.generation.decoder.packed_linear_torch import PANEL_ROWS, pack_panels, quantize_rows
from fabella.generation.decoder.weights import PrefillChunk, WeightDtype

PREFILL_CHUNK = 128
"""Prompt tokens per call: enough for efficient matrix products, few enough to stay in the CPU's cache."""
BLOCK, MAX_ROWS_AT_ONCE, MAX_X_ROWS_AT_ONCE, STAGE_BYTES = 256, 32, 16, 64
"""As in decode.cpp. ``MAX_ROWS_AT_ONCE`` is the maximum ROWS of a product; it sizes the scratch memory."""
EMBED, PROJECT, ATTEND, MIX, CONVOLVE = range(5)
NO_NORM, RMS_NORM, LAYER_NORM = range(3)
STORE, GELU, GELU_TANH, SWIGLU, MINGRU = range(5)
OWN_VALUES, FIRST_VALUES, MIXED_VALUES = range(3)
DTYPES: dict[WeightDtype, int] = {"float32": 0, "float16": 1, "int8": 2, "bfloat16": 3}
RESIDUAL, RESIDUAL_ALT, WIDE, MIXED, EMBEDDED, VALUES, NORMED, CONVOLVED, GATES = range(9)
"""Buffers: the residual stream; a second one, for an op that cannot update it in place; two between matrix products;
the embeddings and the values of the first attention, where later layers read them; input and output of a convolution,
and the gates of heads that read its input."""
LOGITS = -1
NO_WINDOW = 2**62
FLOAT16_MAX = 65504.0

_address = ctypes.c_void_p


class _Matrix(ctypes.Structure):
    _fields_ = [
        ("weight", _address),
        ("scales", _address),
        ("row_sums", _address),
        ("bias", _address),
        ("rows", ctypes.c_int64),
    ]


class _Operation(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("kind", "norm", "epilogue", "dtype", "source", "target", "residual", "cache")
        ),
        *(
            (name, ctypes.c_int32)
            for name in ("last_only", "matrices", "heads", "kv_heads", "head_dim", "rotary_pairs", "half_rotation")
        ),
        *((name, ctypes.c_int32) for name in ("kept", "values", "gate", "past")),
        ("own_weight", ctypes.c_float),
        ("kept_weight", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
        ("inputs", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("matrix", _Matrix * 4),
        *((name, _address) for name in ("norm_weight", "norm_bias", "key_norm_weight")),
        *((name, _address) for name in ("table", "position_table", "cos", "sin", "taps")),
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
        ("caches", ctypes.POINTER(_address)),
        *((name, ctypes.c_int64) for name in ("capacity", "embedding_rows", "n", "skip")),
        *((name, _address) for name in ("tokens", "rows", "positions", "logits")),
        ("prefill", ctypes.c_int64),
    ]


class UnsupportedOpError(Exception):
    """decode.cpp does not support an operation or a dtype of a decoder."""


class NativeProgram:
    """Operations of one decoder graph in execution order, as decode.cpp reads them."""

    def __init__(self, graph: DecoderGraph, library: ctypes.CDLL, weights: WeightDtype = "float32") -> None:
        """Raises UnsupportedOpError if decode.cpp lacks an operation, a norm or a dtype of ``graph``."""
        self.library, self._dtype = library, DTYPES[weights]
        if not library.fabella_supports_dtype(self._dtype):
            raise UnsupportedOpError(weights)
        self.graph = graph
        self.vocab_size, self.embedding_rows = len(graph.head[-1].weights[0]), len(graph.embedding.table)
        self.max_positions = 2**62 if graph.embedding.positions is None else len(graph.embedding.positions)
        """Number of positions with an entry in the position and rotary tables."""
        self.attends = any(isinstance(op, AttentionOp) for op in flat_ops(graph.ops))
        self.widths = [0] * 9
        self.widest_input = 0
        self._tensors: list[Tensor] = []
        self._residual = RESIDUAL
        self._operations: list[_Operation] = []
        self._add_embedding(graph)
        for number, op in enumerate(graph.ops):
            self._add_op(op, number)
        for matrix in graph.head[:-1]:
            self._append_linear(matrix, self._residual, WIDE, last_only=True)
            self._residual = WIDE
        self._append_linear(graph.head[-1], self._residual, LOGITS, last_only=True)
        self.operations = (_Operation * len(self._operations))(*self._operations)

    def _add_embedding(self, graph: DecoderGraph) -> None:
        embedding = graph.embedding
        self._append_embed(
            embedding.table,
            RESIDUAL if embedding.up_proj is None else WIDE,
            positions=embedding.positions,
            norm=embedding.norm,
        )
        if embedding.up_proj is not None:
            self._append_linear(embedding.up_proj, WIDE, RESIDUAL)

    def _add_op(self, op: Any, number: int) -> None:
        """Append the operations that add the output of ``op`` to the residual stream."""
        stream = self._residual
        if isinstance(op, ParallelOp) or (isinstance(op, RecurrenceOp) and op.output is None):
            self._residual = RESIDUAL_ALT if stream == RESIDUAL else RESIDUAL  # the input must stay until the last op
        sums = stream
        for member in flat_ops([op]):
            self._add_member(member, number, stream, sums)
            sums = self._residual

    def _add_member(self, op: Any, number: int, stream: int, sums: int) -> None:
        """Append operations that read ``stream``, and add their output to ``sums`` in the new residual stream."""
        target = self._residual
        if isinstance(op, AttentionOp):
            self._add_attention(op, number, stream)
            self._append_linear(op.output, MIXED, target, residual=sums)
        elif isinstance(op, EmbeddingMixOp):
            self._append_mix(op, target)
        elif isinstance(op, ConvolutionOp):
            self._append_convolution(op, stream, number)
        elif isinstance(op, GatedRecurrenceOp):
            self._add_gated_recurrence(op, number, stream)
            self._append_linear(op.output, WIDE, target, residual=sums, norm=op.norm, gate=MIXED)
        elif isinstance(op, RecurrenceOp) and op.output is None:
            self._append_linear(op.matrix, stream, target, residual=sums, epilogue=MINGRU, cache=number)
        elif isinstance(op, RecurrenceOp):
            assert op.output is not None
            self._append_linear(op.matrix, stream, WIDE, epilogue=MINGRU, cache=number)
            self._append_linear(op.output, WIDE, target, residual=sums)
        elif isinstance(op, SwiGLUOp):
            self._append_linear(op.matrix, stream, WIDE, epilogue=SWIGLU)
            self._append_linear(op.down, WIDE, target, residual=sums)
        elif isinstance(op, GELUOp):
            self._append_linear(op.matrix, stream, WIDE, epilogue=GELU_TANH if op.approximate == "tanh" else GELU)
            self._append_linear(op.down, WIDE, target, residual=sums)
        elif isinstance(op, EmbeddingAddOp):
            self._append_embed(op.table, target, residual=sums)
        else:
            raise UnsupportedOpError(type(op).__name__)

    def _add_attention(self, op: AttentionOp, number: int, stream: int) -> None:
        self._append_linear(op.matrix, CONVOLVED if op.convolved else stream, WIDE)
        if op.gate_matrix is not None:
            self._append_linear(op.gate_matrix, NORMED, GATES)
        self._append_attention(op, number)

    def _add_gated_recurrence(self, op: GatedRecurrenceOp, number: int, stream: int) -> None:
        read, normed = (CONVOLVED, NORMED) if op.convolved else (stream, stream)
        self._append_linear(op.matrix, read, WIDE, epilogue=MINGRU, cache=number)
        self._append_linear(op.output_gate, normed, MIXED)

    def _append_mix(self, op: EmbeddingMixOp, target: int) -> None:
        if self.graph.embedding.up_proj is not None:
            raise UnsupportedOpError("projected embeddings that later layers read again")
        width = self.widths[target]
        self._reserve(EMBEDDED, width)
        self._operations[0].kept = EMBEDDED
        own, kept = float(op.own_weight), float(op.embedding_weight)
        operation = _Operation(kind=MIX, target=target, kept=EMBEDDED, own_weight=own, kept_weight=kept, inputs=width)
        self._operations.append(operation)

    def _append_convolution(self, op: ConvolutionOp, stream: int, number: int) -> None:
        size, width = op.taps.shape
        for buffer in (NORMED, CONVOLVED):
            self._reserve(buffer, width)
        kind, norm_weight, norm_bias, eps = self._norm_params(op.norm)
        operation = _Operation(kind=CONVOLVE, source=stream, target=CONVOLVED, kept=NORMED, cache=number, inputs=width)
        operation.past, operation.taps = size - 1, self._pointer(op.taps)
        operation.norm, operation.norm_weight, operation.norm_bias, operation.eps = kind, norm_weight, norm_bias, eps
        self._operations.append(operation)

    def _append_embed(
        self,
        table: Tensor,
        target: int,
        *,
        positions: Tensor | None = None,
        residual: int = -1,
        norm: NormOp | None = None,
    ) -> None:
        width = table.shape[1]
        self._reserve(target, width)
        kind, norm_weight, norm_bias, eps = self._norm_params(norm)
        operation = _Operation(
            kind=EMBED,
            dtype=DTYPES["float32"],
            target=target,
            residual=residual,
            cache=-1,
            inputs=width,
            position_table=None if positions is None else self._pointer(positions),
            norm=kind,
            norm_weight=norm_weight,
            norm_bias=norm_bias,
            eps=eps,
            kept=-1,
        )
        if self._dtype == DTYPES["int8"]:
            rows, scales = quantize_rows(table)
            operation.dtype = self._dtype
            operation.matrix[0] = _Matrix(weight=self._pointer(rows), scales=self._pointer(scales), rows=len(rows))
        else:
            operation.table = self._pointer(table)
        self._operations.append(operation)

    def _append_linear(
        self,
        matrix: LinearOp,
        source: int,
        target: int,
        *,
        residual: int = -1,
        epilogue: int = STORE,
        cache: int = -1,
        last_only: bool = False,
        norm: NormOp | None = None,
        gate: int = -1,
    ) -> None:
        """``gate``: buffer whose silu multiplies the rows after ``norm``, that of the matrix by default."""
        kind, norm_weight, norm_bias, eps = self._norm_params(norm or matrix.norm)
        inputs = matrix.weights[0].shape[1]
        matrices = self._matrices(matrix, paired=epilogue in (SWIGLU, MINGRU))
        if target != LOGITS:
            self._reserve(target, matrices[0].rows if epilogue in (SWIGLU, MINGRU) else sum(m.rows for m in matrices))
        self._reserve(source, inputs)
        self.widest_input = max(self.widest_input, inputs)
        self._operations.append(
            _Operation(
                kind=PROJECT,
                norm=kind,
                epilogue=epilogue,
                dtype=self._dtype,
                source=source,
                target=target,
                residual=residual,
                cache=cache,
                last_only=last_only,
                matrices=len(matrices),
                eps=eps,
                inputs=inputs,
                matrix=matrices,
                norm_weight=norm_weight,
                norm_bias=norm_bias,
                gate=gate,
            )
        )

    def _matrices(self, matrix: LinearOp, *, paired: bool) -> tuple[_Matrix, ...]:
        """Return the matrices of an operation; those in panels as one, unless they are combined in pairs."""
        weights, biases = matrix.weights, matrix.biases or [None] * len(matrix.weights)
        if self._dtype != DTYPES["float32"] and not paired:
            weights = [torch.cat(weights)]
            biases = [torch.cat(matrix.biases) if matrix.biases else None]
        return tuple(self._matrix(weight, bias) for weight, bias in zip(weights, biases, strict=True))

    def _matrix(self, weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None) -> _Matrix:
        """Return a matrix in the storage dtype."""
        result = _Matrix(rows=len(weight), bias=None if bias is None else self._pointer(bias))
        if self._dtype == DTYPES["float32"]:
            result.weight = self._pointer(weight)
            return result
        if self._dtype == DTYPES["float16"]:
            weight = weight.clamp(-FLOAT16_MAX, FLOAT16_MAX).half()
        elif self._dtype == DTYPES["bfloat16"]:
            weight = weight.bfloat16()
        else:
            weight, scales = quantize_rows(weight)
            sums = functional.pad(weight.sum(1, dtype=torch.int32), (0, -len(weight) % PANEL_ROWS))
            result.scales, result.row_sums = self._pointer(scales), self._pointer(sums)
        result.weight = self._pointer(pack_panels(weight))
        return result

    def _norm_params(self, norm: NormOp | None) -> tuple[int, int | None, int | None, float]:
        if norm is None:
            return NO_NORM, None, None, 0.0
        if isinstance(norm, RMSNormOp):
            return RMS_NORM, self._pointer(norm.weight), None, norm.eps
        if isinstance(norm, LayerNormOp):
            return (
                LAYER_NORM,
                self._pointer(norm.weight),
                None if norm.bias is None else self._pointer(norm.bias),
                norm.eps,
            )
        raise UnsupportedOpError(type(norm).__name__)

    def _append_attention(self, op: AttentionOp, number: int) -> None:
        self._reserve(MIXED, op.heads * op.head_dim)
        operation = _Operation(
            kind=ATTEND,
            source=WIDE,
            target=MIXED,
            residual=-1,
            cache=number,
            heads=op.heads,
            kv_heads=op.kv_heads,
            head_dim=op.head_dim,
            half_rotation=op.half_rotation,
            scale=op.score_scale,
            window=NO_WINDOW if op.window is None else op.window,
        )
        operation.gate = -1 if not op.output_gate else WIDE if op.gate_matrix is None else GATES
        self._set_values(op, operation)
        if op.head_norm is not None:
            operation.norm, operation.eps = RMS_NORM, op.head_norm.eps
            operation.norm_weight = self._pointer(op.head_norm.query_weight)
            operation.key_norm_weight = self._pointer(op.head_norm.key_weight)
        if op.rotary is not None:
            self.max_positions = min(self.max_positions, len(op.rotary))
            operation.rotary_pairs = op.rotary.shape[1]
            operation.cos, operation.sin = self._pointer(op.rotary.real), self._pointer(op.rotary.imag)
        self._operations.append(operation)

    def _set_values(self, op: AttentionOp, operation: _Operation) -> None:
        """Set whose values a token's value is made of."""
        operation.values, operation.kept = OWN_VALUES, -1
        if op.keeps_values or op.value_weights is not None:
            self._reserve(VALUES, op.kv_heads * op.head_dim)
            operation.values, operation.kept = FIRST_VALUES, VALUES
        if op.value_weights is not None:
            operation.values = MIXED_VALUES
            operation.own_weight, operation.kept_weight = op.value_weights.tolist()

    def _reserve(self, buffer: int, width: int) -> None:
        """Make ``buffer`` at least ``width`` numbers wide."""
        self.widths[buffer] = max(self.widths[buffer], width)

    def _pointer(self, tensor: Tensor) -> int:
        """Return the address of the tensor's contiguous data, valid as long as the program lives."""
        if tensor.dtype == torch.float64 or tensor.device.type != "cpu":
            raise UnsupportedOpError(f"{tensor.dtype} on {tensor.device}")
        contiguous = tensor.contiguous()
        self._tensors.append(contiguous)
        return contiguous.data_ptr()


class NativeBackend:
    """DecodeBackend that runs decode.cpp. Decoding allocates nothing."""

    def __init__(self, program: NativeProgram, rows: int, capacity: int) -> None:
        self._program, self._rows = program, rows
        self._capacity = min(capacity, program.max_positions)
        self._cache = program.graph.init_cache(rows, capacity)
        max_rows = max(rows, PREFILL_CHUNK)
        self._threads = torch.get_num_threads()
        self._buffer_tensors = [torch.empty(max(1, max_rows * width)) for width in program.widths]
        self._logits = torch.empty(rows, program.vocab_size)
        # Per thread: two blocks of sums, scales, normed and converted inputs; or the attention scores of a sequence.
        x_rows = -(-max_rows // MAX_X_ROWS_AT_ONCE) * MAX_X_ROWS_AT_ONCE
        floats = 2 * BLOCK + x_rows * (2 * MAX_ROWS_AT_ONCE + 1 + 2 * program.widest_input + 16) + 16
        scratch_bytes = (4 * max(floats, self._capacity if program.attends else 0) + 8191) // 4096 * 4096
        self._scratch = torch.empty(scratch_bytes * self._threads, dtype=torch.uint8)
        self._stages = torch.empty(2 * len(program.operations) * STAGE_BYTES, dtype=torch.uint8)
        self._all_rows = (ctypes.c_int64 * max_rows)(*range(max_rows))
        self._position_ids = (ctypes.c_int64 * max_rows)()
        self._token_rows = (ctypes.c_int64 * max_rows)()
        self._tokens = (ctypes.c_int64 * max_rows)()
        self._buffers = (_address * len(program.widths))(*(buffer.data_ptr() for buffer in self._buffer_tensors))
        self._cache_pointers = (_address * len(self._cache))(
            *(None if cache is None else cache.data_ptr() for cache in self._cache)
        )
        self._program_struct = _Program(
            ctypes.cast(program.operations, ctypes.POINTER(_Operation)),
            self._stages.data_ptr(),
            ctypes.cast(self._buffers, ctypes.POINTER(_address)),
            self._scratch.data_ptr(),
            len(program.operations),
            scratch_bytes,
            self._threads,
        )
        self._call = _Call(
            caches=ctypes.cast(self._cache_pointers, ctypes.POINTER(_address)),
            capacity=capacity,
            embedding_rows=program.embedding_rows,
            tokens=ctypes.addressof(self._tokens),
            positions=ctypes.addressof(self._position_ids),
        )
        self.library = program.library
        self._decode = self.library.fabella_decode
        self._arguments = ctypes.byref(self._program_struct), ctypes.byref(self._call)

    def reset(self, row: int) -> None:
        """See DecodeBackend."""
        reset_row(self._cache, row)

    def copy_row(self, source: int, target: int, length: int) -> None:
        """See DecodeBackend."""
        copy_row(self._cache, source, target, length)

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Float[Tensor, "N V"]:
        """See DecodeBackend. The next call overwrites the logits."""
        count = len(positions)
        self._position_ids[:count], self._tokens[:count] = positions, tokens
        call = self._call
        call.n, call.skip, call.prefill, call.rows = count, 0, 0, ctypes.addressof(self._all_rows)
        call.logits = self._logits.data_ptr()
        self._run(max(positions))
        return self._logits[:count]

    def prefill(self, chunks: Sequence[PrefillChunk]) -> Float[Tensor, "N V"]:
        """See DecodeBackend. Reads PREFILL_CHUNK tokens per call, of any number of prompts."""
        logits, call = torch.empty(len(chunks), self._program.vocab_size), self._call
        call.prefill, call.rows = 1, ctypes.addressof(self._token_rows)
        done = 0
        for inner, final in _split_chunks(chunks):
            tokens = inner + final  # the first call.skip rows get no logits
            for index, token in enumerate(tokens):
                self._token_rows[index], self._tokens[index], self._position_ids[index] = token
            call.n, call.skip = len(tokens), len(inner)
            call.logits = logits[done:].data_ptr()
            self._run(max(position for _, _, position in tokens))
            done += len(final)
        return logits

    def _run(self, max_position: int) -> None:
        if max_position >= self._capacity:
            raise IndexError(f"Expected a position below {self._capacity}, got {max_position}.")
        if self._decode(*self._arguments):
            raise IndexError(f"Expected token ids from 0 to {self._program.embedding_rows - 1}.")


_Token = tuple[int, int, int]
"""Row, token id, position."""


def _split_chunks(chunks: Sequence[PrefillChunk]) -> Iterator[tuple[list[_Token], list[_Token]]]:
    """Yield the tokens of all chunks, PREFILL_CHUNK at a time: those inside a chunk, and the last ones of a chunk."""
    inner, final = list[_Token](), list[_Token]()
    for row, tokens, start in chunks:
        for position, token in enumerate(tokens, start):
            (final if position + 1 == start + len(tokens) else inner).append((row, token, position))
            if len(inner) + len(final) == PREFILL_CHUNK:
                yield inner, final
                inner, final = [], []
    if inner or final:
        yield inner, final
