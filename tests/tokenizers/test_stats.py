"""Tests of the statistics of tokenizers."""

import pytest

from fabella.tokenizers import pretrained
from fabella.tokenizers.stats import measure_tokenizer
from tests.tokenizers.samples import corpus, trained
from tests.tokenizers.test_sentencepiece import model


def test_the_byte_tokenizer_has_one_byte_per_token() -> None:
    measured = measure_tokenizer(trained("bytes"), ["ab é", "c"])
    assert measured.tokens == 6
    assert measured.bytes_per_token == 1.0
    assert measured.fertility == 6 / 3
    assert measured.used == 6 / 256
    assert measured.round_trip


def test_coverage_is_the_share_in_complete_characters() -> None:
    assert measure_tokenizer(trained("bytes"), ["ab é"]).coverage == 3 / 5


def test_a_trained_tokenizer_covers_its_text() -> None:
    measured = measure_tokenizer(trained("bpe"), corpus())
    assert measured.coverage == 1.0
    assert measured.bytes_per_token > 2.0
    assert 1.0 < measured.fertility < 3.0
    assert 0.5 < measured.used <= 1.0
    assert measured.round_trip


def test_text_that_is_not_restored_is_reported() -> None:
    tokenizer = pretrained.from_model(model(add_dummy_prefix=False), "")
    measured = measure_tokenizer(tokenizer, ["a漢"])
    assert not measured.round_trip
    assert measured.coverage == 1 / 4


def test_no_text_gives_zero_statistics() -> None:
    measured = measure_tokenizer(trained("bpe"), [])
    assert (measured.tokens, measured.bytes_per_token, measured.coverage) == (0, 0.0, 0.0)


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_a_larger_vocabulary_has_more_bytes_per_token(kind: str) -> None:
    small, large = (measure_tokenizer(trained(kind, size), corpus()).bytes_per_token for size in (400, 700))
    assert large > small
