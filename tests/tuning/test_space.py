"""What may be tried: ranges from a file, the usual ones, shapes within a budget, and the run as it is among them."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.errors import ConfigError
from fabella.models.parameters import count
from fabella.models.registry import parse_model_config
from fabella.run_config.files import load_config
from fabella.run_config.run import RunConfig
from fabella.tuning.space import baseline_params, default_space, read_space, shapes, suggest, tried

RUN = load_config("storybook-1m")


class Fixed:
    """A trial that always takes the same share of every range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return low * (high / low) ** self.share if log else low + (high - low) * self.share

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return choices[min(int(self.share * len(choices)), len(choices) - 1)]


def space_file(tmp_path: Path, text: str) -> Path:
    (tmp_path / "space.yaml").write_text(text)
    return tmp_path / "space.yaml"


def test_a_file_says_what_is_searched(tmp_path: Path) -> None:
    text = "optimizer.lr: {kind: log, low: 1e-4, high: 1e-2}\n"
    text += "size: {kind: joint, of: [{model.dim: 64}, {model.dim: 128}]}"
    space = read_space(space_file(tmp_path, text), RUN)
    overrides = suggest(RUN, space, Fixed(0.5))
    assert overrides[1] == "model.dim=128"
    assert tried(RUN, overrides).optimizer.lr == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optimizer.lrr: {kind: log, low: 1e-4, high: 1e-2}", "no setting 'optimizer.lrr'.*optimizer.lr"),
        ("optimizer.lr: {kind: log, low: 1e-2, high: 1e-4}", "is not below"),
        ("optimizer.lr: {kind: log, low: 0, high: 1}", "greater than 0"),
        ("optimizer.lr: {kind: choice, of: [1]}", "at least 2"),
        ("optimizer.lr: 3", "optimizer.lr"),
    ],
)
def test_what_is_no_space_is_told(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        read_space(space_file(tmp_path, text), RUN)


def test_the_usual_space_is_around_the_run_and_holds_it() -> None:
    space = default_space(RUN)
    assert set(space) == {
        "optimizer.lr", "optimizer.betas", "training.micro_batch_size", "optimizer.weight_decay", "warm-up",
    }  # fmt: skip
    same = baseline_params(RUN, space)
    assert same["optimizer.lr"] == RUN.optimizer.lr
    assert json.loads(same["training.micro_batch_size"]) == RUN.training.micro_batch_size
    assert set(same) == set(space)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_whatever_is_tried_is_a_run_that_learns_from_as_much(share: float) -> None:
    run = tried(RUN, suggest(RUN, default_space(RUN), Fixed(share)))

    def windows(of: RunConfig) -> int:
        return of.training.length.max_steps * of.training.micro_batch_size  # pyright: ignore[reportAttributeAccessIssue]

    assert windows(run) == windows(RUN)


@pytest.mark.parametrize("preset", ["storybook-1m", "storybook-hybrid-1m", "mingru-17m", "tinystories-1m", "piny-37m"])
def test_shapes_keep_to_their_budget(preset: str) -> None:
    run = load_config(preset)
    most = count(run.model.parameters())
    found = shapes(run, most)
    assert len({json.dumps(one) for one in found}) == len(found) >= 2
    for one in found:
        values = run.model.model_dump(mode="json") | {key.removeprefix("model."): value for key, value in one.items()}
        assert most * 0.7 <= count(parse_model_config(values).parameters()) <= most


def test_a_budget_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="there are not two shapes of llama"):
        shapes(RUN, 1000)
