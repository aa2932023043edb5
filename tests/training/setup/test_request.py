"""Tests that a training request is resolved to a config, and that the dataset of an unchanged text is reused."""

import os
from pathlib import Path
from typing import Any

import pytest

from fabella.config.data import StorybookSource
from fabella.errors import ConfigError
from fabella.run_config.run import RunConfig
from fabella.training.setup.request import TrainRequest, common_settings, prepare_data, resolve_request
from tests.training import tiny


def run_on(text: Path) -> RunConfig:
    return tiny.run(f"data.source={{kind: files, paths: [{text}]}}")


def test_a_dataset_in_place_of_a_text_is_rejected_with_the_right_command(tmp_path: Path) -> None:
    folder = tiny.prepared(tmp_path).path
    with pytest.raises(
        ConfigError, match=rf"is a prepared dataset, not a text\. .*fabella train PRESET --data {folder}\."
    ):
        resolve_request(TrainRequest(what=str(folder)))


@pytest.mark.parametrize("option", ["what", "data", "validation"])
def test_a_directory_of_datasets_is_rejected(option: str, tmp_path: Path) -> None:
    folder = tiny.prepared(tmp_path).path
    message = rf"{tmp_path} contains prepared datasets, not text\. Use one of them: {folder}\."
    with pytest.raises(ConfigError, match=message):
        resolve_request(TrainRequest(**{"what": "storybook-1m", option: str(tmp_path)}))


def test_an_unknown_name_is_rejected_with_the_list_of_presets() -> None:
    with pytest.raises(ConfigError, match=r"'nope-17m' is neither a file nor a preset\. Presets: gpt2-92m, .*"):
        resolve_request(TrainRequest(what="nope-17m"))


@pytest.mark.parametrize(
    ("option", "value", "setting"),
    [
        ("steps", 7, "training.length.max_steps=7"),
        ("epochs", 1.5, "training.length.epochs=1.5"),
        ("lr", 3e-4, "optimizer.lr=3e-4"),
        ("batch_size", 3, "training.micro_batch_size=3"),
        ("seed", 0, "seed=0"),
    ],
)
def test_a_common_option_equals_its_setting(option: str, value: float, setting: str) -> None:
    settings: dict[str, Any] = {option: value}
    with_option = TrainRequest(what="storybook-1m", overrides=common_settings(**settings))
    with_setting = TrainRequest(what="storybook-1m", overrides=(setting,))
    assert (
        resolve_request(with_option)
        == resolve_request(with_setting)
        != resolve_request(TrainRequest(what="storybook-1m"))
    )


def test_a_setting_wins_over_its_option() -> None:
    request = TrainRequest(what="storybook-1m", overrides=(*common_settings(lr=1.0), "optimizer.lr=0.5"))
    assert resolve_request(request).run.optimizer.lr == 0.5


def test_storybook_is_a_text_source_not_a_misspelled_preset() -> None:
    assert resolve_request(TrainRequest(what="storybook")).run.data.source == StorybookSource()


def test_a_text_that_was_only_touched_is_not_prepared_again_and_a_changed_one_is(tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("\n\n".join(f"Story {number} of a fox and a hen." * 9 for number in range(60)))
    first = prepare_data(run_on(text), tmp_path / "prepared", workers=1)
    os.utime(text, (1, 1))
    assert prepare_data(run_on(text), tmp_path / "prepared", workers=1).path == first.path
    text.write_text(text.read_text().replace("hen", "owl"))
    assert prepare_data(run_on(text), tmp_path / "prepared", workers=1).path != first.path
