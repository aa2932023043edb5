"""MinGRU in JAX; what it is stands in mingru.py."""

from functools import partial

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.mingru import Config
from fabella.models.nn.layers_jax import Network, Params, apply_block, dropout, embed, linear, multiply, rms_norm
from fabella.models.nn.loss_jax import linear_cross_entropy, linear_losses
from fabella.models.nn.recurrence_jax import mingru

State = list[Float[Array, "B S"]]
"""Each layer's hidden state; 0 before the first token."""


def feed_forward(part: Params, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """down(GELU(up(x / rms(x)))), at each position by itself."""
    normed = rms_norm(x, jnp.ones(x.shape[-1], jnp.float32))
    return linear(part.scope("down"), jax.nn.gelu(linear(part.scope("up"), normed), approximate=False))


def block(
    rate: float, part: Params, x: Float[Array, "B T D"], tokens: Int[Array, "B T"], before: Float[Array, "B S"]
) -> tuple[Float[Array, "B T D"], Float[Array, "B S"]]:
    """The stream with what this block adds to it, and the block's last hidden state. ``rate``: that of the dropout."""
    x = x + dropout(part, "embedding", embed(part.scope("embedding"), tokens), rate)
    mixed, last = mingru(part.scope("mixer"), rms_norm(x, part["mixer_norm.weight"]), before)
    x = x + dropout(part, "mixer", mixed, rate)
    return x + dropout(part, "feed_forward", feed_forward(part.scope("feed_forward"), x), rate), last


class Model(Network):
    """The blocks, one after another. Training listens to every block's head, generation to the last one's."""

    config: Config
    masks_documents = True

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[list[Float[Array, "B T D"]], State]:
        """The stream after each block, normed for its head, and the state with these tokens read."""
        memory = state if state is not None else self.init_state(len(tokens), capacity=0)
        x = jnp.zeros((*tokens.shape, self.config.dim), jnp.float32)
        streams: list[Array] = []
        lasts: list[Array] = []
        step = partial(block, self.config.dropout)
        for layer, before in enumerate(memory):
            x, last = apply_block(params, layer, step, x, tokens, before)
            streams.append(rms_norm(x, params[f"blocks.{layer}.head_norm.weight"]))
            lasts.append(last)
        return streams, lasts

    def forward(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T V"]:
        """Next-token logits at every position."""
        return multiply(self.hidden_states(params, tokens)[0][-1], self._head(params), params.compute).astype(
            jnp.float32
        )

    def loss_sum(self, params: Params, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]) -> Float[Array, ""]:
        """Mean over the heads of each head's sum of losses in nats."""
        streams, _ = self.hidden_states(params, tokens)
        losses: list[Array] = [
            linear_cross_entropy(stream, params[f"blocks.{layer}.head.weight"], targets, params.compute)
            for layer, stream in enumerate(streams)
        ]
        return jnp.stack(losses).mean()

    def token_losses(
        self, params: Params, tokens: Int[Array, "B T"], targets: Int[Array, "B T"]
    ) -> Float[Array, "B T"]:
        """Each target's negative log-likelihood in nats under the last head; 0 where IGNORE."""
        return linear_losses(self.hidden_states(params, tokens)[0][-1], self._head(params), targets, params.compute)

    def init_state(self, batch_size: int, capacity: int) -> State:
        """A state that has read nothing; texts of any length fit, so ``capacity`` does not matter."""
        return [jnp.zeros((batch_size, self.config.state_dim), jnp.float32) for _ in range(self.config.layers)]

    def decode(self, params: Params, tokens: Int[Array, "B T"], state: State) -> tuple[Float[Array, "B V"], State]:
        """Return the logits of the last position after T more tokens, and the new state."""
        streams, state = self.hidden_states(params, tokens, state)
        return multiply(streams[-1][:, -1], self._head(params), params.compute).astype(jnp.float32), state

    def _head(self, params: Params) -> Float[Array, "V D"]:
        return params[f"blocks.{self.config.layers - 1}.head.weight"]
