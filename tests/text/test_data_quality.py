"""Tests that the data quality report has exact counts, and warns about problems and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.data.prepare.holdout import document_hash
from fabella.text.chat.marks import ANSWER_END, ANSWER_START
from fabella.text.data_quality import SIGNS, DataQuality, Report, mojibake_signs
from fabella.text.read_report import ReadReport

TRAIN = [f"story number {number} of the fox" for number in range(200)]
VALIDATION = [f"story number {number} of the owl" for number in range(20)]


def quality_of(train: list[str], validation: list[str]) -> DataQuality:
    quality = DataQuality()
    for texts, held_out in ((train, False), (validation, True)):
        for text in texts:
            quality.add(text, document_hash(text), held_out)
    return quality


def report(train: list[str] = TRAIN, validation: list[str] = VALIDATION) -> Report:
    return quality_of(train, validation).report()


def test_sound_text_has_no_warnings() -> None:
    result = report()
    assert result.warnings == []
    assert result.facts["documents"] == 220
    assert result.facts["training"] == {"documents": 200, "bytes": sum(map(len, TRAIN))}
    assert result.facts["validation"] == {"documents": 20, "bytes": sum(map(len, VALIDATION))}


def test_bytes_and_characters_are_counted_separately() -> None:
    facts = report(["Füchse 🦊"], ["x"]).facts
    assert (facts["characters"], facts["bytes"]) == (9, 13)


@given(st.lists(st.sampled_from("abcdefgh")), st.lists(st.sampled_from("abcdefgh")))
def test_duplicates_and_overlap_are_exact(train: list[str], validation: list[str]) -> None:
    facts = report(train, validation).facts
    assert facts["duplicates"] == len(train) + len(validation) - len(set(train) | set(validation))
    assert facts["overlap"] == len(set(train) & set(validation))


def test_repeated_and_intermediate_reports_change_nothing() -> None:
    quality = quality_of(TRAIN, VALIDATION[:10])
    quality.report()
    for text in VALIDATION[10:]:
        quality.add(text, document_hash(text), True)
    assert quality.report() == quality.report() == report()


@given(st.lists(st.integers(0, 300), min_size=1, max_size=50))
def test_quantiles_of_lengths_are_exact(lengths: list[int]) -> None:
    spread = report(["x" * length for length in lengths], []).facts["document_bytes"]
    assert (spread["least"], spread["most"]) == (min(lengths), max(lengths))
    assert spread["mean"] == pytest.approx(sum(lengths) / len(lengths))
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert sum(length <= spread[name] for length in lengths) >= share * len(lengths)
        assert sum(length < spread[name] for length in lengths) <= share * len(lengths)


def test_empty_documents_are_counted() -> None:
    quality = quality_of([*TRAIN, "", " \n"], VALIDATION)
    assert quality.report().facts["empty"] == 2
    assert quality.report(notes=ReadReport(empty=5)).facts["empty"] == 7


@pytest.mark.parametrize(
    ("train", "validation", "warning"),
    [
        (
            [*TRAIN, "caf\ufffd", "th\ufffd"],
            VALIDATION,
            "2 of 222 documents contain U+FFFD, where a character was lost.",
        ),
        ([*TRAIN, "caf\u00c3\u00a9"], VALIDATION, "1 of 221 documents contain letters like \u00c3\u00a9 for \u00e9"),
        ([*TRAIN, *TRAIN], VALIDATION, "48 % of the documents are exact duplicates of others"),
        (TRAIN, [*VALIDATION, *TRAIN[:3]], "3 validation documents are also in the training text"),
        (TRAIN, [], "No documents are held out for validation."),
        (TRAIN, VALIDATION[:4], "Only 4 documents are held out: the validation loss will be a rough estimate."),
    ],
)
def test_each_problem_gives_its_warning(train: list[str], validation: list[str], warning: str) -> None:
    assert [line for line in report(train, validation).warnings if line.startswith(warning)]


def test_damage_met_while_reading_is_reported() -> None:
    warnings = quality_of(TRAIN, VALIDATION).report(notes=ReadReport(damaged=3, bad_lines=1)).warnings
    assert warnings == [
        "3 documents are damaged: invalid UTF-8, NUL, or lone surrogates.",
        "1 line is broken and was left out.",
    ]


def with_tokens(*, context: int = 0, model_parameters: int = 0, tokens_to_train: int = 0) -> Report:
    """220 documents of about 30 bytes, each of 10 tokens except 20 of 100: 4,000 tokens."""
    quality = quality_of(TRAIN, VALIDATION)
    quality.add_token_counts(np.full(120, 10))
    quality.add_token_counts(np.array([10] * 80 + [100] * 20))
    return quality.report(context=context, model_parameters=model_parameters, tokens_to_train=tokens_to_train)


def test_token_facts_relate_tokens_to_bytes_context_and_parameters() -> None:
    result = with_tokens(context=50, model_parameters=1000, tokens_to_train=8000)
    size = sum(map(len, TRAIN + VALIDATION))
    training = 4000 * sum(map(len, TRAIN)) / size
    assert result.facts["tokens"] == 4000
    assert result.facts["bytes_per_token"] == pytest.approx(size / 4000)
    assert result.facts["longer_than_context"] == 20
    assert result.facts["tokens_per_parameter"] == pytest.approx(training / 1000)
    assert result.facts["epochs"] == pytest.approx(8000 / training)
    assert result.warnings == []


@pytest.mark.parametrize(
    ("known", "warning"),
    [
        (
            {"model_parameters": 1_000_000},
            "The text has only 0.0036 tokens for each of the 1,000,000 parameters: later epochs memorize it. "
            "More text or a smaller model helps.",
        ),
        ({"tokens_to_train": 40_000}, "Training runs for 11.0 epochs; after 4, each repeat helps less."),
        ({"tokens_to_train": 400_000}, "Training runs for 110 epochs; after 16, repeating the text hardly helps."),
    ],
)
def test_a_text_that_does_not_suit_its_model_is_reported(known: dict[str, int], warning: str) -> None:
    assert with_tokens(**known).warnings == [warning]


def test_unknown_values_are_not_reported() -> None:
    assert {"context_length", "epochs", "tokens_per_parameter"} & set(with_tokens().facts) == set()
    assert "tokens" not in report().facts


def test_facts_are_json_and_the_table_is_text() -> None:
    result = with_tokens(context=50, model_parameters=1000, tokens_to_train=8000)
    assert json.loads(json.dumps(result.facts)) == result.facts
    assert result.table.splitlines()[0] == "documents                 220 (200 to train, 20 to validate)"
    assert "longer than context       20 (9.1 %) exceed 50 tokens" in result.table


def test_a_text_without_documents_has_a_report() -> None:
    result = DataQuality().report(context=5, model_parameters=5, tokens_to_train=5)
    assert result.facts["documents"] == 0
    assert result.table


def test_memory_is_8_bytes_per_document() -> None:
    quality = quality_of(TRAIN, VALIDATION)
    assert [split.digests.itemsize * len(split.digests) for split in quality.splits] == [
        8 * len(TRAIN),
        8 * len(VALIDATION),
    ]


@pytest.mark.parametrize(
    ("text", "signs"),
    [
        ("Once upon a time, a fox.\n\tSaid: “Grüß Gott!” 🦊 naïve café", []),
        ("caf\ufffd", ["replacement_characters"]),
        ("café".encode().decode("latin-1"), ["mojibake"]),
        ("it\u2019s".encode().decode("cp1252"), ["mojibake"]),
        ("a\u00a0b".encode().decode("latin-1"), ["mojibake"]),
        ("🦊".encode().decode("cp1252"), ["mojibake"]),
        ("bell \x07", ["control_characters"]),
        ("del \x7f and é", ["control_characters"]),
        ("Tom &amp; Jerry", ["markup"]),
        ("<p>Once</p>", ["markup"]),
        ("new<br/>line", ["markup"]),
        ("x < y & z > 3, Tom & Jerry", []),
        ("cafe\u0301", ["not_composed"]),
        ("a page\fbreak", []),
    ],
)
def test_signs_of_damage_are_detected(text: str, signs: list[str]) -> None:
    assert sorted(mojibake_signs(text, text.encode())) == sorted(signs)
    assert set(signs) <= set(SIGNS)


def test_many_short_documents_are_a_warning() -> None:
    short = [f"line {number}" for number in range(1001)]
    assert any(line.startswith("Documents are short (median 8 bytes)") for line in report(short).warnings)
    assert not report(short[:900]).warnings


def test_running_text_is_advised_only_where_a_detected_separator_cut_the_text() -> None:
    short = [f"line {number}" for number in range(1001)]
    for what, value, advised in (
        ("separator", "lines", True),
        ("separator", "file", False),
        ("text column", "a", False),
    ):
        notes = ReadReport()
        notes.add_detection(what, value, "a file")
        warnings = [
            line
            for line in quality_of(short, VALIDATION).report(notes=notes).warnings
            if line.startswith("Documents are short")
        ]
        assert ["--separator file" in line for line in warnings] == [advised]


def test_documents_without_an_answer_are_a_warning_where_only_answers_are_learned() -> None:
    answered = [f"User: Who?\n\nAssistant: {ANSWER_START}the fox, number {number}{ANSWER_END}" for number in range(300)]

    def warnings(train: list[str], validation: list[str], *, responses_only: bool = True) -> list[str]:
        quality = DataQuality(responses_only=responses_only)
        for texts, held_out in ((train, False), (validation, True)):
            for text in texts:
                quality.add(text, document_hash(text), held_out)
        return quality.report().warnings

    assert warnings(answered[:250], answered[250:]) == []
    some = warnings([*answered[:100], *TRAIN], answered[250:])
    assert some == [
        "200 of 300 documents of the training split have no answer: nothing of them is learned or measured "
        "(--loss-on answers)."
    ]
    for none in (TRAIN, [f"User: {number}? Assistant: {ANSWER_START}{ANSWER_END}" for number in range(200)]):
        (warning,) = warnings(none, answered[250:])
        assert warning.startswith("The training split has no answer")
    (warning,) = warnings(answered[:250], VALIDATION)
    assert warning.startswith("The validation split has no answer")
    assert warnings(TRAIN, VALIDATION, responses_only=False) == []


def test_few_but_long_held_out_documents_are_enough() -> None:
    assert not report(TRAIN, ["x" * 40_000]).warnings


def test_the_preview_has_the_first_two_training_documents_and_the_last() -> None:
    result = report([f"Document {number}\nends here" for number in range(5)])
    assert [document["number"] for document in result.facts["preview"]] == [1, 2, 5]
    assert result.table.splitlines()[-3:] == [
        "  document 1 (20 bytes): Document 0⏎ends here",
        "  document 2 (20 bytes): Document 1⏎ends here",
        "  document 5 (20 bytes): Document 4⏎ends here",
    ]
    long = report([f"It begins {'x' * 500} it ends"]).facts["preview"][0]
    assert (long["beginning"][:9], long["end"][-7:]) == ("It begins", "it ends")


def test_a_separator_that_occurs_nowhere_is_a_warning() -> None:
    notes = ReadReport()
    notes.count_separator("\n---\n", "a.txt", used=False)
    notes.count_separator("###", "a.txt", used=False)
    notes.count_separator("###", "b.txt", used=True)
    assert quality_of(TRAIN, VALIDATION).report(notes=notes).warnings == [
        "The separator lines of --- does not occur in a.txt: each file is one document. "
        "--separator auto detects the separator."
    ]
