"""Tests that every id of every document is a target exactly once, with only its own document as context."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.config.data import Bytes, Packed
from fabella.data.prepare.pipeline import prepare
from fabella.data.sequences import SequenceDataset
from fabella.evaluation.scoring.batches import Document, batches, held_out, line_batches, of_texts
from fabella.models import IGNORE
from tests.data.samples import chat_file, data
from tests.data.samples import split as written_split
from tests.generation.tiny_run import tokenizer

EOS = 99


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    context=st.integers(1, 16),
    tokens=st.integers(1, 100),
)
def test_each_id_is_a_target_once_and_follows_its_own_document(lengths: list[int], context: int, tokens: int) -> None:
    texts = [np.append(np.arange(number, number + length - 1) % EOS, EOS) for number, length in enumerate(lengths)]
    predicted: Counter[tuple[int, int]] = Counter()
    for part in batches(
        [Document(text.astype(np.int32), 1) for text in texts], context=context, eos_id=EOS, tokens=tokens
    ):
        batch = part.batch
        assert batch.tokens.shape[1] <= context
        assert batch.tokens.size <= max(tokens, context)
        for row, document in enumerate(part.documents[:, 0].tolist()):
            sequence = [EOS, *texts[document].tolist()]
            targets = batch.targets[row]
            (scored,) = np.nonzero(targets != IGNORE)
            width = int(scored[-1]) + 1
            start = next(
                at for at in range(len(sequence) - width)
                if sequence[at : at + width] == batch.tokens[row, :width].tolist()
                and sequence[at + scored[0] + 1 : at + width + 1] == targets[scored].tolist()
                and not predicted[document, at + int(scored[0])]
            )  # fmt: skip
            predicted.update((document, start + int(position)) for position in scored)
    assert predicted == Counter({(d, position): 1 for d, text in enumerate(texts) for position in range(len(text))})


def test_windows_of_a_long_document_overlap_by_half() -> None:
    document = Document(np.arange(50, dtype=np.int32), 1)
    (part,) = batches([document], context=10, eos_id=EOS, tokens=10_000)
    context = [int(np.flatnonzero(targets != IGNORE)[0]) for targets in part.batch.targets]
    assert min(context[1:]) >= 5
    assert min(context) == 0


def test_raw_text_ends_with_eos_as_tokenized_text_does() -> None:
    (document,) = of_texts(["Zoë"], tokenizer())
    assert document.ids.tolist() == [*"Zoë".encode(), tokenizer().eos_id]
    assert document.bytes == 4


def test_only_learned_ids_of_a_split_are_scored_and_their_bytes_counted(tmp_path: Path) -> None:
    config = data(chat_file(tmp_path / "chat.jsonl", 30)).model_copy(update={"loss_on": "answers"})
    dataset = prepare(config, Bytes(), tmp_path / "out", workers=1)
    documents = list(held_out(dataset.validation, dataset.tokenizer))
    assert sum(document.num_scored for document in documents) == dataset.validation.learned_tokens
    assert sum(document.bytes for document in documents) == dataset.validation.learned_bytes
    scored = [part.batch.targets for part in batches(documents, context=32, eos_id=255, tokens=100)]
    assert sum(int((targets != IGNORE).sum()) for targets in scored) == dataset.validation.learned_tokens


@pytest.mark.parametrize("length", [1, 5, 16, 33])
@pytest.mark.parametrize("bos_id", [None, 7])
def test_the_sequences_of_the_line_rule_are_those_of_the_training(
    tmp_path: Path, length: int, bos_id: int | None
) -> None:
    split = written_split(tmp_path / "split", [40, 1, 7, 60, 90, 3, 2])
    tokenizer: Any = SimpleNamespace(bos_id=bos_id)
    sequences = SequenceDataset(split, Packed(length=length, stride=length), 0)
    expected = sequences.batch(np.arange(len(sequences)))
    documents = held_out(split, tokenizer, packed=True)
    parts = list(line_batches(documents, length=length, tokens=3 * length))
    assert max(part.batch.tokens.size for part in parts) <= 3 * length
    np.testing.assert_array_equal(np.concatenate([part.batch.tokens for part in parts]), expected.tokens)
    np.testing.assert_array_equal(np.concatenate([part.batch.targets for part in parts]), expected.targets)
    numbers = np.concatenate([part.documents.ravel() for part in parts])
    positions = np.arange(1, len(numbers) + 1)
    np.testing.assert_array_equal(numbers, np.searchsorted(split.offsets, positions, side="right") - 1)


def test_the_line_rule_reads_what_is_not_learned_and_scores_what_is(tmp_path: Path) -> None:
    config = data(chat_file(tmp_path / "chat.jsonl", 30)).model_copy(update={"loss_on": "answers"})
    dataset = prepare(config, Bytes(), tmp_path / "out", workers=1)
    sequences = SequenceDataset(dataset.validation, Packed(length=16, stride=16), 255)
    expected = sequences.batch(np.arange(len(sequences)))
    parts = list(line_batches(held_out(dataset.validation, dataset.tokenizer, packed=True), length=16, tokens=100))
    targets = np.concatenate([part.batch.targets for part in parts])
    used = (targets != IGNORE).any(axis=1)  # a training leaves the others out
    np.testing.assert_array_equal(targets[used], expected.targets)
    np.testing.assert_array_equal(np.concatenate([part.batch.tokens for part in parts])[used], expected.tokens)
