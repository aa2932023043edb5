"""How far preparing has come."""

from pathlib import Path

import pytest

from fabella.config.data import MixtureSource, StorybookSource, WeightedSource
from fabella.data.prepare import progress
from fabella.data.prepare.progress import CorpusSize, PrepareProgress, ProgressMeter, total_of
from tests.data.samples import data, lines


@pytest.mark.parametrize(
    ("total", "share"),
    [
        (CorpusSize(documents=10), 0.3),
        (CorpusSize(bytes=1000), 0.05),
        (CorpusSize(), -1.0),
        (CorpusSize(documents=2), 1.0),
        (CorpusSize(bytes=9), 1.0),
    ],
)
def test_share(total: CorpusSize, share: float) -> None:
    assert total.share(3, 50) == share


def test_rate_and_time_left() -> None:
    now = PrepareProgress("encoding", documents=10, bytes=4000, seconds=2.0, share=0.25)
    assert now.bytes_per_second == 2000
    assert now.seconds_left == 6.0


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    assert PrepareProgress("looking", 0, 0, 0.0, -1.0).seconds_left == -1.0
    assert PrepareProgress("looking", 0, 0, 0.0, 0.0).seconds_left == -1.0
    assert PrepareProgress("looking", 0, 0, 0.0, -1.0).bytes_per_second == 0.0


def test_what_is_known_of_a_source(tmp_path: Path) -> None:
    assert total_of(data()) == CorpusSize(documents=60)
    assert total_of(data(lines(tmp_path / "a.txt", ["one"]))) == CorpusSize(bytes=4)
    assert total_of(data(lines(tmp_path / "a.txt.gz", ["not read"]))) == CorpusSize()
    assert total_of(data(MixtureSource(parts=(WeightedSource(weight=1, source=StorybookSource()),)))) == CorpusSize()


def test_it_is_told_every_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_BYTES", 10)
    told: list[PrepareProgress] = []
    meter = ProgressMeter("looking", CorpusSize(documents=8), told.append)
    assert list(meter.watch(["abcd"] * 8)) == ["abcd"] * 8
    assert [(one.doing, one.documents, one.bytes, one.share) for one in told] == [
        ("looking", 3, 12, 3 / 8),
        ("looking", 6, 24, 6 / 8),
    ]


def test_nobody_needs_to_listen() -> None:
    meter = ProgressMeter("looking", CorpusSize(), None)
    meter.add(1, 10**9)
    assert (meter.documents, meter.bytes) == (1, 10**9)
