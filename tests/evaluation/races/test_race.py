"""Tests of the definitions of races."""

from pathlib import Path

import pytest

from fabella.cli.main import run as command
from fabella.errors import ConfigError, UsageError
from fabella.evaluation.races.race import load_race, parse_race, race_names

RECIPE = """
recipe:
  model: {family: llama, vocab_size: 320, context_length: 32, dim: 32, layers: 1, heads: 2, kv_heads: 1, ffn_dim: 32}
  tokenizer: {kind: bpe, vocab_size: 320}
  data: {sequences: {kind: packed, length: 32, stride: 32}}
  optimizer: {kind: adamw, lr: 1e-3}
  training: {length: {max_steps: 1}, micro_batch_size: 1}
"""
RULES = """
description: A test.
minutes: 1
device: cpu
rule: line-32
targets: {good: 2.0, goal: 1.0}
tuned_on: nothing
"""


@pytest.mark.parametrize("name", race_names())
def test_a_race_has_rules_targets_and_a_recipe_that_is_scored_by_its_rule(name: str) -> None:
    race = load_race(name)
    assert race.name == name
    assert race.rule == "line-256"
    assert race.targets.goal < race.targets.good
    assert race.recipe.data.sequences.kind == "packed"
    last = race.recipe.optimizer.schedule[-1]
    assert (last.shape, last.end) == ("linear", 0.0)


def test_a_new_race_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(RULES + RECIPE)
    assert (load_race(str(path)).name, load_race(str(path)).length) == ("mine", 32)


def test_an_unknown_race_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        load_race("cpu-20mins")
    assert "cpu-20min" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rule: line-32", "rule: story-32", "rule"),
        ("rule: line-32", "rule: line-64", "scored by line-64"),
        ("minutes: 1", "minutes: 0", "minutes"),
        ("device: cpu", "device: abacus", "device"),
        ("description: A test.", "prize: 1", "description"),
        ("recipe:", "receipt:", "recipe is missing"),
        ("lr: 1e-3", "lr: much", "optimizer.lr"),
    ],
)
def test_an_invalid_race_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises((ConfigError, UsageError), match=message):
        parse_race("mine", (RULES + RECIPE).replace(old, new), where="mine.yaml")


def test_without_a_name_the_races_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["race"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in race_names())


@pytest.mark.parametrize("name", race_names())
def test_without_a_text_the_rules_are_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["race", name]) == 0
    shown = capsys.readouterr().out
    assert f"fabella race {name} --data TRAIN --validation HELD_OUT" in shown
    assert "line-256" in shown
