"""Plain MinGRU in JAX; mingru_plain.py describes the architecture."""

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Int

from fabella.models.mingru_plain import Config
from fabella.models.nn.layers_jax import CausalLM, Params, apply_block, dropout, embed, rms_norm, swiglu
from fabella.models.nn.recurrence_jax import mingru

State = list[Float[Array, "B S"]]
"""Hidden state of each layer; 0 before the first token."""


class Model(CausalLM):
    """The embedding, the blocks, a final norm, the output head."""

    config: Config
    masks_documents = True

    def head_weight(self, params: Params) -> Float[Array, "V D"]:
        return params["embedding.weight" if self.config.tie_embeddings else "head.weight"]

    def block(
        self, params: Params, x: Float[Array, "B T D"], before: Float[Array, "B S"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B S"]]:
        """Pre-norm MinGRU, then pre-norm SwiGLU, each added to the residual stream; and the last hidden state."""
        c = self.config
        normed = rms_norm(x, params["mixer_norm.weight"], c.norm_eps)
        mixed, last = mingru(params.scope("mixer"), normed, before)
        x = x + dropout(params, "mixer", mixed, c.dropout)
        ffn_out = swiglu(params.scope("feed_forward"), rms_norm(x, params["feed_forward_norm.weight"], c.norm_eps))
        return x + dropout(params, "feed_forward", ffn_out, c.dropout), last

    def hidden_states(
        self, params: Params, tokens: Int[Array, "B T"], state: State | None = None
    ) -> tuple[Float[Array, "B T D"], State | None]:
        c = self.config
        layers = state if state is not None else self.init_state(len(tokens), capacity=0)
        x = dropout(params, "embedding", embed(params.scope("embedding"), tokens), c.dropout)
        new_layers: list[Array] = []
        for layer, before in enumerate(layers):
            x, last = apply_block(params, layer, self.block, x, before)
            new_layers.append(last)
        return rms_norm(x, params["norm.weight"], c.norm_eps), new_layers if state is not None else None

    def init_state(self, batch_size: int, capacity: int) -> State:
        """Return a state of zeros. It fits any length, so ``capacity`` is ignored."""
        return [jnp.zeros((batch_size, self.config.state_dim), jnp.float32) for _ in range(self.config.layers)]
