"""The line that people see while text is prepared."""

from fabella.data.prepare.progress import PrepareProgress
from fabella.tracking.prepare_progress import in_words


def test_the_line_tells_the_phase_how_far_how_fast_and_how_long() -> None:
    progress = PrepareProgress("encoding", documents=1500, bytes=3_000_000, seconds=2.0, share=0.25)
    assert in_words(progress) == "encoding  25 %  1,500 documents  3.0 MB  1.5 MB/s  0:06 left"


def test_what_is_not_known_is_left_out() -> None:
    progress = PrepareProgress("sampling", documents=10, bytes=1000, seconds=1.0, share=-1.0)
    assert in_words(progress) == "sampling  10 documents  0.0 MB  0.0 MB/s"
