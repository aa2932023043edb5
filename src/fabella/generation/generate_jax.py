"""Decode loop of the JAX engine, compiled as a whole: sampling, decoding and the cache.

The device runs several steps before token ids return, few at first, so that a completion starts at once. Prompts are
prefilled in chunks of a few lengths, each compiled once.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from numpy.typing import NDArray

from fabella.engine.engine_jax import LoadedModel
from fabella.generation.context_shift import UNLIMITED, context_start
from fabella.generation.continuous_batching import require_readable
from fabella.generation.sampling import SamplingParams, uniforms, unsampleable_error
from fabella.generation.sampling_jax import SamplingArrays, SamplingSpec, marked, sample
from fabella.models.nn.layers_jax import Params

MAX_STEPS_PER_SYNC = 32
"""Maximum steps before token ids return; steps after the end of a completion are wasted."""
MIN_PREFILL_CHUNK, MAX_PREFILL_CHUNK = 16, 1024
"""Prompt tokens prefilled at once; the rest is decoded one by one."""


class DecodeState(NamedTuple):
    """B texts as the device holds them."""

    states: Any
    """Each row's state of a batch of one"""
    logits: Array
    """[B V], of each row's next id"""
    seen: Array
    """[B V], ids that are penalized"""


def generate(
    model: LoadedModel,
    prompts: Sequence[NDArray[np.int32]],
    sampling: SamplingParams,
    *,
    rows: Sequence[int],
    max_tokens: int,
    vocab_size: int,
    context: int = UNLIMITED,
    opening: int = 0,
) -> Iterator[list[int]]:
    """Yield the ids chosen at each step, one a prompt, ``max_tokens`` times; see generate_torch.py.

    Raises NumericsError if the logits of a row are not finite.
    """
    for prompt in prompts or [np.empty(0, dtype=np.int32)]:
        require_readable(prompt, model.config.vocab_size)
    limit = context if model.config.unlimited_context else min(context, model.config.context_length)
    texts = _DecodeBatch(model, prompts, max_tokens, limit=limit, vocab_size=vocab_size)
    decode_state = texts.read(texts.initial_state(opening))
    uniform = np.stack([uniforms(sampling.seed, row, max_tokens) for row in rows])
    uniform = np.pad(uniform, ((0, 0), (0, MAX_STEPS_PER_SYNC)))
    kind, settings, done, most = SamplingSpec.of(sampling), SamplingArrays.of(sampling), 0, 1
    while done < max_tokens:
        count = min(most, max_tokens - done, texts.steps_until_shift())
        drawn = uniform[:, done : done + MAX_STEPS_PER_SYNC]
        decode_state, ids, tops = _decode_steps(
            model.model, kind, decode_state, model.network, (settings, drawn, count)
        )
        chosen = np.asarray(ids)[:count]
        _require_finite(np.asarray(tops)[:count])
        texts.append(chosen)
        decode_state, done, most = texts.read(decode_state), done + count, min(2 * most, MAX_STEPS_PER_SYNC)
        yield from chosen.tolist()


def _require_finite(tops: NDArray[np.float32]) -> None:
    if not np.isfinite(tops).all():
        step, row = np.argwhere(~np.isfinite(tops))[0]
        raise unsampleable_error(int(row), float(tops[step, row]))


class _DecodeBatch:
    """The ids of all texts, and from where on each is in its state."""

    def __init__(
        self, model: LoadedModel, prompts: Sequence[NDArray[np.int32]], max_tokens: int, *, limit: int, vocab_size: int
    ) -> None:
        self.model, self.limit, self.vocab_size = model, limit, vocab_size
        self.ids = [prompt.astype(np.int32) for prompt in prompts]
        self.starts = [-1] * len(prompts)
        longest = max(len(prompt) for prompt in prompts) + max_tokens
        self.capacity = min(limit, 1 << (longest - 1).bit_length())  # few sizes, for each is compiled

    def initial_state(self, opening: int) -> DecodeState:
        """Return the state before any prefill."""
        rows = len(self.ids)
        seen = np.zeros((rows, self.vocab_size), np.bool_)
        for row, ids in enumerate(self.ids):
            text = ids[opening:]
            seen[row, text[text < self.vocab_size]] = True
        empty = self.model.model.init_state(1, self.capacity)
        states = jax.tree.map(lambda array: jnp.stack([array] * rows), empty)  # pyright: ignore[reportUnknownLambdaType]
        return DecodeState(states, jnp.zeros((rows, self.vocab_size), jnp.float32), jnp.asarray(seen))

    def steps_until_shift(self) -> int:
        """Return the number of steps until the first sequence shifts its context."""
        return min(self._steps_until_shift(len(ids), start) for ids, start in zip(self.ids, self.starts, strict=True))

    def _steps_until_shift(self, length: int, start: int) -> int:
        steps = 1
        while steps < MAX_STEPS_PER_SYNC and context_start(length + steps, self.limit) == start:
            steps += 1
        return steps

    def append(self, chosen: NDArray[np.int32]) -> None:
        """[steps B] more ids."""
        self.ids = [np.concatenate([ids, chosen[:, row]]) for row, ids in enumerate(self.ids)]

    def read(self, decode_state: DecodeState) -> DecodeState:
        """Prefill the sequences whose context start changed; equal ones once."""
        known: dict[bytes, tuple[Any, Array]] = {}
        for row, ids in enumerate(self.ids):
            start = context_start(len(ids), self.limit)
            if start == self.starts[row]:
                continue
            self.starts[row] = start
            window = ids[start:]
            if window.tobytes() not in known:
                known[window.tobytes()] = self._read(window)
            decode_state = _put(decode_state, row, *known[window.tobytes()])
        return decode_state

    def _read(self, ids: NDArray[np.int32]) -> tuple[Any, Array]:
        """State and logits after ``ids``."""
        state, done, chunk = self.model.model.init_state(1, self.capacity), 0, MAX_PREFILL_CHUNK
        logits = jnp.zeros((1, self.vocab_size), jnp.float32)
        while chunk >= MIN_PREFILL_CHUNK:
            if done + chunk <= len(ids):
                part = ids[None, done : done + chunk]
                state, logits = _prefill_chunk(self.model.model, self.vocab_size, self.model.network, part, state)
                done += chunk
            else:
                chunk //= 2
        rest = np.zeros(MIN_PREFILL_CHUNK, np.int32)
        rest[: len(ids) - done] = ids[done:]
        one_by_one = rest, len(ids) - done
        return _read_one_by_one(self.model.model, self.vocab_size, self.model.network, one_by_one, (state, logits))


@partial(jax.jit, static_argnums=(0, 1))
def _prefill_chunk(model: Any, vocab_size: int, network: Params, ids: Array, state: Any) -> tuple[Any, Array]:
    logits, state = model.decode(network, ids, state)
    return state, logits[:, :vocab_size]


@partial(jax.jit, static_argnums=(0, 1))
def _read_one_by_one(
    model: Any, vocab_size: int, network: Params, ids: tuple[Array, Array], begun: tuple[Any, Array]
) -> tuple[Any, Array]:
    def once(place: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        logits, state = model.decode(network, ids[0][place][None, None], carry[0])
        return state, logits[:, :vocab_size]

    return lax.fori_loop(0, ids[1], once, begun)


@partial(jax.jit, donate_argnums=0)
def _put(decode_state: DecodeState, row: int, state: Any, logits: Array) -> DecodeState:
    states = jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one), decode_state.states, state)  # pyright: ignore[reportUnknownLambdaType]
    return decode_state._replace(states=states, logits=decode_state.logits.at[row].set(logits[0]))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _decode_steps(
    model: Any,
    kind: SamplingSpec,
    decode_state: DecodeState,
    network: Params,
    inputs: tuple[SamplingArrays, Array, Array],
) -> tuple[DecodeState, Array, Array]:
    """Decode ``count`` steps; return the new state, the sampled ids and the largest logit of each row."""
    settings, uniform, count = inputs
    rows, vocab_size = decode_state.logits.shape

    def read(token: Array, state: Any) -> tuple[Array, Any]:
        logits, state = model.decode(network, token[None, None], state)
        return logits[0, :vocab_size], state

    def once(step: Array, carry: tuple[DecodeState, Array, Array]) -> tuple[DecodeState, Array, Array]:
        decode_state, ids, tops = carry
        chosen, top = sample(decode_state.logits, kind, settings, uniform[:, step], decode_state.seen)
        logits, states = jax.vmap(read)(chosen, decode_state.states)
        seen = marked(decode_state.seen, chosen) if kind.penalized else decode_state.seen
        return DecodeState(states, logits, seen), ids.at[step].set(chosen), tops.at[step].set(top)

    ids, tops = jnp.zeros((MAX_STEPS_PER_SYNC, rows), jnp.int32), jnp.zeros((MAX_STEPS_PER_SYNC, rows), jnp.float32)
    return lax.fori_loop(0, count, once, (decode_state, ids, tops))
