"""The families. One family is one file per engine, found by its name; nothing is registered anywhere.

A family ``NAME`` is ``NAME.py`` (``Config``: what it is) with ``NAME_torch.py`` and ``NAME_jax.py`` (``Model``:
the network), or, at its smallest, one ``NAME_torch.py`` with both. Every torch ``Model`` keeps the contract:

    Model(config)                           an nn.Module with ``config`` and ``blocks`` (an nn.ModuleList)
    .logits(tokens)         [B T] → [B T V] next-token logits at every position
    .loss(tokens, targets)  [B T] → []      training loss in nats, mean over targets that are not IGNORE
    .losses(tokens, targets)[B T] → [B T]   each target's negative log-likelihood in nats; 0 where IGNORE
    .start(batch, capacity) → state         opaque: key/value cache or hidden state for ``capacity`` tokens
    .step(tokens, state)    → ([B V], state) last position's logits after reading [B T] more tokens, T ≥ 1

It may have one method more, for speed alone; without it, texts are told by ``step``:

    .decoder(layout)        → Decoder       the network laid out for telling: see nn_decoding_torch.py

Whole = chunked = token by token: ``step`` over any split of a text gives the logits that ``logits`` gives.
A JAX ``Model`` keeps the same contract as plain functions: nothing is kept between calls, the weights are given with
each (``network``, a ``Part`` of nn_jax.py), and so is the state. Instead of ``loss`` it has

    .loss_sum(network, tokens, targets) → []  the sum of the losses instead of their mean, so that sums add up

A family never imports another; blocks that two families use unchanged live in ``nn*_torch.py`` / ``nn*_jax.py``.
"""

IGNORE = -100
"""The target that is not learned: padding."""
