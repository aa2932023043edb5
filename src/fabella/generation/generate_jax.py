"""Compiled decode loop of the JAX engine: sampling, decoding and the update of the state.

The device runs several steps before it returns token ids; few at first, so that a completion starts without delay.
Prompts are prefilled in chunks of a few lengths, so that few shapes are compiled.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.engine.build_model_jax import LoadedModel
from fabella.generation.context_shift import UNLIMITED, context_start
from fabella.generation.continuous_batching import require_readable
from fabella.generation.sampling import SamplingParams, uniforms, unsampleable_error
from fabella.generation.sampling_jax import SamplingArrays, SamplingSpec, count_ids, mark_seen, sample
from fabella.models.nn.layers_jax import Params

MAX_STEPS_PER_SYNC = 32
"""Maximum decode steps before token ids are returned; steps after the end of a completion are wasted."""
MIN_PREFILL_CHUNK, MAX_PREFILL_CHUNK = 16, 1024
"""Smallest and largest prefill chunk in tokens, powers of two; the remaining tokens are decoded one by one."""


class DecodeState(NamedTuple):
    """State of B sequences on the device."""

    states: Any
    """State of the model for a batch of one, stacked over the sequences."""
    logits: Array
    """Logits of the next token, [B V]."""
    seen: Array
    """Mask of the ids of the repetition penalty, [B V]."""
    counts: Array
    """How often each completion contains each id, [B V]; [B 0] unless logits are adjusted."""


def generate(
    model: LoadedModel,
    prompts: Sequence[NDArray[np.int32]],
    sampling: SamplingParams,
    *,
    rows: Sequence[int],
    max_tokens: int,
    vocab_size: int,
    context_length: int = UNLIMITED,
    num_prefix_tokens: int = 0,
) -> Iterator[list[int]]:
    """Yield the sampled token ids of each step, one per prompt, ``max_tokens`` times.

    Parameters and errors are those of ``generate`` in generate_torch.py.
    """
    for prompt in prompts or [np.empty(0, dtype=np.int32)]:
        require_readable(prompt, model.config.vocab_size)
    limit = context_length if model.config.unlimited_context else min(context_length, model.config.context_length)
    batch = _DecodeBatch(model, prompts, max_tokens, limit=limit, vocab_size=vocab_size)
    spec, params = SamplingSpec.of(sampling), SamplingArrays.of(sampling, vocab_size)
    decode_state = batch.prefill(batch.initial_state(num_prefix_tokens, counted=spec.adjusted))
    uniform = np.stack([uniforms(sampling.seed, row, max_tokens) for row in rows])
    uniform = np.pad(uniform, ((0, 0), (0, MAX_STEPS_PER_SYNC)))
    done, max_steps = 0, 1
    while done < max_tokens:
        count = min(max_steps, max_tokens - done, batch.steps_until_shift())
        inputs = params, uniform[:, done : done + MAX_STEPS_PER_SYNC], count
        decode_state, ids, tops = _decode_steps(model.model, spec, decode_state, model.network, inputs)
        sampled = np.asarray(ids)[:count]
        _require_finite(np.asarray(tops)[:count])
        batch.append(sampled)
        decode_state, done, max_steps = (
            batch.prefill(decode_state),
            done + count,
            min(2 * max_steps, MAX_STEPS_PER_SYNC),
        )
        yield from sampled.tolist()


def _require_finite(tops: NDArray[np.float32]) -> None:
    if not np.isfinite(tops).all():
        step, row = np.argwhere(~np.isfinite(tops))[0]
        raise unsampleable_error(int(row), float(tops[step, row]))


class _DecodeBatch:
    """Token ids of all sequences, and the context start of each."""

    def __init__(
        self, model: LoadedModel, prompts: Sequence[NDArray[np.int32]], max_tokens: int, *, limit: int, vocab_size: int
    ) -> None:
        self.model, self.limit, self.vocab_size = model, limit, vocab_size
        self.ids = [prompt.astype(np.int32) for prompt in prompts]
        self.starts = [-1] * len(prompts)
        """Position of the first token that is in the state; -1 before the first prefill."""
        longest = max(len(prompt) for prompt in prompts) + max_tokens
        self.capacity = min(limit, 1 << (longest - 1).bit_length())  # a power of two: few shapes to compile

    def initial_state(self, num_prefix_tokens: int, *, counted: bool) -> DecodeState:
        """Return the state before any prefill."""
        rows = len(self.ids)
        seen = np.zeros((rows, self.vocab_size), np.bool_)
        for row, ids in enumerate(self.ids):
            text_ids = ids[num_prefix_tokens:]
            seen[row, text_ids[text_ids < self.vocab_size]] = True
        empty = self.model.model.init_state(1, self.capacity)
        states = jax.tree.map(lambda array: jnp.stack([array] * rows), empty)  # pyright: ignore[reportUnknownLambdaType]
        logits = jnp.zeros((rows, self.vocab_size), jnp.float32)
        counts = jnp.zeros((rows, self.vocab_size if counted else 0), jnp.int32)
        return DecodeState(states, logits, jnp.asarray(seen), counts)

    def steps_until_shift(self) -> int:
        """Return the number of steps until the first sequence shifts its context."""
        return min(self._steps_until_shift(len(ids), start) for ids, start in zip(self.ids, self.starts, strict=True))

    def _steps_until_shift(self, length: int, start: int) -> int:
        steps = 1
        while steps < MAX_STEPS_PER_SYNC and context_start(length + steps, self.limit) == start:
            steps += 1
        return steps

    def append(self, sampled: NDArray[np.int32]) -> None:
        """Append the sampled ids, [steps B]."""
        self.ids = [np.concatenate([ids, sampled[:, row]]) for row, ids in enumerate(self.ids)]

    def prefill(self, decode_state: DecodeState) -> DecodeState:
        """Prefill the sequences whose context start changed. Sequences with equal ids are computed once."""
        prefilled: dict[bytes, tuple[Any, Array]] = {}
        for row, ids in enumerate(self.ids):
            start = context_start(len(ids), self.limit)
            if start == self.starts[row]:
                continue
            self.starts[row] = start
            key = ids[start:].tobytes()
            if key not in prefilled:
                prefilled[key] = self._prefill(ids[start:])
            decode_state = _set_row(decode_state, row, *prefilled[key])
        return decode_state

    def _prefill(self, ids: NDArray[np.int32]) -> tuple[Any, Array]:
        """Return the state and the logits, [1 V], after ``ids``."""
        state, done, chunk = self.model.model.init_state(1, self.capacity), 0, MAX_PREFILL_CHUNK
        logits = jnp.zeros((1, self.vocab_size), jnp.float32)
        while chunk >= MIN_PREFILL_CHUNK:
            if done + chunk <= len(ids):
                chunk_ids = ids[None, done : done + chunk]
                state, logits = _prefill_chunk(self.model.model, self.vocab_size, self.model.network, chunk_ids, state)
                done += chunk
            else:
                chunk //= 2
        padded = np.zeros(MIN_PREFILL_CHUNK, np.int32)
        padded[: len(ids) - done] = ids[done:]
        remaining = padded, len(ids) - done
        return _decode_one_by_one(self.model.model, self.vocab_size, self.model.network, remaining, (state, logits))


@partial(jax.jit, static_argnums=(0, 1))
def _prefill_chunk(model: Any, vocab_size: int, network: Params, ids: Array, state: Any) -> tuple[Any, Array]:
    logits, state = model.decode(network, ids, state)
    return state, logits[:, :vocab_size]


@partial(jax.jit, static_argnums=(0, 1))
def _decode_one_by_one(
    model: Any, vocab_size: int, network: Params, padded_ids: tuple[Array, Array], initial: tuple[Any, Array]
) -> tuple[Any, Array]:
    """Decode the ids in ``padded_ids``, (ids, count), from the ``initial`` state and logits."""
    ids, count = padded_ids

    def decode_one(index: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        logits, state = model.decode(network, ids[index][None, None], carry[0])
        return state, logits[:, :vocab_size]

    return lax.fori_loop(0, count, decode_one, initial)


@partial(jax.jit, donate_argnums=0)
def _set_row(decode_state: DecodeState, row: int, state: Any, logits: Array) -> DecodeState:
    states = jax.tree.map(lambda stacked, array: stacked.at[row].set(array), decode_state.states, state)  # pyright: ignore[reportUnknownLambdaType]
    return decode_state._replace(states=states, logits=decode_state.logits.at[row].set(logits[0]))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _decode_steps(
    model: Any,
    spec: SamplingSpec,
    decode_state: DecodeState,
    network: Params,
    inputs: tuple[SamplingArrays, Array, Array],
) -> tuple[DecodeState, Array, Array]:
    """Decode some steps; return the new state, and the sampled ids and largest logits of each step, [steps B].

    ``inputs`` are the sampling parameters, uniform numbers, [B steps], and the number of steps.
    """
    params, uniform, count = inputs
    rows, vocab_size = decode_state.logits.shape

    def decode_row(token: Array, state: Any) -> tuple[Array, Any]:
        logits, state = model.decode(network, token[None, None], state)
        return logits[0, :vocab_size], state

    def decode_step(step: Array, carry: tuple[DecodeState, Array, Array]) -> tuple[DecodeState, Array, Array]:
        decode_state, ids, tops = carry
        numbers = uniform[:, step]
        sampled, top = sample(decode_state.logits, spec, params, numbers, decode_state.seen, decode_state.counts)
        logits, states = jax.vmap(decode_row)(sampled, decode_state.states)
        seen = mark_seen(decode_state.seen, sampled) if spec.penalized else decode_state.seen
        counts = count_ids(decode_state.counts, sampled) if spec.adjusted else decode_state.counts
        return DecodeState(states, logits, seen, counts), ids.at[step].set(sampled), tops.at[step].set(top)

    ids, tops = jnp.zeros((MAX_STEPS_PER_SYNC, rows), jnp.int32), jnp.zeros((MAX_STEPS_PER_SYNC, rows), jnp.float32)
    return lax.fori_loop(0, count, decode_step, (decode_state, ids, tops))
