"""Sample the next tokens of all rows in one call of sample.h, by the rule of sampling_torch.py.

The structures mirror those of sample.h field by field.
"""

import ctypes
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fabella.generation.sampling import MIN_TEMPERATURE, SamplingParams, unsampleable_error

BUCKETS_BYTES = 1024 * 8

_address = ctypes.c_void_p


class SamplerParams(ctypes.Structure):
    """Sampling parameters of one sequence, the mask of its repetition penalty and what is added to its logits."""

    _fields_ = [
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p", "penalty")),
        ("top_k", ctypes.c_int64),
        ("seen", _address),
        ("added", _address),
    ]


class _SampleCall(ctypes.Structure):
    _fields_ = [
        ("params", ctypes.POINTER(SamplerParams)),
        *((name, _address) for name in ("uniform", "logits")),
        *((name, ctypes.c_int64) for name in ("n", "vocab_size", "stride")),
        ("scratch", _address),
        ("scratch_bytes", ctypes.c_int64),
        *((name, _address) for name in ("sampled", "max_logits")),
        ("threads", ctypes.c_int64),
    ]


class NativeSampler:
    """TokenSampler in C++ for up to ``rows`` sequences. Sampling allocates no tensors."""

    def __init__(self, library: ctypes.CDLL, rows: int, vocab_size: int) -> None:
        self._function = library.fabella_sample
        self._function.restype = ctypes.c_int64
        threads = torch.get_num_threads()
        scratch_bytes = (BUCKETS_BYTES + 2 * 4 * vocab_size + 63) // 64 * 64
        self._scratch = torch.empty(scratch_bytes * threads, dtype=torch.uint8)
        self._params = (SamplerParams * rows)()
        self._uniform = (ctypes.c_float * rows)()
        self._sampled = (ctypes.c_int64 * rows)()
        self._max_logits = (ctypes.c_float * rows)()
        self._call = _SampleCall(
            params=self._params,
            uniform=ctypes.addressof(self._uniform),
            vocab_size=vocab_size,
            scratch=self._scratch.data_ptr(),
            scratch_bytes=scratch_bytes,
            sampled=ctypes.addressof(self._sampled),
            max_logits=ctypes.addressof(self._max_logits),
            threads=threads,
        )
        self._argument = ctypes.byref(self._call)

    def sampler_state(
        self, sampling: SamplingParams, seen: Bool[Tensor, " V"] | None, added: Float[Tensor, " V"] | None = None
    ) -> SamplerParams:
        """See TokenSampler. Both tensors must outlive the returned structure, which points at their data."""
        return SamplerParams(
            temperature=max(sampling.temperature, MIN_TEMPERATURE) if sampling.temperature else 0.0,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            penalty=sampling.repetition_penalty,
            top_k=sampling.top_k,
            seen=None if seen is None else seen.data_ptr(),
            added=None if added is None else added.data_ptr(),
        )

    def sample(
        self, logits: Float[Tensor, "N V"], sampler_state: Sequence[SamplerParams], uniform: Sequence[float]
    ) -> list[int]:
        """See TokenSampler. ``logits`` are float32 with contiguous rows."""
        n = len(sampler_state)
        for row, params in enumerate(sampler_state):
            self._params[row] = params
        self._uniform[:n] = uniform
        call = self._call
        call.n, call.logits, call.stride = n, logits.data_ptr(), logits.stride(0)
        if (row := self._function(self._argument)) >= 0:
            raise unsampleable_error(row, self._max_logits[row])
        return self._sampled[:n]
