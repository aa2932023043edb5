"""Tests of the progress line of data preparation."""

from fabella.data.prepare.progress import PrepareProgress
from fabella.tracking.prepare_progress import format_progress


def test_the_line_has_phase_share_counts_rate_and_time_left() -> None:
    progress = PrepareProgress("encoding", documents=1500, bytes=3_000_000, seconds=2.0, share=0.25)
    assert format_progress(progress) == "encoding  25 %  1,500 documents  3.0 MB  1.5 MB/s  0:06 left"


def test_unknown_values_are_omitted() -> None:
    progress = PrepareProgress("sampling", documents=10, bytes=1000, seconds=1.0, share=-1.0)
    assert format_progress(progress) == "sampling  10 documents  0.0 MB  0.0 MB/s"
