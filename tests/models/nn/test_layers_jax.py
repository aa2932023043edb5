"""Tests that the JAX and PyTorch networks of each family and preset have the same logits, losses and gradients."""

import importlib
import subprocess
import sys
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax import Array
from jax import numpy as jnp

from fabella.errors import UsageError
from fabella.models import IGNORE
from fabella.models.model_config import ModelConfig
from fabella.models.nn.layers_jax import Params, dropout
from fabella.models.parameters import initial_weights
from fabella.models.registry import family_module
from fabella.run_config.files import preset, preset_names
from tests.models.conftest import Family, families_with_twins

# Relative to the largest logit: float32 sums in another order.
LOGITS_TOLERANCE = 1e-5
# Relative to the largest gradient of each weight; gradients that are 0 up to rounding are below the second value.
GRADIENT_TOLERANCE, GRADIENT_NOISE = 1e-4, 1e-8
# Decoding with a state, compared with the forward pass.
STEP_TOLERANCE = 1e-5
BATCH, TIME = 3, 16
SIZES = {"vocab_size": 61, "context_length": TIME, "embedding": 8, "dim": 16, "layers": 2, "heads": 2, "kv_heads": 1}
SIZES |= {"ffn_dim": 24, "dropout": 0.0}


@dataclass(frozen=True)
class Twins:
    """Both networks of one config with the same weights, without dropout."""

    config: ModelConfig

    @property
    def torch(self) -> Any:
        return Family(self.config.family, self.config).model()

    @property
    def jax(self) -> Any:
        return importlib.import_module(f"fabella.models.{self.config.family}_jax").Model(self.config)

    @property
    def weights(self) -> dict[str, Array]:
        table = initial_weights(self.config.parameters(), 1)
        return {name: jnp.asarray(array) for name, array in table.items()}


def reduced(model: ModelConfig) -> ModelConfig:
    """Return the model of a preset with small sizes and without dropout."""
    values = model.model_dump()
    values |= {name: size for name, size in SIZES.items() if name in values}
    return type(model).model_validate(values)


def different_presets() -> list[str]:
    """Return one preset for each reduced model."""
    return list({reduced(preset(name).model): name for name in reversed(preset_names())}.values())[::-1]


@pytest.fixture(params=families_with_twins(), scope="module")
def twins(request: pytest.FixtureRequest) -> Twins:
    """Return the tiny networks of a family that is implemented for both engines."""
    config = family_module(request.param).Config.tiny()
    return Twins(config.model_copy(update={"dropout": 0.0}) if hasattr(config, "dropout") else config)


def text(config: ModelConfig, time: int = TIME, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and targets, some of them padding."""
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, (BATCH, time)).astype(np.int32)
    targets = np.roll(tokens, -1, 1)
    targets[0, 5:] = IGNORE
    return tokens, targets


@cache  # presets that differ only in size have the same reduced model
def differences(twins: Twins) -> dict[str, float]:
    """Return the differences of the networks, relative to the largest value of each result."""
    tokens, targets = text(twins.config)
    ids, target_ids = torch.from_numpy(tokens).long(), torch.from_numpy(targets).long()
    model, num_targets = twins.torch, int((targets != IGNORE).sum())
    loss = model.loss(ids, target_ids)
    loss.backward()

    def forward_and_gradients(weights: dict[str, Array]) -> Any:
        network = Params(weights)
        loss_and_gradients = jax.value_and_grad(lambda w: twins.jax.loss_sum(Params(w), tokens, targets) / num_targets)(
            weights
        )
        return twins.jax.forward(network, tokens), twins.jax.token_losses(network, tokens, targets), loss_and_gradients

    logits, losses, (sum_loss, gradients) = jax.jit(forward_and_gradients)(twins.weights)
    result = {
        "logits": relative_difference(logits, model(ids)),
        "losses": relative_difference(losses, model.token_losses(ids, target_ids)),
    }
    result["loss"] = abs(float(sum_loss) - loss.item()) / loss.item()
    for name, parameter in model.named_parameters():
        largest = float(parameter.grad.abs().max())
        distance = np.abs(np.asarray(gradients[name]) - parameter.grad.numpy()).max()
        result[f"gradient of {name}"] = max(0.0, distance - GRADIENT_NOISE) / max(largest, GRADIENT_NOISE)
    return result


def relative_difference(actual: Array, torch_result: torch.Tensor) -> float:
    expected = torch_result.detach().numpy()
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


def assert_close(differences: dict[str, float]) -> None:
    limits = {name: GRADIENT_TOLERANCE if name.startswith("gradient") else LOGITS_TOLERANCE for name in differences}
    assert not {name: distance for name, distance in differences.items() if not distance <= limits[name]}


def test_jax_and_torch_have_the_same_logits_losses_and_gradients(twins: Twins) -> None:
    assert_close(differences(twins))


@pytest.mark.parametrize("name", preset_names())
def test_jax_and_torch_agree_for_every_preset(name: str) -> None:
    assert_close(differences(Twins(reduced(preset(name).model))))


def test_jax_and_torch_mask_documents_alike(twins: Twins) -> None:
    """With weights far from 0, so that a token of another document would change the losses."""
    random, (tokens, targets) = np.random.default_rng(3), text(twins.config)
    table = initial_weights(twins.config.parameters(), 1)
    arrays = {name: array + 0.3 * random.standard_normal(array.shape, np.float32) for name, array in table.items()}
    starts = np.array([[0] * 3 + [3] + [4] * 12, [0] * 15 + [15], [0] * 16], np.int32)
    model = twins.torch
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    inputs = [torch.from_numpy(array).long() for array in (tokens, targets)]
    model.loss(*inputs, torch.from_numpy(starts)).backward()
    weights = {name: jnp.asarray(array) for name, array in arrays.items()}

    def results(weights: dict[str, Array], starts: Array) -> Any:
        def loss_sum(weights: dict[str, Array]) -> Array:
            return twins.jax.loss_sum(Params(weights, document_starts=starts), tokens, targets)

        params = Params(weights, document_starts=starts)
        return twins.jax.token_losses(params, tokens, targets), jax.grad(loss_sum)(weights)

    losses, gradients = jax.jit(results)(weights, starts)
    assert relative_difference(losses, model.token_losses(*inputs, torch.from_numpy(starts))) < 1e-4
    assert relative_difference(losses, model.token_losses(*inputs)) > 1e-3
    for name, parameter in model.named_parameters():
        expected = parameter.grad * int((targets != IGNORE).sum())
        np.testing.assert_allclose(gradients[name], expected, atol=2e-3, rtol=2e-3, err_msg=name)


# ---------------------------------------------------------------- one network


def test_whole_equals_chunked_equals_token_by_token(twins: Twins) -> None:
    tokens, _ = text(twins.config)
    model, network = twins.jax, Params(twins.weights)
    full_logits = np.asarray(jax.jit(model.forward)(network, tokens))
    step = jax.jit(model.decode)
    for cuts in ([0, TIME], [0, 7, 8, 9, TIME]):
        state = model.init_state(BATCH, TIME)
        for start, end in pairwise(cuts):
            last, state = step(network, tokens[:, start:end], state)
            np.testing.assert_allclose(
                np.asarray(last), full_logits[:, end - 1], atol=STEP_TOLERANCE, err_msg=str(cuts)
            )


@pytest.mark.parametrize("name", ["llama", "mingru"])
def test_gradient_checkpointing_does_not_change_the_gradients(name: str) -> None:
    twins = Twins(family_module(name).Config.tiny().model_copy(update={"layers": 1}))
    tokens, targets = text(twins.config)
    keys = jax.random.split(jax.random.key(1), BATCH)  # the same masks in the second forward pass

    @partial(jax.jit, static_argnums=1)
    def gradients(weights: dict[str, Array], gradient_checkpointing: bool) -> dict[str, Array]:
        return jax.grad(
            lambda w: twins.jax.loss_sum(
                Params(w, keys=keys, gradient_checkpointing=gradient_checkpointing), tokens, targets
            )
        )(weights)

    kept, again = gradients(twins.weights, False), gradients(twins.weights, True)
    for name, gradient in kept.items():
        np.testing.assert_allclose(again[name], gradient, rtol=1e-5, atol=1e-5, err_msg=name)


def test_half_precision_is_close_and_gradients_are_float32() -> None:
    """With 8 bits of mantissa in the products, the loss changes by at most a few percent."""
    twins = Twins(family_module("hybrid").Config.tiny())  # attention and recurrence
    tokens, targets = text(twins.config)
    learned = int((targets != IGNORE).sum())

    def loss(weights: dict[str, Array], compute: Any) -> Array:
        return twins.jax.loss_sum(Params(weights, compute=compute), tokens, targets) / learned

    exact = jax.jit(lambda w: loss(w, jnp.float32))(twins.weights)
    rough, gradients = jax.jit(jax.value_and_grad(lambda w: loss(w, jnp.bfloat16)))(twins.weights)
    assert abs(float(rough) - float(exact)) < 0.02
    assert float(rough) != float(exact)
    assert {gradient.dtype for gradient in gradients.values()} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", [name for name in families_with_twins() if name != "qwen"])  # has no dropout
def test_dropout_depends_only_on_its_key(name: str) -> None:
    twins = Twins(family_module(name).Config.tiny().model_copy(update={"layers": 1}))
    tokens, targets = text(twins.config)
    loss = jax.jit(lambda keys: twins.jax.loss_sum(Params(twins.weights, keys=keys), tokens, targets))
    first, again, other = (float(loss(jax.random.split(jax.random.key(seed), BATCH))) for seed in (1, 1, 2))
    assert first == again != other
    assert first != float(jax.jit(lambda: twins.jax.loss_sum(Params(twins.weights), tokens, targets))())


def test_dropout_keeps_the_mean_and_differs_by_site_and_row_but_not_by_batch() -> None:
    x, keys = jnp.ones((4, 50, 50)), jax.random.split(jax.random.key(1), 4)
    first, second = (np.asarray(dropout(Params({}, keys=keys), site, x, 0.25)) for site in ("attention", "up"))
    assert set(np.unique(first)) == {np.float32(0.0), np.float32(1 / 0.75)}
    assert abs(first.mean() - 1.0) < 0.025  # four standard deviations of 10,000 draws
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])
    assert np.array_equal(dropout(Params({}, keys=keys[2:]), "attention", x[2:], 0.25), first[2:])


def test_a_sequence_beyond_the_context_is_an_error_unless_unlimited(twins: Twins) -> None:
    config = twins.config
    tokens = np.zeros((1, config.context_length + 1), np.int32)
    if config.unlimited_context:
        assert np.isfinite(twins.jax.forward(Params(twins.weights), tokens)).all()
        return
    message = f"{config.context_length + 1} tokens are more than the context of {config.context_length}"
    with pytest.raises(UsageError, match=message):
        twins.jax.forward(Params(twins.weights), tokens)
    with pytest.raises(UsageError, match=message):
        twins.jax.init_state(1, config.context_length + 1)


# ---------------------------------------------------------------- shapes


CHECKED = """
import importlib, pkgutil

import jax
from jax import numpy as jnp
from jaxtyping import TypeCheckError, install_import_hook

import fabella.models
from fabella.models.registry import family_module, family_names

names = [m.name for m in pkgutil.iter_modules(fabella.models.__path__) if m.name.endswith("_jax")]
with install_import_hook([f"fabella.models.{name}" for name in names], "beartype.beartype"):
    twins = [name for name in family_names() if f"{name}_jax" in names]
    networks = {name: importlib.import_module(f"fabella.models.{name}_jax") for name in twins}
from fabella.models.nn.layers_jax import Params
for name, network in networks.items():
    config = family_module(name).Config.tiny()
    model = network.Model(config)
    weights = {n: jax.ShapeDtypeStruct(p.shape, jnp.float32) for n, p in config.parameters().items()}
    tokens = jax.ShapeDtypeStruct((2, 7), jnp.int32)
    one = jax.ShapeDtypeStruct((2, 1), jnp.int32)
    jax.eval_shape(lambda w, t: model.loss_sum(Params(w), t, t), weights, tokens)
    jax.eval_shape(lambda w, t: model.token_losses(Params(w), t, t), weights, tokens)
    _, state = jax.eval_shape(lambda w, t: model.decode(Params(w), t, model.init_state(2, 9)), weights, tokens)
    jax.eval_shape(lambda w, t, s: model.decode(Params(w), t, s), weights, one, state)
    try:
        jax.eval_shape(lambda w, t: model.forward(Params(w), t), weights, jax.ShapeDtypeStruct((7,), jnp.int32))
    except TypeCheckError:
        print(name)
"""


def test_shapes_are_as_annotated() -> None:
    """Every annotation is checked while the networks are traced, in a child process."""
    process = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == families_with_twins(), (
        "a wrong shape was not caught: some annotations were not checked"
    )
