"""Every id of every document is predicted exactly once, from nothing but what stands before it."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fabella.evaluation.scoring_batches import Document, of_texts, rows
from fabella.models import IGNORE
from tests.generation.tiny_run import tokenizer

END = 99


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    context=st.integers(1, 16),
    tokens=st.integers(1, 100),
)
def test_each_id_is_a_target_once_and_follows_its_own_document(lengths: list[int], context: int, tokens: int) -> None:
    texts = [np.append(np.arange(number, number + length - 1) % END, END) for number, length in enumerate(lengths)]
    predicted: Counter[tuple[int, int]] = Counter()
    for part in rows([Document(text.astype(np.int32), 1) for text in texts], context=context, end=END, tokens=tokens):
        batch = part.batch
        assert batch.tokens.shape[1] <= context
        assert batch.tokens.size <= max(tokens, context)
        for row, document in enumerate(part.documents.tolist()):
            line = [END, *texts[document].tolist()]
            targets = batch.targets[row]
            (new,) = np.nonzero(targets != IGNORE)
            width = int(new[-1]) + 1
            start = next(
                at for at in range(len(line) - width) if line[at : at + width] == batch.tokens[row, :width].tolist()
                and line[at + new[0] + 1 : at + width + 1] == targets[new].tolist()
                and not predicted[document, at + int(new[0])]
            )  # fmt: skip
            predicted.update((document, start + int(place)) for place in new)
    assert predicted == Counter({(d, place): 1 for d, text in enumerate(texts) for place in range(len(text))})


def test_a_long_document_is_predicted_from_at_least_half_a_context() -> None:
    document = Document(np.arange(50, dtype=np.int32), 1)
    (part,) = rows([document], context=10, end=END, tokens=10_000)
    before = [int(np.flatnonzero(targets != IGNORE)[0]) for targets in part.batch.targets]
    assert min(before[1:]) >= 5
    assert min(before) == 0


def test_text_that_was_not_prepared_ends_like_prepared_text() -> None:
    (document,) = of_texts(["Zoë"], tokenizer())
    assert document.ids.tolist() == [*"Zoë".encode(), tokenizer().eos_id]
    assert document.bytes == 4
