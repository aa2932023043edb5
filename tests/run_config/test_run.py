"""Tests that config sections accept valid values and refuse others with an error that names the rule."""

import math
import re

import pytest
from pydantic import ValidationError

from fabella.config.data import Packed
from fabella.config.optimizer import SchedulePhase
from fabella.config.training import Epochs, Float16, MaxSteps, TrainingConfig
from fabella.models.parameters import count, count_non_embedding
from fabella.models.registry import family_names
from fabella.optim import adam, adamw
from fabella.run_config.files import preset, preset_names
from fabella.run_config.run import RunConfig

PUBLISHED = {
    "mingru-17m": 17_323_008,
    "minigpt-100m": 105_204_480,
    "gpt2-92m": 91_605_384,
    "tinystories-1m": 3_747_520,
    "tinystories-8m": 19_708_672,
    "tinystories-28m": 52_000_256,
    "piny-37m": 37_362_432,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_a_preset_has_exactly_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert count(preset(name).model.parameters()) == parameters


def test_non_embedding_parameters_are_those_of_the_blocks() -> None:
    assert count_non_embedding(preset("tinystories-8m").model.parameters()) == 19_708_672 - (50_257 + 2_048) * 256


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_has_the_name_of_its_file(name: str) -> None:
    assert preset(name).name == name


def test_presets_have_the_training_settings_of_their_references() -> None:
    minigpt = preset("minigpt-100m")
    assert minigpt.training.gradient_accumulation == ((0, 8), (8750, 16), (13125, 32))
    assert minigpt.training.precision == Float16(initial_loss_scale=256.0, loss_scale_growth_interval=5000)
    assert preset("piny-37m").optimizer.model_dump()["betas"] == (0.9, 0.95)
    assert preset("gpt2-92m").data.sequences == Packed(length=512, stride=256)
    assert preset("mingru-17m").optimizer.lr == 4e-3
    assert preset("tinystories-28m").training.length == Epochs(epochs=2)
    assert isinstance(preset("tinystories-1m").optimizer, adam.Config)


def test_a_section_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        preset("storybook-1m").seed = 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 0.0])
def test_a_learning_rate_is_a_finite_positive_number(value: float) -> None:
    with pytest.raises(ValidationError):
        adamw.Config(lr=value)


@pytest.mark.parametrize("value", [True, 1.5, "1", -1, 2**63])
def test_a_seed_is_a_whole_number_that_fits_63_bits(value: object) -> None:
    values = preset("storybook-1m").model_dump(mode="json") | {"seed": value}
    with pytest.raises(ValidationError):
        RunConfig.model_validate(values)


@pytest.mark.parametrize("steps", [[[1, 2]], [[0, 2], [0, 3]], [[0, 1], [9, 2], [5, 3]], [[0, 0]], []])
def test_accumulation_begins_at_step_0_and_rises(steps: list[list[int]]) -> None:
    with pytest.raises(ValidationError, match=r"accumulation|at least 1 item"):
        TrainingConfig(length=MaxSteps(max_steps=1), micro_batch_size=1, gradient_accumulation=steps)  # pyright: ignore[reportArgumentType]


def test_sequences_must_not_leave_gaps() -> None:
    with pytest.raises(ValidationError, match="stride 9 leaves out tokens between sequences of 8"):
        Packed(length=8, stride=9)


def test_a_sequence_fits_the_context_of_the_model() -> None:
    values = preset("storybook-1m").model_dump(mode="json")
    values["data"]["sequences"] = {"kind": "padded", "length": 289}
    with pytest.raises(
        ValidationError, match=r"data\.sequences\.length = 289 is longer than model\.context_length = 288"
    ):
        RunConfig.model_validate(values)


def test_a_recurrent_model_takes_sequences_of_any_length() -> None:
    values = preset("mingru-17m").model_dump(mode="json")
    values["data"]["sequences"]["length"] = 5000
    assert RunConfig.model_validate(values).data.sequences.length == 5000


@pytest.mark.parametrize(("length", "steps"), [("10%", 20), (50, 50), ("0%", 0), ("100%", 200), ("12.5%", 25)])
def test_a_schedule_phase_has_its_configured_length(length: str | int, steps: int) -> None:
    assert SchedulePhase(shape="linear", start=0.0, end=1.0, length=length).steps(200) == steps


@pytest.mark.parametrize("length", ["ten", "101%", "-1", -5, "nan%", "inf%", ""])
def test_a_schedule_phase_with_an_invalid_length_is_refused(length: str | int) -> None:
    with pytest.raises(ValidationError, match="is neither a number of steps"):
        SchedulePhase(shape="cosine", start=0.0, end=1.0, length=length)


def test_families_are_the_files_of_the_models_package() -> None:
    assert {"gpt2", "llama", "mingru", "minigpt", "hybrid"} <= set(family_names())
    assert not any(name.startswith("nn") for name in family_names())


@pytest.mark.parametrize(
    ("freeze", "problem"),
    [
        (["embeding.weight"], "no parameter has a name like 'embeding.weight'; the nearest name is 'embedding.weight'"),
        (["blocks.0.*", "blocks.99.*"], "no parameter has a name like 'blocks.99.*'; the nearest name is 'blocks."),
        (["*"], "matches every parameter"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_everything_is_refused(freeze: list[str], problem: str) -> None:
    values = preset("storybook-1m").model_dump(mode="json")
    values["training"]["freeze"] = freeze
    with pytest.raises(ValidationError, match=re.escape(f"training.freeze{':' if 'no' in problem else ''} {problem}")):
        RunConfig.model_validate(values)
