"""Tests of the counts and messages of a read report."""

from fabella.text.read_report import EXAMPLES, ReadReport


def test_an_undamaged_text_has_no_messages() -> None:
    assert list(ReadReport(documents=12).messages()) == []


def test_every_count_has_a_message() -> None:
    notes = ReadReport(empty=1, damaged=5, replaced=7, skipped=2, bad_lines=1200, cut=1, carriage_returns=3)
    assert list(notes.messages()) == [
        "3 Windows or Macintosh line ends converted",
        "1 document longer than 1 MiB, cut into several",
        "1 empty document skipped",
        "3 damaged documents kept with 7 U+FFFD inserted",
        "2 damaged documents skipped",
        "1,200 broken lines skipped",
    ]


def test_a_detection_has_one_message_for_all_its_files() -> None:
    notes = ReadReport()
    notes.add_detection("separator", "blank-lines", "a.txt").documents += 3
    assert list(notes.messages()) == ["detected separator of a.txt: blank-lines (3 documents)"]
    notes.add_detection("separator", "blank-lines", "b.txt").documents += 1
    assert list(notes.messages()) == ["detected separator of a.txt and 1 more: blank-lines (4 documents)"]


def test_a_later_remark_of_the_same_key_replaces_the_earlier() -> None:
    notes = ReadReport()
    notes.remarks["used"] = "5 documents of a.txt"
    notes.remarks["used"] = "9 documents of a.txt"
    assert list(notes.messages()) == ["9 documents of a.txt"]


def test_only_the_first_examples_are_kept() -> None:
    notes = ReadReport()
    for number in range(2 * EXAMPLES):
        notes.add_example(f"line {number}")
    assert list(notes.messages()) == [f"for example line {number}" for number in range(EXAMPLES)]


def test_counts_are_numbers_by_name() -> None:
    assert ReadReport(documents=3, empty=1).counts() == {
        "documents": 3,
        "empty": 1,
        "damaged": 0,
        "replaced": 0,
        "skipped": 0,
        "bad_lines": 0,
        "cut": 0,
        "carriage_returns": 0,
    }
