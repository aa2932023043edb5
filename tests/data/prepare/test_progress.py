"""How far preparing has come."""

from pathlib import Path

import pytest

from fabella.config.data import Mixture, Part, Storybook
from fabella.data.prepare import progress
from fabella.data.prepare.progress import Meter, Progress, Total, total_of
from tests.data.samples import data, lines


@pytest.mark.parametrize(
    ("total", "share"),
    [
        (Total(documents=10), 0.3),
        (Total(bytes=1000), 0.05),
        (Total(), -1.0),
        (Total(documents=2), 1.0),
        (Total(bytes=9), 1.0),
    ],
)
def test_share(total: Total, share: float) -> None:
    assert total.share(3, 50) == share


def test_rate_and_time_left() -> None:
    now = Progress("encoding", documents=10, bytes=4000, seconds=2.0, share=0.25)
    assert now.bytes_per_second == 2000
    assert now.seconds_left == 6.0


def test_nothing_is_claimed_where_nothing_is_known() -> None:
    assert Progress("looking", 0, 0, 0.0, -1.0).seconds_left == -1.0
    assert Progress("looking", 0, 0, 0.0, 0.0).seconds_left == -1.0
    assert Progress("looking", 0, 0, 0.0, -1.0).bytes_per_second == 0.0


def test_what_is_known_of_a_source(tmp_path: Path) -> None:
    assert total_of(data()) == Total(documents=60)
    assert total_of(data(lines(tmp_path / "a.txt", ["one"]))) == Total(bytes=4)
    assert total_of(data(lines(tmp_path / "a.txt.gz", ["not read"]))) == Total()
    assert total_of(data(Mixture(parts=(Part(weight=1, source=Storybook()),)))) == Total()


def test_it_is_told_every_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_BYTES", 10)
    told: list[Progress] = []
    meter = Meter("looking", Total(documents=8), told.append)
    assert list(meter.watch(["abcd"] * 8)) == ["abcd"] * 8
    assert [(one.doing, one.documents, one.bytes, one.share) for one in told] == [
        ("looking", 3, 12, 3 / 8),
        ("looking", 6, 24, 6 / 8),
    ]


def test_nobody_needs_to_listen() -> None:
    meter = Meter("looking", Total(), None)
    meter.add(1, 10**9)
    assert (meter.documents, meter.bytes) == (1, 10**9)
