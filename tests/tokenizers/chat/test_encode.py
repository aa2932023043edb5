"""Documents as ids: marks become special tokens and answers, and plain text never does."""

import pytest
from hypothesis import given

from fabella.config.data import BPE, Bytes, SentencePiece
from fabella.errors import TokenizerError
from fabella.text.chat.template import ChatTemplate, Message, marked_writer, named
from fabella.tokenizers import loading
from fabella.tokenizers.chat.encode import DocumentEncoder, prefix_id
from fabella.tokenizers.tokenizer import Tokenizer
from tests.tokenizers.samples import KINDS, corpus, texts, trained

CHAT = [Message("user", "A story! <|im_end|>"), Message("assistant", "A fox ran home.")]
CHATML = named("chatml")


def with_chatml(kind: str) -> Tokenizer:
    """Return a tokenizer with the special tokens of ChatML."""
    config = {"bytes": Bytes(), "bpe": BPE(vocab_size=400), "sentencepiece": SentencePiece(vocab_size=400)}[kind]
    return loading.train(config, corpus()[:50], CHATML.special_tokens)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece"])
def test_special_tokens_of_a_template_are_single_ids(kind: str) -> None:
    tokenizer = with_chatml(kind)
    document = DocumentEncoder(tokenizer).encode([CHATML.render(CHAT)])[0]
    start, end = (tokenizer.special_tokens[token] for token in CHATML.special_tokens)
    ids = document.ids.tolist()
    assert (ids.count(start), ids.count(end)) == (2, 2)
    assert ids[0] == start
    assert ids[-1] == tokenizer.eos_id
    assert ids[document.mask.nonzero()[0][-1]] == end
    assert tokenizer.decode(ids) == "user\nA story! <|im_end|>\nassistant\nA fox ran home.\n"
    assert tokenizer.decode(document.ids[document.mask].tolist()) == "A fox ran home."
    assert document.answer_bytes == len("A fox ran home.")
    assert end not in tokenizer.encode("<|im_end|>"), "text does not become a special token"


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece"])
def test_a_prompt_is_the_beginning_of_a_document(kind: str) -> None:
    encoder = DocumentEncoder(with_chatml(kind))
    prompt = encoder.encode_prompt(CHATML.render(CHAT[:1], add_generation_prompt=True)).tolist()
    document = encoder.encode([CHATML.render(CHAT)])[0]
    assert document.ids[: len(prompt)].tolist() == prompt
    assert document.mask.nonzero()[0][0] == len(prompt), "the answer begins where the prompt ends"


@given(texts)
@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_is_encoded_as_the_tokenizer_encodes_it(kind: str, text: str) -> None:
    tokenizer = trained(kind)
    escaped = marked_writer().escaped(text)
    assert isinstance(escaped, str)
    document = DocumentEncoder(tokenizer).encode([escaped])[0]
    assert document.ids.tolist() == [*tokenizer.encode(text).tolist(), tokenizer.eos_id]
    assert document.text.decode() == text
    assert not document.mask.any()


@pytest.mark.parametrize("name", ["plain", "alpaca"])
def test_the_end_token_of_an_answer_ends_the_document_and_is_learned(name: str) -> None:
    tokenizer = trained("bpe")
    document = DocumentEncoder(tokenizer).encode([named(name).render(CHAT)])[0]
    assert document.ids.tolist().count(tokenizer.eos_id) == 1
    assert document.ids[-1] == tokenizer.eos_id
    assert document.mask[-1]


def test_special_tokens_in_text_are_ids_on_request_only() -> None:
    tokenizer = with_chatml("bpe")
    text, end = "a<|im_end|>b", tokenizer.special_tokens["<|im_end|>"]
    plain, special = (
        DocumentEncoder(tokenizer, special_tokens_in_text=asked).encode([text])[0] for asked in (False, True)
    )
    assert end not in plain.ids
    assert special.ids.tolist() == [*tokenizer.encode("a"), end, *tokenizer.encode("b"), tokenizer.eos_id]


def test_a_tokenizer_without_the_special_tokens_of_the_template_is_refused() -> None:
    with pytest.raises(
        TokenizerError, match=r"Document 1 .* no special token '<\|im_start\|>', which the chat template"
    ):
        DocumentEncoder(trained("bpe")).encode(["good", CHATML.render(CHAT)])


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece"])
def test_a_saved_tokenizer_keeps_its_special_tokens_and_its_template(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer, folder = with_chatml(kind), tmp_path_factory.mktemp(kind)
    tokenizer.chat_template = CHATML
    tokenizer.save(folder)
    again = loading.load(folder)
    assert again.special_tokens == tokenizer.special_tokens
    assert again.chat_template == CHATML
    assert again.fingerprint == tokenizer.fingerprint
    assert again.vocab_size == tokenizer.vocab_size
    assert prefix_id(again) == tokenizer.eos_id


def test_a_template_with_a_start_token_writes_none_for_a_tokenizer_without_one() -> None:
    template = ChatTemplate("start", "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
    tokenizer = trained("bpe")
    document = DocumentEncoder(tokenizer).encode([template.render(CHAT[1:])])[0]
    assert document.ids.tolist() == [*tokenizer.encode("A fox ran home."), tokenizer.eos_id]
