"""The loop that tells several texts at once, compiled as one piece: choosing, reading on and the cache in between.

The device goes round by itself for some steps before the next ids come back, few at first, so that a text begins at
once. Every text stands at a place of its own; a prompt is read in stretches of a few lengths, each compiled once.
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
"""Steps before ids come back, at most: what is told beyond an end is lost."""
MIN_PREFILL_CHUNK, MAX_PREFILL_CHUNK = 16, 1024
"""Ids of a prompt that are read at once; what remains is read one by one."""


class DecodeState(NamedTuple):
    """B texts as the device holds them."""

    states: Any
    """Each row's state of a batch of one"""
    logits: Array
    """[B V], of each row's next id"""
    seen: Array
    """[B V], ids that are penalised"""


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

    Raises NumericsError where the logits of a row are not finite.
    """
    for prompt in prompts or [np.empty(0, dtype=np.int32)]:
        require_readable(prompt, model.config.vocab_size)
    limit = context if model.config.unlimited_context else min(context, model.config.context_length)
    texts = _DecodeBatch(model, prompts, max_tokens, limit=limit, vocab_size=vocab_size)
    told = texts.read(texts.told(opening))
    uniform = np.stack([uniforms(sampling.seed, row, max_tokens) for row in rows])
    uniform = np.pad(uniform, ((0, 0), (0, MAX_STEPS_PER_SYNC)))
    kind, settings, done, most = SamplingSpec.of(sampling), SamplingArrays.of(sampling), 0, 1
    while done < max_tokens:
        count = min(most, max_tokens - done, texts.room())
        drawn = uniform[:, done : done + MAX_STEPS_PER_SYNC]
        told, ids, tops = _go_round(model.model, kind, told, model.network, (settings, drawn, count))
        chosen = np.asarray(ids)[:count]
        _require_finite(np.asarray(tops)[:count])
        texts.append(chosen)
        told, done, most = texts.read(told), done + count, min(2 * most, MAX_STEPS_PER_SYNC)
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

    def told(self, opening: int) -> DecodeState:
        """Texts that have been read by nobody yet."""
        rows = len(self.ids)
        seen = np.zeros((rows, self.vocab_size), np.bool_)
        for row, ids in enumerate(self.ids):
            text = ids[opening:]
            seen[row, text[text < self.vocab_size]] = True
        empty = self.model.model.init_state(1, self.capacity)
        states = jax.tree.map(lambda array: jnp.stack([array] * rows), empty)  # pyright: ignore[reportUnknownLambdaType]
        return DecodeState(states, jnp.zeros((rows, self.vocab_size), jnp.float32), jnp.asarray(seen))

    def room(self) -> int:
        """Steps until the first text has outgrown its window and must be read anew."""
        return min(self._room(len(ids), start) for ids, start in zip(self.ids, self.starts, strict=True))

    def _room(self, length: int, start: int) -> int:
        steps = 1
        while steps < MAX_STEPS_PER_SYNC and context_start(length + steps, self.limit) == start:
            steps += 1
        return steps

    def append(self, chosen: NDArray[np.int32]) -> None:
        """[steps B] more ids."""
        self.ids = [np.concatenate([ids, chosen[:, row]]) for row, ids in enumerate(self.ids)]

    def read(self, told: DecodeState) -> DecodeState:
        """Read those texts whose window begins elsewhere than before; equal ones once."""
        known: dict[bytes, tuple[Any, Array]] = {}
        for row, ids in enumerate(self.ids):
            start = context_start(len(ids), self.limit)
            if start == self.starts[row]:
                continue
            self.starts[row] = start
            window = ids[start:]
            if window.tobytes() not in known:
                known[window.tobytes()] = self._read(window)
            told = _put(told, row, *known[window.tobytes()])
        return told

    def _read(self, ids: NDArray[np.int32]) -> tuple[Any, Array]:
        """State and logits after ``ids``."""
        state, done, stretch = self.model.model.init_state(1, self.capacity), 0, MAX_PREFILL_CHUNK
        logits = jnp.zeros((1, self.vocab_size), jnp.float32)
        while stretch >= MIN_PREFILL_CHUNK:
            if done + stretch <= len(ids):
                part = ids[None, done : done + stretch]
                state, logits = _read_stretch(self.model.model, self.vocab_size, self.model.network, part, state)
                done += stretch
            else:
                stretch //= 2
        rest = np.zeros(MIN_PREFILL_CHUNK, np.int32)
        rest[: len(ids) - done] = ids[done:]
        one_by_one = rest, len(ids) - done
        return _read_one_by_one(self.model.model, self.vocab_size, self.model.network, one_by_one, (state, logits))


@partial(jax.jit, static_argnums=(0, 1))
def _read_stretch(model: Any, vocab_size: int, network: Params, ids: Array, state: Any) -> tuple[Any, Array]:
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
def _put(told: DecodeState, row: int, state: Any, logits: Array) -> DecodeState:
    states = jax.tree.map(lambda all_rows, one: all_rows.at[row].set(one), told.states, state)  # pyright: ignore[reportUnknownLambdaType]
    return told._replace(states=states, logits=told.logits.at[row].set(logits[0]))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _go_round(
    model: Any, kind: SamplingSpec, told: DecodeState, network: Params, given: tuple[SamplingArrays, Array, Array]
) -> tuple[DecodeState, Array, Array]:
    """So many steps of every text: the texts after them, the ids chosen, and each row's largest logit."""
    settings, uniform, count = given
    rows, vocab_size = told.logits.shape

    def read(token: Array, state: Any) -> tuple[Array, Any]:
        logits, state = model.decode(network, token[None, None], state)
        return logits[0, :vocab_size], state

    def once(step: Array, carry: tuple[DecodeState, Array, Array]) -> tuple[DecodeState, Array, Array]:
        told, ids, tops = carry
        chosen, top = sample(told.logits, kind, settings, uniform[:, step], told.seen)
        logits, states = jax.vmap(read)(chosen, told.states)
        seen = marked(told.seen, chosen) if kind.penalised else told.seen
        return DecodeState(states, logits, seen), ids.at[step].set(chosen), tops.at[step].set(top)

    ids, tops = jnp.zeros((MAX_STEPS_PER_SYNC, rows), jnp.int32), jnp.zeros((MAX_STEPS_PER_SYNC, rows), jnp.float32)
    return lax.fori_loop(0, count, once, (told, ids, tops))
