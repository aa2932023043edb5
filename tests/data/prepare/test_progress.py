"""Tests of the progress of the preparation."""

from pathlib import Path

import pytest

from fabella.config.data import MixtureSource, StorybookSource, WeightedSource
from fabella.data.prepare import progress
from fabella.data.prepare.progress import CorpusSize, PrepareProgress, ProgressMeter, corpus_size
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
def test_the_share_is_known_from_documents_or_bytes(total: CorpusSize, share: float) -> None:
    assert total.share(3, 50) == share


def test_rate_and_time_left() -> None:
    now = PrepareProgress("encoding", documents=10, bytes=4000, seconds=2.0, share=0.25)
    assert now.bytes_per_second == 2000
    assert now.seconds_left == 6.0


def test_unknown_progress_is_minus_one() -> None:
    assert PrepareProgress("inspecting", 0, 0, 0.0, -1.0).seconds_left == -1.0
    assert PrepareProgress("inspecting", 0, 0, 0.0, 0.0).seconds_left == -1.0
    assert PrepareProgress("inspecting", 0, 0, 0.0, -1.0).bytes_per_second == 0.0


def test_the_size_of_a_source_is_known_for_files_and_the_storybook(tmp_path: Path) -> None:
    assert corpus_size(data()) == CorpusSize(documents=60)
    assert corpus_size(data(lines(tmp_path / "a.txt", ["one"]))) == CorpusSize(bytes=4)
    assert corpus_size(data(lines(tmp_path / "a.txt.gz", ["not read"]))) == CorpusSize()
    assert corpus_size(data(MixtureSource(parts=(WeightedSource(weight=1, source=StorybookSource()),)))) == CorpusSize()


def test_progress_is_reported_at_byte_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REPORT_BYTES", 10)
    reports: list[PrepareProgress] = []
    meter = ProgressMeter("inspecting", CorpusSize(documents=8), reports.append)
    assert list(meter.watch(["abcd"] * 8)) == ["abcd"] * 8
    assert [(report.phase, report.documents, report.bytes, report.share) for report in reports] == [
        ("inspecting", 3, 12, 3 / 8),
        ("inspecting", 6, 24, 6 / 8),
    ]


def test_progress_needs_no_report_function() -> None:
    meter = ProgressMeter("inspecting", CorpusSize(), None)
    meter.add(1, 10**9)
    assert (meter.documents, meter.bytes) == (1, 10**9)
