"""The doctor: what it counts is exact, and it warns where it should and only there."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.prepare.holdout import document_hash
from fabella.text.data_quality import DataQuality, Report, in_bytes
from fabella.text.read_report import ReadReport

TRAIN = [f"story number {number} of the fox" for number in range(200)]
HELD = [f"story number {number} of the owl" for number in range(20)]


def examined(train: list[str], held: list[str]) -> DataQuality:
    doctor = DataQuality()
    for texts, held_out in ((train, False), (held, True)):
        for text in texts:
            doctor.add(text, document_hash(text), held_out)
    return doctor


def report(train: list[str] = TRAIN, held: list[str] = HELD) -> Report:
    return examined(train, held).report()


def test_sound_text_has_no_warnings() -> None:
    found = report()
    assert found.warnings == []
    assert found.facts["documents"] == 220
    assert found.facts["training"] == {"documents": 200, "bytes": sum(map(len, TRAIN))}
    assert found.facts["validation"] == {"documents": 20, "bytes": sum(map(len, HELD))}


def test_bytes_and_characters_are_told_apart() -> None:
    facts = report(["Füchse 🦊"], ["x"]).facts
    assert (facts["characters"], facts["bytes"]) == (9, 13)


@given(st.lists(st.sampled_from("abcdefgh")), st.lists(st.sampled_from("abcdefgh")))
def test_duplicates_and_overlap_are_exact(train: list[str], held: list[str]) -> None:
    facts = report(train, held).facts
    assert facts["duplicates"] == len(train) + len(held) - len(set(train) | set(held))
    assert facts["overlap"] == len(set(train) & set(held))


def test_asking_twice_or_between_changes_nothing() -> None:
    doctor = examined(TRAIN, HELD[:10])
    doctor.report()
    for text in HELD[10:]:
        doctor.add(text, document_hash(text), True)
    assert doctor.report() == doctor.report() == report()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=50))
def test_lengths_are_told_by_their_order(lengths: list[int]) -> None:
    spread = report(["x" * length for length in lengths], []).facts["document_bytes"]
    assert (spread["least"], spread["most"]) == (min(lengths), max(lengths))
    assert spread["mean"] == pytest.approx(sum(lengths) / len(lengths))
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert sum(length <= spread[name] for length in lengths) >= share * len(lengths)
        assert sum(length < spread[name] for length in lengths) <= share * len(lengths)


def test_empty_documents_are_counted() -> None:
    doctor = examined([*TRAIN, "", " \n"], HELD)
    assert doctor.report().facts["empty"] == 2
    assert doctor.report(notes=ReadReport(empty=5)).facts["empty"] == 7


@pytest.mark.parametrize(
    ("train", "held", "warning"),
    [
        (
            [*TRAIN, "caf\ufffd", "th\ufffd"],
            HELD,
            "2 of 222 documents hold U+FFFD, where a character was lost.",
        ),
        ([*TRAIN, "caf\u00c3\u00a9"], HELD, "1 of 221 documents hold letters like \u00c3\u00a9 for \u00e9"),
        ([*TRAIN, *TRAIN], HELD, "48 % of the documents repeat others word for word"),
        (TRAIN, [*HELD, *TRAIN[:3]], "3 validation documents also stand in the training text"),
        (TRAIN, [], "Nothing is held out for validation."),
        (TRAIN, HELD[:4], "Only 4 documents are held out for validation: its loss will be a rough guess."),
    ],
)
def test_what_is_wrong_is_said(train: list[str], held: list[str], warning: str) -> None:
    assert [said for said in report(train, held).warnings if said.startswith(warning)]


def test_what_reading_met_is_said_too() -> None:
    warnings = examined(TRAIN, HELD).report(notes=ReadReport(damaged=3, bad_lines=1)).warnings
    assert warnings == [
        "3 documents are damaged: bytes that are no UTF-8, NUL, or half characters.",
        "1 line is broken and was left out.",
    ]


def with_tokens(*, context: int = 0, model_parameters: int = 0, tokens_to_train: int = 0) -> Report:
    """220 documents of about 30 bytes, each of 10 tokens but for 20 of 100: 4,000 tokens."""
    doctor = examined(TRAIN, HELD)
    doctor.see_tokens(np.full(120, 10))
    doctor.see_tokens(np.array([10] * 80 + [100] * 20))
    return doctor.report(context=context, model_parameters=model_parameters, tokens_to_train=tokens_to_train)


def test_tokens_are_set_against_bytes_context_and_parameters() -> None:
    found = with_tokens(context=50, model_parameters=1000, tokens_to_train=8000)
    size = sum(map(len, TRAIN + HELD))
    training = 4000 * sum(map(len, TRAIN)) / size
    assert found.facts["tokens"] == 4000
    assert found.facts["bytes_per_token"] == pytest.approx(size / 4000)
    assert found.facts["longer_than_context"] == 20
    assert found.facts["tokens_per_parameter"] == pytest.approx(training / 1000)
    assert found.facts["epochs"] == pytest.approx(8000 / training)
    assert found.warnings == []


@pytest.mark.parametrize(
    ("known", "warning"),
    [
        (
            {"model_parameters": 1_000_000},
            "The text is too small for the model: 1,000,000 parameters and only 0.0036 tokens for each. "
            "It will learn it by heart. Take a smaller model, or bring more text.",
        ),
        ({"tokens_to_train": 40_000}, "Training reads the text 11.0 times; after 4 times each repeat teaches less."),
        ({"tokens_to_train": 400_000}, "Training reads the text 110 times; after 16 times it teaches hardly anything."),
        (
            {"context": 8},
            "Most documents are longer than the context of 8 tokens (median 10): the model never sees one whole. "
            "Windows of kind 'documents' leave out what lies beyond it; 'chained' ones read everything.",
        ),
    ],
)
def test_a_text_that_does_not_suit_its_model_is_said(known: dict[str, int], warning: str) -> None:
    assert with_tokens(**known).warnings == [warning]


def test_what_is_not_known_is_not_judged() -> None:
    assert {"context_length", "epochs", "tokens_per_parameter"} & set(with_tokens().facts) == set()
    assert "tokens" not in report().facts
    assert "enough for a model of     about 1,300 parameters at most" in report().table


def test_the_table_is_for_people_and_the_facts_are_for_programs() -> None:
    found = with_tokens(context=50, model_parameters=1000, tokens_to_train=8000)
    assert json.loads(json.dumps(found.facts)) == found.facts
    assert found.table.splitlines()[0] == "documents                 220 (200 to train, 20 to validate)"
    assert "longer than context       20 (9.1 %) exceed 50 tokens" in found.table


def test_no_document_at_all_is_no_crash() -> None:
    found = DataQuality().report(context=5, model_parameters=5, tokens_to_train=5)
    assert found.facts["documents"] == 0
    assert found.table


def test_memory_is_8_bytes_a_document() -> None:
    doctor = examined(TRAIN, HELD)
    assert [side.digests.itemsize * len(side.digests) for side in doctor.sides] == [8 * len(TRAIN), 8 * len(HELD)]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (15_600_000, "15.6 MB"),
        (2 * 10**9, "2.0 GB"),
        (10**15, "1,000.0 TB"),
    ],
)
def test_sizes_are_told_in_powers_of_ten(count: int, words: str) -> None:
    assert in_bytes(count) == words
