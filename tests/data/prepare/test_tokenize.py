"""Tests that documents are encoded to token ids."""

import json

import numpy as np
import pytest

from fabella.data.prepare.tokenize import encode
from fabella.errors import TokenizerError
from fabella.tokenizers import pretrained
from fabella.tokenizers.chat.encode import DocumentEncoder
from tests.tokenizers.samples import AWKWARD, KINDS, corpus, foreign_values, trained

U2 = np.dtype("<u2")


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_is_its_ids_and_eos(kind: str) -> None:
    tokenizer, texts = trained(kind), ["", *corpus()[:10], *AWKWARD]
    encoded = encode(DocumentEncoder(tokenizer), texts, U2)
    expected = [[*tokenizer.encode(text).tolist(), tokenizer.eos_id] for text in texts]
    assert encoded.ids.tolist() == [number for ids in expected for number in ids]
    assert encoded.lengths.tolist() == [len(ids) for ids in expected]
    assert encoded.sizes.tolist() == [len(text.encode()) for text in texts]
    assert encoded.ids.dtype == U2


def test_an_encode_of_no_documents_is_empty() -> None:
    assert len(encode(DocumentEncoder(trained("bytes")), [], U2).ids) == 0


def failing_tokenizer() -> pretrained.HuggingFaceTokenizer:
    """Return a tokenizer whose pattern passes the checks but fails for some texts."""
    values = foreign_values()
    values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a|aa)+$"
    return pretrained.from_json(json.dumps(values).encode(), "<|endoftext|>", "evil")


def test_a_document_that_cannot_be_encoded_is_named() -> None:
    expected_message = r"Document 2 \('aaaaa.*'\): The tokenizers library cannot use this tokenizer: .*retry-limit"
    with pytest.raises(TokenizerError, match=expected_message):
        encode(DocumentEncoder(failing_tokenizer()), ["good", "fine", "a" * 60 + "!", "good"], U2)
