"""Model families. A family is one file per engine, found by its name; nothing is registered anywhere.

A family ``NAME`` is ``NAME.py`` (``Config``) with ``NAME_torch.py`` and ``NAME_jax.py`` (``Model``), or, at its
smallest, one ``NAME_torch.py`` with both. Every PyTorch ``Model`` keeps this contract:

    Model(config)                          an nn.Module with ``config`` and ``blocks`` (an nn.ModuleList)
    model(tokens)           [B T] → [B T V]  ``forward``: next-token logits at every position
    .loss(tokens, targets)  [B T] → []       training loss in nats, mean over the targets that are not IGNORE
    .token_losses(tokens, targets)
                            [B T] → [B T]    negative log-likelihood of each target in nats; 0 where IGNORE
    .init_state(batch_size, capacity)
                            → state          opaque: KV cache or hidden state for ``capacity`` tokens per sequence
    .decode(tokens, state)  → ([B V], state) logits of the last position after [B T] more tokens, T ≥ 1
    .masks_documents                         optional: True if ``loss`` and ``token_losses`` take a third argument,
                                             ``document_starts`` [B T]: the position at which the document of each
                                             token starts, before which nothing may have an influence; None: no mask

``decode`` over any split of a sequence gives the logits that ``forward`` gives: whole = chunked = token by token.

A JAX ``Model`` keeps the contract in plain functions: every method takes the parameters first (``params``, a ``Params``
of nn/layers_jax.py), nothing is stored between two calls, and the state is a value. In place of ``loss`` there is

    .loss_sum(params, tokens, targets) → []  sum of the token losses, so that the sums of micro-batches can be added

and ``document_starts`` is a field of ``params``.

A family imports no other family. Blocks that two or more families use are in ``nn/``.
"""

IGNORE = -100
"""Target id of positions that have no loss: padding."""
