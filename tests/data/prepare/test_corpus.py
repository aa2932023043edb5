"""Tests that all passes over a corpus are equal, with its splits."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fabella.config.data import (
    BPE,
    DataConfig,
    Duplication,
    Holdout,
    MixtureSource,
    Packed,
    RemoveExact,
    RemoveNear,
    Source,
    Streaming,
    ValidationSource,
    WeightedSource,
)
from fabella.data.fingerprint import dataset_fingerprint
from fabella.data.prepare import corpus as corpus_module
from fabella.data.prepare import splitting
from fabella.data.prepare.corpus import Corpus, measure_overlap
from fabella.data.prepare.pipeline import prepare
from fabella.data.prepare.progress import PrepareProgress
from fabella.text.source import documents
from tests.data.samples import BYTES, SEQUENCES, data, lines, words

TEXTS = [f"story {number}" for number in range(30)]


def test_every_pass_is_the_same(tmp_path: Path) -> None:
    corpus = Corpus(data(lines(tmp_path / "a.txt", TEXTS), Holdout(fraction=0.2)), None)
    first, second = list(corpus.split_documents("sampling")), list(corpus.split_documents("encoding"))
    assert first == second
    assert [document.text for document in first] == TEXTS
    assert 5 <= sum(document.held_out for document in first) <= 8


def test_the_text_that_the_split_rule_needs_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Iterator[str]:
        reads.append(0)
        for text in documents(*arguments, **options):
            reads[-1] += 1
            yield text

    monkeypatch.setattr(corpus_module, "documents", counted)
    given = data(lines(tmp_path / "a.txt", TEXTS), Holdout(fraction=0.2))
    corpus = Corpus(given, None)
    first, notes = list(corpus.split_documents("sampling")), corpus.notes
    assert reads == [len(TEXTS)]
    assert list(corpus.split_documents("encoding")) == first
    assert reads == [len(TEXTS), len(TEXTS)]
    assert corpus.notes is not notes
    assert corpus.notes == notes
    monkeypatch.setattr(corpus_module, "MAX_KEPT_CHARACTERS", 20)  # too little
    longer = Corpus(given, None)
    assert list(longer.split_documents("sampling")) == first
    assert longer.notes == notes
    assert len(reads) == 4


def test_a_text_that_is_kept_in_part_continues_where_the_split_rule_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [words(number, 40) for number in range(900)]
    given = data(lines(tmp_path / "a.txt", texts), Holdout(fraction=0.2))
    monkeypatch.setattr(splitting, "MIN_HOLDOUT_BYTES", 2**12)
    seen: list[int] = []
    corpus = Corpus(given, lambda progress: seen.append(progress.documents))
    kept = corpus.read_already
    assert kept is not None
    assert 100 <= len(kept.kept) < 200
    assert [document.text for document in corpus.split_documents("encoding")] == texts


def test_a_validation_source_comes_first_and_is_not_trained_on(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3", "other"])
    corpus = Corpus(data(lines(tmp_path / "a.txt", TEXTS), ValidationSource(source=validation)), None)
    documents = list(corpus.split_documents("encoding"))
    assert [(document.text, document.held_out) for document in documents[:2]] == [("story 3", True), ("other", True)]
    assert [document.text for document in documents[2:]] == [text for text in TEXTS if text != "story 3"]
    assert "1 training documents that are also in the validation source were dropped" in list(corpus.messages())


def test_dropped_documents_are_counted_once_over_all_passes(tmp_path: Path) -> None:
    validation = lines(tmp_path / "v.txt", ["story 3"])
    corpus = Corpus(data(lines(tmp_path / "a.txt", TEXTS), ValidationSource(source=validation)), None)
    for _ in range(3):
        list(corpus.split_documents("encoding"))
    assert "1 training documents that are also in the validation source were dropped" in list(corpus.messages())


def test_the_read_report_is_that_of_one_pass(tmp_path: Path) -> None:
    of = data(lines(tmp_path / "a.txt", ["<|endoftext|>".join(TEXTS)]).model_copy(update={"separator": "auto"}))
    corpus = Corpus(of, None)
    list(corpus.split_documents("sampling"))
    list(corpus.split_documents("encoding"))
    (detection,) = [sentence for sentence in corpus.messages() if "detected" in sentence]
    assert "(30 documents)" in detection


def test_the_second_pass_knows_its_progress(tmp_path: Path) -> None:
    reports: list[PrepareProgress] = []
    source = lines(tmp_path / "a.txt", ["long story " * 1000 + str(number) for number in range(300)])
    corpus = Corpus(data(source), reports.append)
    list(corpus.split_documents("sampling"))
    list(corpus.split_documents("encoding"))
    shares = [report.share for report in reports if report.phase == "encoding"]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1


def without_duplicates(source: Source, duplicates: Duplication) -> DataConfig:
    return DataConfig(source=source, validation=Holdout(fraction=0.2), sequences=SEQUENCES, duplicates=duplicates)


LONG = [words(number, 60) for number in range(60)]


def test_exact_duplicates_are_left_out_of_every_pass_and_named(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.txt", [*LONG, *LONG[5:8]])
    corpus = Corpus(without_duplicates(source, RemoveExact()), None)
    for phase in ("sampling", "encoding"):
        assert [document.text for document in corpus.split_documents(phase)] == LONG
    assert (
        "left out 3 exact and 0 near-duplicates of earlier documents, of 63 documents: document 61 equals document 6; "
        "document 62 equals document 7; document 63 equals document 8"
    ) in list(corpus.messages())


def test_near_duplicates_are_left_out_across_the_parts_of_a_mixture(tmp_path: Path) -> None:
    like = [text.replace(text.split()[30], "xyz", 1) for text in LONG[:4]]
    parts = [
        lines(tmp_path / "a.txt", LONG),
        lines(tmp_path / "b.txt", [*like, *(words(n, 60) for n in range(90, 99))]),
    ]
    mixture = MixtureSource(parts=tuple(WeightedSource(weight=1, source=part) for part in parts))
    corpus = Corpus(without_duplicates(mixture, RemoveNear(similarity=0.7)), None)
    found = list(corpus.split_documents("encoding"))
    assert [document.text for document in found if document.part == 0] == LONG
    assert len([document for document in found if document.part == 1]) == 9
    assert any("document 61 is like document 1;" in message for message in corpus.messages())


@pytest.mark.parametrize("duplicates", [RemoveExact(), RemoveNear()])
def test_the_same_documents_are_left_out_for_any_number_of_workers(duplicates: Duplication, tmp_path: Path) -> None:
    source = lines(tmp_path / "a.txt", [*LONG, *LONG[:9], *(f"{text} more" for text in LONG[9:20])])
    config = without_duplicates(source, duplicates)
    one, two = (prepare(config, BYTES, tmp_path / str(count), workers=count) for count in (1, 2))
    assert one.fingerprint == two.fingerprint
    assert one.train.documents + one.validation.documents == (71 if duplicates.kind == "exact" else 60)


def test_leaving_out_duplicates_makes_another_dataset_but_keeping_them_does_not(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.txt", LONG)
    fingerprints = {
        dataset_fingerprint(without_duplicates(source, kind), BPE(vocab_size=300))
        for kind in (RemoveExact(), RemoveNear(), RemoveNear(similarity=0.7))
    }
    assert len(fingerprints) == 3
    assert dataset_fingerprint(data(source), BYTES) not in fingerprints


def test_a_stream_cannot_leave_out_duplicates() -> None:
    with pytest.raises(ValueError, match=r"duplicates\.kind = exact compares all of the text"):
        DataConfig(sequences=Packed(length=8, stride=8), mode=Streaming(), duplicates=RemoveExact())


def test_overlap_is_measured_with_the_validation_text_and_with_others(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.txt", [*LONG, f"{LONG[0]} more"])
    other = lines(tmp_path / "b.txt", [LONG[3], words(1000, 40)])
    corpus = Corpus(without_duplicates(source, RemoveExact()), None)
    validation, others = measure_overlap(corpus, [other])
    assert (validation.name, validation.overlapping <= 1) == ("the validation text", True)
    held_out = {document.text for document in corpus.split_documents("reading") if document.held_out}
    assert (others.documents, others.overlapping) == (2, int(LONG[3] not in held_out))
