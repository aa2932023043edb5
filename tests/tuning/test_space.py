"""Tests of search spaces: ranges from a file, the default space, shapes within a budget, the baseline trial."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.config.scoring import validation_rule
from fabella.errors import ConfigError
from fabella.models.parameters import count
from fabella.models.registry import parse_model_config
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from fabella.tuning.space import apply_overrides, baseline_params, default_space, read_space, shapes, suggest

RUN = load_config("storybook-1m")


class FixedShareTrial:
    """Trial that draws the same share of every range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return low * (high / low) ** self.share if log else low + (high - low) * self.share

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[min(int(self.share * len(choices)), len(choices) - 1)]


def space_file(tmp_path: Path, text: str) -> Path:
    (tmp_path / "space.yaml").write_text(text)
    return tmp_path / "space.yaml"


def test_a_space_file_gives_the_overrides_of_a_trial(tmp_path: Path) -> None:
    text = "optimizer.lr: {kind: log, low: 1e-4, high: 1e-2}\n"
    text += "size: {kind: joint, of: [{model.dim: 64}, {model.dim: 128}]}"
    space = read_space(space_file(tmp_path, text), RUN)
    overrides = suggest(space, FixedShareTrial(0.5))
    assert overrides[1] == "model.dim=128"
    assert apply_overrides(RUN, overrides).optimizer.lr == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer.lrr: {kind: log, low: 1e-4, high: 1e-2}", "Unknown key 'optimizer.lrr'.*optimizer.lr"),
        ("optimizer.lr: {kind: log, low: 1e-2, high: 1e-4}", "is not below"),
        ("optimizer.lr: {kind: log, low: 0, high: 1}", "greater than 0"),
        ("optimizer.lr: {kind: choice, of: [1]}", "at least 2"),
        ("optimizer.lr: 3", "optimizer.lr"),
    ],
)
def test_an_invalid_space_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space(space_file(tmp_path, text), RUN)


def test_the_default_space_contains_the_run_itself() -> None:
    space = default_space(RUN)
    assert set(space) == {
        "optimizer.lr", "optimizer.betas", "training.micro_batch_size", "optimizer.weight_decay", "warm-up",
    }  # fmt: skip
    params = baseline_params(RUN, space)
    assert params["optimizer.lr"] == RUN.optimizer.lr
    assert json.loads(params["training.micro_batch_size"]) == RUN.training.micro_batch_size
    assert set(params) == set(space)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_every_trial_sees_the_same_number_of_training_sequences(share: float) -> None:
    run = apply_overrides(RUN, suggest(default_space(RUN), FixedShareTrial(share)))

    def sequences(of: RunConfig) -> int:
        return of.training.length.max_steps * of.training.micro_batch_size  # pyright: ignore[reportAttributeAccessIssue]

    assert sequences(run) == sequences(RUN)


@pytest.mark.parametrize("preset", ["storybook-1m", "storybook-hybrid-1m", "mingru-17m", "tinystories-1m", "piny-37m"])
def test_shapes_stay_within_the_parameter_budget(preset: str) -> None:
    run = load_config(preset)
    budget = count(run.model.parameters())
    candidates = shapes(run, budget)
    assert len({json.dumps(shape) for shape in candidates}) == len(candidates) >= 2
    for shape in candidates:
        values = run.model.model_dump(mode="json") | {key.removeprefix("model."): value for key, value in shape.items()}
        assert budget * 0.7 <= count(parse_model_config(values).parameters()) <= budget


def test_a_budget_below_every_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="Fewer than two shapes of llama"):
        shapes(RUN, 1000)


def test_a_space_cannot_change_the_rule_by_which_trials_are_scored(tmp_path: Path) -> None:
    file = space_file(tmp_path, "data.sequences.length: {kind: choice, of: [64, 128]}")
    rule = validation_rule(RUN.data.sequences).name
    with pytest.raises(ConfigError, match=rf"searches data.sequences.length.*\({rule}\)") as error:
        read_space(file, RUN)
    assert "fabella compare RUN RUN" in error.value.hint
