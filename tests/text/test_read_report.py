"""Notes: counts and sentences that say what became of the text."""

from fabella.text.read_report import EXAMPLES, ReadReport


def test_nothing_to_tell_is_told_in_no_words() -> None:
    assert list(ReadReport(documents=12).messages()) == []


def test_every_count_has_its_sentence() -> None:
    notes = ReadReport(empty=1, damaged=5, replaced=7, skipped=2, bad_lines=1200, cut=1, carriage_returns=3)
    assert list(notes.messages()) == [
        "3 line ends of Windows made into plain ones",
        "1 document longer than 1 MiB, cut into several",
        "1 empty document left out",
        "3 damaged documents kept, 7 U+FFFD put in",
        "2 damaged documents left out",
        "1,200 broken lines left out",
    ]


def test_a_guess_is_told_once_for_all_its_files() -> None:
    notes = ReadReport()
    notes.guess("separator", "blank-lines", "a.txt").documents += 3
    assert list(notes.messages()) == ["separator of a.txt guessed: blank-lines (3 documents)"]
    notes.guess("separator", "blank-lines", "b.txt").documents += 1
    assert list(notes.messages()) == ["separator of a.txt and 1 more guessed: blank-lines (4 documents)"]


def test_a_later_remark_of_the_same_key_takes_the_place_of_the_earlier() -> None:
    notes = ReadReport()
    notes.remarks["used"] = "5 documents of a.txt"
    notes.remarks["used"] = "9 documents of a.txt"
    assert list(notes.messages()) == ["9 documents of a.txt"]


def test_only_the_first_places_are_named() -> None:
    notes = ReadReport()
    for number in range(2 * EXAMPLES):
        notes.example(f"line {number}")
    assert list(notes.messages()) == [f"for example line {number}" for number in range(EXAMPLES)]


def test_counts_are_plain_numbers_by_name() -> None:
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
