"""Tests of the shares and repeats of the parts of a mixture, before and while training."""

import pytest

from fabella.config.data import MixtureSource
from fabella.data.dataset import PartRecord
from fabella.data.mixture_report import describe_parts, describe_use, epoch_use, training_use
from fabella.data.sequences import PartSize


def mixture(**settings: object) -> MixtureSource:
    parts = [{"weight": weight, "source": {"kind": "storybook", "stories": 5}} for weight in (1, 1)]
    return MixtureSource.model_validate({"parts": parts, **settings})


PARTS = [
    PartRecord(source="articles", documents=25, tokens=90_000, bytes=280_000, validation_documents=1),
    PartRecord(source="stories", documents=2000, tokens=10_000, bytes=34_000, validation_documents=20),
]


@pytest.mark.parametrize(
    ("settings", "shares", "epochs"),
    [
        ({}, (0.5, 0.5), (10 / 90, 1.0)),
        ({"until": "all"}, (0.5, 0.5), (1.0, 9.0)),
        ({"by": "documents"}, (0.99861, 0.00139), (1.0, 0.0125)),
        ({"by": "documents", "until": "all"}, (0.99861, 0.00139), (80.0, 1.0)),
    ],
)
def test_an_epoch_uses_the_parts_by_their_weights(
    settings: dict[str, object], shares: tuple[float, float], epochs: tuple[float, float]
) -> None:
    uses = epoch_use(mixture(**settings), PARTS)
    assert [use.share for use in uses] == pytest.approx(shares, abs=1e-5)
    assert [use.epochs for use in uses] == pytest.approx(epochs, rel=1e-3)
    assert [use.text_share for use in uses] == pytest.approx([0.9, 0.1])


def test_a_training_counts_all_of_its_phases() -> None:
    source = mixture(schedule=[{"until": "100 sequences", "weights": [1, 0]}])
    sizes = [PartSize(200, 20_000, 4, 100.0), PartSize(50, 5_000, 4, 100.0)]
    uses = training_use(source, ["a", "b"], sizes, 400)
    assert [use.share for use in uses] == pytest.approx([250 / 400, 150 / 400])
    assert [use.epochs for use in uses] == pytest.approx([1.25, 3.0])
    (only, none) = training_use(source, ["a", "b"], sizes, 50)
    assert (only.share, none.share) == (1.0, 0.0)


def test_the_sentences_name_shares_repeats_and_what_is_hardly_used() -> None:
    first, second = describe_parts(mixture(), PARTS)
    assert first == (
        "part 1, articles: 25 documents, 90,000 tokens (90.0 % of the text); 50.0 % of an epoch, which reads it "
        "0.11 times"
    )
    assert "1.00 times" in second
    sizes = [PartSize(900, 90_000, 25, 100.0), PartSize(100, 10_000, 2000, 100.0)]
    (shares,) = describe_use(training_use(mixture(), ["articles", "stories"], sizes, 100))
    assert "50.0 % articles (0.06 times); 50.0 % stories (0.50 times)" in shares
    few = [PartSize(9000, 900_000, 25, 100.0), sizes[1]]
    _, hardly = describe_use(training_use(mixture(), ["articles", "stories"], few, 300))
    assert hardly.startswith("warning: 1.7 % of articles is read. Raise its weight")
    _, often = describe_use(training_use(mixture(), ["articles", "stories"], sizes, 1000))
    assert often.startswith("warning: stories is read 5.0 times; after 4 times, each repeat helps less.")
