"""Checks that every family must pass, for `fabella check-family` and the tests.

Each check is a function ``(config) -> None`` that raises ValueError with the reason. ``check_family`` runs all of
them on a small config and reports each result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fabella.models import IGNORE
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import initial_weights
from fabella.models.registry import network_module

SEED = 0
ROWS, LENGTH = 2, 12
TOLERANCE = 1e-4
"""Largest difference of two logits that should be equal; float32 sums in another order differ by about 1e-6."""
ROUNDING = 1e-6
"""Largest difference of two losses that nothing changed but the rounding."""
OVERFIT_STEPS = 150
OVERFIT_SHARE = 0.5
"""The loss on one repeated batch must fall below this share of its first value."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of a family; ``problem`` is empty if it passed."""

    name: str
    problem: str


def check_family(config: ModelConfig) -> list[CheckResult]:
    """Run every check on ``config``, a small config of the family such as ``Config.tiny()``."""
    return [CheckResult(name, _problem_of(check, config)) for name, check in CHECKS.items()]


def _problem_of(check: Callable[[ModelConfig], None], config: ModelConfig) -> str:
    try:
        check(config)
    except Exception as error:  # noqa: BLE001 - a family is user code: whatever it raises is the result of the check
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return ""


def build(config: ModelConfig) -> nn.Module:
    """Return the network with its initial weights, in evaluation mode."""
    model: nn.Module = network_module(config, "torch").Model(config)
    weights = initial_weights(config.parameters(), SEED)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return model.eval()


def _tokens(config: ModelConfig, rows: int = ROWS, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(config.vocab_size, (rows, length), generator=generator)


def check_parameter_table(config: ModelConfig) -> None:
    """The parameter table has the names and shapes of the network."""
    table = {name: spec.shape for name, spec in config.parameters().items()}
    network = network_module(config, "torch").Model(config)
    actual = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    _require(table == actual, f"table and network differ: {sorted(table.items() ^ actual.items())[:4]}")


def check_forward(config: ModelConfig) -> None:
    """``forward`` returns finite logits of shape [B, T, V]."""
    with torch.no_grad():
        logits = build(config)(_tokens(config))
    expected = (ROWS, LENGTH, config.vocab_size)
    _require(tuple(logits.shape) == expected, f"logits have shape {tuple(logits.shape)}, not {expected}")
    _require(bool(logits.isfinite().all()), "some logits are not finite")


@torch.no_grad()
def check_causality(config: ModelConfig) -> None:
    """No logits depend on later tokens."""
    model, tokens = build(config), _tokens(config)
    changed = tokens.clone()
    changed[:, LENGTH // 2] = (changed[:, LENGTH // 2] + 1) % config.vocab_size
    before = slice(0, LENGTH // 2)
    _require_close(model(tokens)[:, before], model(changed)[:, before], "logits depend on later tokens")


@torch.no_grad()
def check_rows_are_independent(config: ModelConfig) -> None:
    """A row's logits do not depend on the other rows of the batch."""
    model, tokens = build(config), _tokens(config)
    _require_close(model(tokens)[:1], model(tokens[:1]), "rows of a batch depend on each other")


@torch.no_grad()
def check_decoding(config: ModelConfig) -> None:
    """``decode`` gives the logits of ``forward``: as a whole, in chunks and token by token."""
    model: Any = build(config)
    tokens = _tokens(config)
    expected = model(tokens)[:, -1]
    for sizes in ((LENGTH,), (5, 1, LENGTH - 6), (1,) * LENGTH):
        state, logits = model.init_state(ROWS, LENGTH), expected
        for chunk in tokens.split(list(sizes), dim=1):
            logits, state = model.decode(chunk, state)
        _require_close(logits, expected, f"decode in chunks of {sizes} differs from forward")


@torch.no_grad()
def check_losses(config: ModelConfig) -> None:
    """Padding has no loss, and ``token_losses`` are the cross-entropies of the logits."""
    model: Any = build(config)
    tokens, targets = _tokens(config), _tokens(config, length=LENGTH + 1)[:, 1:].clone()
    targets[0, LENGTH // 2 :] = IGNORE
    losses = model.token_losses(tokens, targets)
    _require(bool((losses[0, LENGTH // 2 :] == 0).all()), "padding has a loss")
    expected = nn.functional.cross_entropy(
        model(tokens).transpose(1, 2), targets, ignore_index=IGNORE, reduction="none"
    )
    _require_close(losses, expected, "token_losses are not the cross-entropies of the logits")
    ignored = torch.full_like(targets, IGNORE)
    _require(float(model.loss(tokens, ignored).detach()) == 0.0, "a batch of padding has a loss")


@torch.no_grad()
def check_document_masks(config: ModelConfig) -> None:
    """With ``masks_documents``, no loss depends on an earlier document, and one document is a row without masks."""
    model: Any = build(config)
    if not getattr(model, "masks_documents", False):
        return
    tokens, targets, half = _tokens(config), _tokens(config, length=LENGTH + 1)[:, 1:], LENGTH // 2
    starts = torch.zeros(ROWS, LENGTH, dtype=torch.int32)
    _require_close(
        model.token_losses(tokens, targets, starts), model.token_losses(tokens, targets), "one document has masks"
    )
    starts[:, half:] = half
    changed = tokens.clone()
    changed[:, :half] = (changed[:, :half] + 1) % config.vocab_size
    before, after = (model.token_losses(each, targets, starts)[:, half:] for each in (tokens, changed))
    difference = float((before - after).abs().max())
    _require(difference <= ROUNDING, f"losses depend on an earlier document (by {difference:.2g})")


def check_gradients(config: ModelConfig) -> None:
    """Every parameter gets a gradient."""
    model: Any = build(config)
    tokens = _tokens(config)
    model.loss(tokens, tokens).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
    _require(not without, f"no gradient: {without[:4]}")


def check_overfitting(config: ModelConfig) -> None:
    """The loss of one repeated batch falls."""
    model: Any = build(config)
    tokens = _tokens(config, length=LENGTH + 1)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    first = float(model.loss(inputs, targets).detach())
    for _ in range(OVERFIT_STEPS):
        optimizer.zero_grad()
        model.loss(inputs, targets).backward()
        optimizer.step()
    last = float(model.loss(inputs, targets).detach())
    _require(last < OVERFIT_SHARE * first, f"the loss went from {first:.3f} to {last:.3f} in {OVERFIT_STEPS} steps")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _require_close(actual: Tensor, expected: Tensor, problem: str) -> None:
    difference = float((actual - expected).abs().max())
    _require(difference <= TOLERANCE, f"{problem} (by {difference:.2g})")


CHECKS: dict[str, Callable[[ModelConfig], None]] = {
    "parameter table equals the network": check_parameter_table,
    "forward returns finite logits": check_forward,
    "no position depends on later tokens": check_causality,
    "rows of a batch are independent": check_rows_are_independent,
    "decode equals forward, whole, in chunks and token by token": check_decoding,
    "padding has no loss": check_losses,
    "documents are independent where they are masked": check_document_masks,
    "every parameter gets a gradient": check_gradients,
    "the loss of one repeated batch falls": check_overfitting,
}
"""Name of a check → the function that runs it."""
