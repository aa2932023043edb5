"""Tests that sequences which would drop most of a text are packed or refused, and that the share in use is reported."""

from pathlib import Path

import pytest

from fabella.config.data import Packed, Padded
from fabella.errors import ConfigError
from fabella.training.setup.fit_sequences import estimate_sequences
from fabella.training.setup.request import ResolvedRequest, TrainRequest, prepare_data, resolve_request

NOVEL = " ".join(f"In chapter {number} the fox ran on through the wood." for number in range(2000))


@pytest.fixture
def novel(tmp_path: Path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text(NOVEL)
    return path


def request_of(novel: Path, *overrides: str) -> ResolvedRequest:
    overrides = ("tokenizer={kind: bytes}", "model.vocab_size=256", *overrides)
    return resolve_request(TrainRequest(what="storybook-1m", data=str(novel), overrides=overrides))


@pytest.mark.fault("I7", cases=1)
def test_a_preset_that_would_read_almost_nothing_is_packed(novel: Path, tmp_path: Path) -> None:
    planned = request_of(novel)
    assert isinstance(planned.run.data.sequences, Padded)
    run, sentences = planned.fit(prepare_data(planned.run, tmp_path / "prepared", workers=1))
    assert run.data.sequences == Packed(length=288, stride=288)
    assert sentences[0].startswith("padded sequences of 288 tokens would train on only 288 of ")
    assert sentences[1].startswith("an epoch of packed sequences of 288 tokens trains on ")


@pytest.mark.fault("I7", cases=1)
def test_chosen_sequences_that_drop_most_of_the_text_are_refused_with_a_setting(novel: Path, tmp_path: Path) -> None:
    planned = request_of(novel, "data.sequences={kind: padded, length: 288}")
    dataset = prepare_data(planned.run, tmp_path / "prepared", workers=1)
    with pytest.raises(ConfigError, match=r"train on only 288 of .* tokens \(0\.3 %\)") as error:
        planned.fit(dataset)
    setting = error.value.hint.partition("'")[2].rpartition("'")[0]
    run, _ = request_of(novel, setting).fit(dataset)
    assert run.data.sequences == Packed(length=288, stride=288)


def test_the_share_is_estimated_before_the_text_is_prepared(novel: Path) -> None:
    planned = request_of(novel)
    run, (sentence,) = estimate_sequences(planned.run, unsuitable="pack")
    assert run.data.sequences == Packed(length=288, stride=288)
    assert sentence.startswith("padded sequences of 288 tokens would train on only about 0.3 % of the tokens")


def test_stories_that_fit_stay_padded(tmp_path: Path) -> None:
    text = tmp_path / "stories.txt"
    text.write_text("<|endoftext|>".join(f"Story {number} of a fox and a hen." * 3 for number in range(60)))
    planned = request_of(text)
    run, (sentence,) = planned.fit(prepare_data(planned.run, tmp_path / "prepared", workers=1))
    assert isinstance(run.data.sequences, Padded)
    assert "(100.0 %)" in sentence


def test_a_preset_on_its_own_text_keeps_its_sequences() -> None:
    planned = resolve_request(TrainRequest(what="storybook-1m", overrides=("data.sequences.length=16",)))
    run, (sentence,) = estimate_sequences(planned.run, unsuitable=planned.unsuitable)
    assert run == planned.run
    assert sentence.startswith("an epoch of padded sequences of 16 tokens trains on about ")
