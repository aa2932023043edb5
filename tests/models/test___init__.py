"""Tests of the contract in ``fabella/models/__init__.py``, run for every family."""

import ctypes
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fabella.errors import UsageError
from fabella.models import IGNORE
from fabella.models.nn.kernels.library import kernel_library, use_kernels
from fabella.models.registry import family_names

# Sums of a few dozen float32 products in another order.
LOGITS_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-6

BATCH, TIME = 3, 24

WITHOUT_DROPOUT = {"qwen"}
"""Families whose published models are trained without it, and that have no setting for it."""


def targets_for(tokens: Tensor) -> Tensor:
    return tokens.roll(-1, dims=1)


# ---------------------------------------------------------------- the parameter table


def test_table_is_the_state_dict(family: Any) -> None:
    """Names, shapes and order are equal: there is no buffer, and no tied weight under a second name."""
    network = {name: tuple(tensor.shape) for name, tensor in family.empty().state_dict().items()}
    table = {name: parameter.shape for name, parameter in family.config.parameters().items()}
    assert list(network.items()) == list(table.items())
    assert not list(family.empty().buffers())


def test_matrices_decay_and_vectors_do_not(family: Any) -> None:
    for name, parameter in family.config.parameters().items():
        assert parameter.decay == (len(parameter.shape) == 2), name


def test_blocks_are_a_list_of_modules(family: Any) -> None:
    model = family.model()
    assert isinstance(model.blocks, torch.nn.ModuleList)
    assert len(model.blocks) == family.config.layers
    assert model.config is family.config


def test_initial_logits_are_nearly_uniform(family: Any) -> None:
    """Before training, the loss is near ln(vocabulary), the loss of uniform logits."""
    tokens = family.tokens(BATCH, TIME)
    loss = family.model().loss(tokens, targets_for(tokens))
    uniform_loss = torch.tensor(float(family.config.vocab_size)).log()
    assert abs(loss.item() - uniform_loss.item()) < 0.5


# ---------------------------------------------------------------- forward and decode


def cuts() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, TIME - 1), max_size=TIME, unique=True).map(lambda inner: [0, *sorted(inner), TIME])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=cuts(), batch=st.integers(1, BATCH), spare=st.integers(0, 5))
def test_whole_equals_chunked_equals_token_by_token(family: Any, cuts: list[int], batch: int, spare: int) -> None:
    model, tokens = family.model(), family.tokens(batch, TIME)
    whole = model(tokens)
    state = model.init_state(batch, TIME + spare)
    for start, end in pairwise(cuts):
        last, state = model.decode(tokens[:, start:end], state)
        torch.testing.assert_close(last, whole[:, end - 1], atol=LOGITS_TOLERANCE, rtol=0)


def test_token_by_token_equals_whole(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    state, logits = model.init_state(BATCH, TIME), []
    for column in tokens.split(1, dim=1):
        last, state = model.decode(column, state)
        logits.append(last)
    torch.testing.assert_close(torch.stack(logits, dim=1), model(tokens), atol=LOGITS_TOLERANCE, rtol=0)


def test_sequences_of_a_batch_are_independent(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    single_rows = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(model(tokens), single_rows, atol=LOGITS_TOLERANCE, rtol=0)


def test_no_position_attends_to_later_ones(family: Any) -> None:
    model, tokens = family.model(), family.tokens(1, TIME)
    other = tokens.clone()
    other[0, TIME // 2 :] = (other[0, TIME // 2 :] + 1) % family.config.vocab_size
    before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, : TIME // 2], after[:, : TIME // 2], atol=LOGITS_TOLERANCE, rtol=0)
    assert (before[:, TIME // 2] - after[:, TIME // 2]).abs().max() > LOGITS_TOLERANCE


def test_every_position_attends_to_earlier_ones(family: Any) -> None:
    model, tokens = family.model(), family.tokens(1, TIME)
    other = tokens.clone()
    other[0, 0] = (other[0, 0] + 1) % family.config.vocab_size
    assert ((model(tokens) - model(other)).abs().amax(2) > 0).all()


def test_a_full_state_is_an_error_and_stays_unchanged(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    state = model.init_state(BATCH, TIME)
    _, state = model.decode(tokens[:, :-1], state)
    if not family.config.unlimited_context:
        with pytest.raises(UsageError, match="25 tokens are more than the capacity of 24"):
            model.decode(tokens[:, :2], state)
    last, _ = model.decode(tokens[:, -1:], state)
    torch.testing.assert_close(last, model(tokens)[:, -1], atol=LOGITS_TOLERANCE, rtol=0)


def test_a_sequence_beyond_the_context_is_an_error_unless_unlimited(family: Any) -> None:
    model, length = family.model(), family.config.context_length + 1
    if family.config.unlimited_context:
        assert model(family.tokens(1, length)).isfinite().all()
        return
    message = f"{length} tokens are more than the context of {length - 1}"
    with pytest.raises(UsageError, match=message):
        model(family.tokens(1, length))
    with pytest.raises(UsageError, match=message):
        model.init_state(1, length)


@pytest.mark.parametrize(
    ("tokens", "message", "hint"),
    [
        ([[1, 2]], "as a tensor, got list", "model(torch.tensor([ids]))"),
        (np.array([[1, 2]]), "as a tensor, got ndarray", "model(torch.tensor([ids]))"),
        (torch.tensor([1, 2]), "of shape [batch, length], got [2]", "model(tokens[None])"),
        (torch.tensor([[[1]]]), "of shape [batch, length], got [1, 1, 1]", "model(tokens[None])"),
        (torch.tensor([[1.0]]), "integer token ids, got torch.float32", "model(tokens.long())"),
        (torch.tensor([[True]]), "integer token ids, got torch.bool", "model(tokens.long())"),
    ],
)
def test_what_is_not_a_batch_of_ids_is_an_error_that_names_the_remedy(
    family: Any, tokens: Any, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        family.model()(tokens)
    assert hint in str(error.value)


def test_decoding_tracks_no_gradients(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    last, _ = model.decode(tokens, model.init_state(BATCH, TIME))
    assert not last.requires_grad
    assert not model.token_losses(tokens, targets_for(tokens)).requires_grad


# ---------------------------------------------------------------- the loss


def test_losses_match_the_logits(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    targets = targets_for(tokens)
    targets[0, 5:] = IGNORE
    expected = functional.cross_entropy(model(tokens).transpose(1, 2), targets, ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(model.token_losses(tokens, targets), expected, atol=LOGITS_TOLERANCE, rtol=0)


def test_padding_has_no_loss(family: Any) -> None:
    """A padded batch has the mean loss of its targets, and the ids of the padding change no gradient."""
    model, tokens = family.model(), family.tokens(2, TIME)
    short, targets = TIME // 3, targets_for(tokens)
    targets[1, short:] = IGNORE
    padded = model.loss(tokens, targets)
    padded.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    whole, part = model.loss(tokens[:1], targets[:1]), model.loss(tokens[1:, :short], targets[1:, :short])
    torch.testing.assert_close(padded, (whole * TIME + part * short) / (TIME + short), atol=LOSS_TOLERANCE, rtol=0)

    model.zero_grad()
    tokens[1, short:] = 0
    model.loss(tokens, targets).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=LOSS_TOLERANCE, rtol=0)


def test_a_batch_of_padding_has_no_loss_and_no_gradient(family: Any) -> None:
    model, tokens = family.model(), family.tokens(2, TIME)
    loss = model.loss(tokens, torch.full_like(tokens, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_every_weight_is_trained(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    model.loss(tokens, targets_for(tokens)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_match_finite_differences(family: Any) -> None:
    """Along a random direction, in float64: (loss(w + εd) − loss(w − εd)) / 2ε."""
    model, tokens, step = family.model().double(), family.tokens(2, TIME), 1e-5
    targets = targets_for(tokens)
    model.loss(tokens, targets).backward()
    random = torch.Generator().manual_seed(5)
    directions = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in model.parameters()]
    expected = sum((p.grad * d).sum() for p, d in zip(model.parameters(), directions, strict=True))
    losses = []
    with torch.no_grad():
        for offset in (step, -2 * step):
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter.add_(direction, alpha=offset)
            losses.append(model.loss(tokens, targets))
    torch.testing.assert_close((losses[0] - losses[1]) / (2 * step), expected, atol=1e-6, rtol=1e-5)


def test_overfits_one_batch(family: Any) -> None:
    model, tokens = family.model().eval(), family.tokens(2, 16)  # without dropout, which other tests examine
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(tokens, targets_for(tokens)).backward()
        optimizer.step()
    assert model.token_losses(tokens, targets_for(tokens)).mean() < 0.1


def test_training_is_deterministic(family: Any) -> None:
    """The same seed gives the same bits, dropout included."""
    tokens = family.tokens(BATCH, TIME)

    def gradients() -> list[Tensor]:
        model = family.model().train()
        torch.manual_seed(1)
        model.loss(tokens, targets_for(tokens)).backward()
        return [parameter.grad for parameter in model.parameters()]

    assert all(torch.equal(first, second) for first, second in zip(gradients(), gradients(), strict=True))


def test_dropout_applies_in_training_only(family: Any) -> None:
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    assert torch.equal(model(tokens), model(tokens))
    first, second = (model.train().loss(tokens, targets_for(tokens)).item() for _ in range(2))
    assert (first == second) == (family.name in WITHOUT_DROPOUT)


def test_half_precision_is_close(family: Any) -> None:
    """Under autocast to bfloat16, with 8 bits of mantissa, loss and gradients stay within a few per cent."""
    model, tokens = family.model(), family.tokens(BATCH, TIME)
    exact = model.loss(tokens, targets_for(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        half = model.loss(tokens, targets_for(tokens))
        half.backward()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.02, rtol=0)
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


# ---------------------------------------------------------------- documents of packed sequences


@pytest.fixture(params=[True, False], ids=["kernels", "without"])
def kernels(request: pytest.FixtureRequest) -> ctypes.CDLL | None:
    """Return the training kernels, and None."""
    built = kernel_library()
    if request.param and built.library is None:
        pytest.skip(built.warning or "switched off")
    return built.library if request.param else None


def distinct_model(family: Any) -> Any:
    """Return a model whose weights are all far from 0, those of a convolution as well."""
    model, random = family.model(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return model


def gradients_of(model: Any, tokens: Tensor, document_starts: Tensor | None = None, share: float = 1.0) -> None:
    (model.loss(tokens[:, :-1], tokens[:, 1:], document_starts) * share).backward()


def at_position(model: Any, position: int) -> None:
    """Let a sequence begin at this learned position, where a model has learned positions."""
    if hasattr(model, "positions"):
        with torch.no_grad():
            model.positions.weight.copy_(model.positions.weight.roll(-position, 0))


def test_a_masked_row_has_loss_and_gradients_of_its_documents_by_themselves(
    family: Any, kernels: ctypes.CDLL | None
) -> None:
    """At the positions that they have in the row: learned positions continue."""
    tokens, borders = family.tokens(1, 30), (0, 1, 2, 9, 17, 29)
    starts = torch.tensor([[start for start, end in pairwise(borders) for _ in range(start, end)]], dtype=torch.int32)
    masked, single = distinct_model(family), distinct_model(family)
    with use_kernels(kernels):
        gradients_of(masked, tokens, starts)
        for start, end in pairwise(borders):
            at_position(single, start)
            gradients_of(single, tokens[:, start : end + 1], share=(end - start) / 29)
            at_position(single, -start)
    for (name, parameter), other in zip(masked.named_parameters(), single.parameters(), strict=True):
        if name != "positions.weight":  # that of another row in each document
            torch.testing.assert_close(parameter.grad, other.grad, atol=1e-4, rtol=1e-3, msg=name)
    losses = masked.token_losses(tokens[:, :-1], tokens[:, 1:], starts)
    for start, end in pairwise(borders):
        at_position(single, start)
        expected = single.token_losses(tokens[:, start:end], tokens[:, start + 1 : end + 1])
        torch.testing.assert_close(losses[:, start:end], expected, atol=1e-4, rtol=1e-4)
        at_position(single, -start)
    assert (losses - masked.token_losses(tokens[:, :-1], tokens[:, 1:])).abs().max() > 0.01


def test_a_token_has_no_influence_beyond_its_document(family: Any, kernels: ctypes.CDLL | None) -> None:
    tokens = family.tokens(2, 24)
    changed = tokens.clone()
    changed[0, 11] = (tokens[0, 11] + 1) % family.config.vocab_size  # the last token of a document
    starts = torch.tensor([[0] * 5 + [5] * 7 + [12] * 12, [0] * 24], dtype=torch.int32)
    model = distinct_model(family)
    with use_kernels(kernels):
        first, second = (model.hidden_states(each, document_starts=starts) for each in (tokens, changed))
    for before, after in zip(first, second, strict=True) if isinstance(first, list) else [(first, second)]:
        differs = (before != after).any(-1)
        assert differs.nonzero().tolist() == [[0, 11]]


def test_one_document_in_a_row_is_an_unmasked_row(family: Any) -> None:
    tokens = family.tokens(BATCH, TIME)
    starts, model = torch.zeros_like(tokens, dtype=torch.int32), family.model()
    torch.testing.assert_close(
        model.token_losses(tokens, tokens, starts), model.token_losses(tokens, tokens), atol=1e-6, rtol=1e-6
    )


# ---------------------------------------------------------------- shapes


CHECKED = """
import importlib, pkgutil
from itertools import pairwise

import torch
from jaxtyping import TypeCheckError, install_import_hook

import fabella.models
from fabella.models.registry import family_module, family_names

names = [m.name for m in pkgutil.iter_modules(fabella.models.__path__) if m.name.endswith("_torch")]
with install_import_hook([f"fabella.models.{name}" for name in names], "beartype.beartype"):
    networks = {name: importlib.import_module(f"fabella.models.{name}_torch") for name in family_names()}
for name, network in networks.items():
    config = family_module(name).Config.tiny()
    model = network.Model(config)
    for batch in (1, 2):
        tokens = torch.randint(config.vocab_size, (batch, 7))
        model.loss(tokens, tokens).backward()
        model.token_losses(tokens, tokens)
        model.token_losses(tokens, tokens, torch.zeros_like(tokens, dtype=torch.int32))
        assert model(tokens).shape == (batch, 7, config.vocab_size)
        state = model.init_state(batch, 7)
        for start, end in pairwise((0, 4, 5, 7)):
            last, state = model.decode(tokens[:, start:end], state)
    try:
        model.hidden_states(torch.zeros(7, dtype=torch.long))
    except TypeCheckError as error:
        print(name)
"""


def test_shapes_are_as_annotated() -> None:
    """Every annotation is checked at each call, in a child process, because the checks cannot be removed."""
    process = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == family_names(), "a wrong shape was not caught: some annotations were not checked"
