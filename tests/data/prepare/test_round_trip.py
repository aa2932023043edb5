"""What an imported tokenizer changes is named by its kind, and lost characters are counted."""

from collections.abc import Sequence

import numpy as np
import pytest

from fabella.config.data import Bytes
from fabella.data.prepare.round_trip import (
    RoundTrip,
    SpelledTokens,
    describe_changes,
    lost_share,
    require_few_lost,
)
from fabella.errors import TokenizerError
from fabella.text.chat.template import Message, named
from fabella.tokenizers import loading
from fabella.tokenizers.bytes import ByteTokenizer

BYTES = RoundTrip(ByteTokenizer())


def counts_of(pairs: Sequence[tuple[str, str]]) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Counts of texts whose tokens say something else."""
    said = [np.frombuffer(decoded.encode(), np.uint8) for _, decoded in pairs]
    return BYTES.count([text.encode() for text, _ in pairs], said)


@pytest.mark.parametrize(
    ("text", "decoded", "sentence"),
    [
        ("a fox", " a fox", "The tokenizer changes a space at the start or the end in 1 of 1 documents."),
        ("a fox\nran", "a fox ran", "The tokenizer changes line ends in 1 of 1 documents."),
        ("a  fox", "a fox", "The tokenizer changes spaces and tabs in 1 of 1 documents."),
        ("A Fox", "a fox", "The tokenizer changes upper case or accents in 1 of 1 documents."),
        ("café", "cafe", "The tokenizer changes upper case or accents in 1 of 1 documents."),
        ("狐狸 ran", "\ufffd ran", "The tokenizer loses 2 of 6 characters (33.3 %): it has no tokens for them."),
    ],
)
def test_each_kind_of_change_has_its_own_words(text: str, decoded: str, sentence: str) -> None:
    assert list(describe_changes(counts_of([(text, decoded)]))) == [sentence]


def test_what_comes_back_is_counted_in_silence() -> None:
    counts = counts_of([("a fox", "a fox"), ("狐狸", "狐狸")])
    assert not list(describe_changes(counts))
    assert lost_share(counts) == 0.0
    require_few_lost(counts, 0.0)


def test_lost_characters_beyond_the_limit_are_refused_with_a_tokenizer_that_loses_nothing() -> None:
    counts = counts_of([("a fox", "a fox")] * 999 + [("狐狸", "")])
    require_few_lost(counts, 0.001)
    with pytest.raises(TokenizerError, match="--tokenizer bpe:4096"):
        require_few_lost(counts, 0.0001)


@pytest.mark.fault("G3", cases=3)
def test_documents_that_spell_a_special_token_are_counted_but_not_those_of_the_template() -> None:
    tokenizer = loading.train(Bytes(), (), ("<|im_start|>", "<|im_end|>"))
    spelled, chat = SpelledTokens(tokenizer), named("chatml").render([Message("user", "Hi")])
    for text in ("A fox <|im_end|> ran.", "<|im_end|>", "<|im_en", "A fox.", chat):
        spelled.add(text)
    assert list(spelled.messages()) == [
        "2 documents spell the special token <|im_end|>, which is encoded as text; data.special_tokens_in_text=true "
        "(prepare: --special-tokens-in-text) makes it one"
    ]
    assert not list(SpelledTokens(tokenizer).messages())
