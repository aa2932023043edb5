"""Conversations with a model: the prompt is what training saw before an answer, and the end of the turn ends it."""

from typing import Any

import numpy as np
import pytest

from fabella.config.data import Bytes
from fabella.errors import UsageError
from fabella.generation.chat import Chat, chat_of
from fabella.generation.completion import ActiveCompletion
from fabella.text.chat.template import ChatTemplate, Message, named
from fabella.tokenizers import loading
from fabella.tokenizers.chat.encode import DocumentEncoder

CHAT = [Message("user", "Hi"), Message("assistant", "Hello")]


def chat(template: ChatTemplate) -> Chat:
    return Chat(loading.train(Bytes(), (), template.special_tokens), template)


@pytest.mark.parametrize("name", ["plain", "chatml", "alpaca", "zephyr"])
def test_a_prompt_is_what_precedes_the_answer_in_training(name: str) -> None:
    template = named(name)
    tokenizer = loading.train(Bytes(), (), template.special_tokens)
    document = DocumentEncoder(tokenizer).encode([template.render(CHAT)])[0]
    prompt = Chat(tokenizer, template).encode(CHAT[:1])
    np.testing.assert_array_equal(document.ids[: len(prompt)], prompt)
    assert document.mask[len(prompt)]
    assert not document.mask[: len(prompt)].any()


@pytest.mark.parametrize(
    ("template", "stop_ids", "stop"),
    [
        (named("plain"), set[int](), ()),
        (named("chatml"), {257}, ()),
        (
            ChatTemplate("t", "{% for m in messages %}{{ '\\n[' + m.role }}] {{ m.content }}{% endfor %}"),
            set[int](),
            ("\n[user]",),
        ),
    ],
)
def test_the_end_of_a_turn_ends_an_answer(template: ChatTemplate, stop_ids: set[int], stop: tuple[str, ...]) -> None:
    found = chat(template)
    assert found.stop_ids == stop_ids
    assert found.stop == stop


def test_a_stop_id_ends_a_completion_as_eos_does() -> None:
    tokenizer = loading.train(Bytes(), (), ("<|im_start|>", "<|im_end|>"))
    completion = ActiveCompletion(tokenizer, max_tokens=9, stop_ids={257})
    assert [completion.append(token) for token in (72, 105, 257, 72)] == ["H", "i", "", ""]
    assert (completion.finish_reason, completion.tokens) == ("eos", 2)


def test_an_answer_that_has_begun_is_continued() -> None:
    assert chat(named("chatml")).text(CHAT).endswith("<|im_start|>assistant\nHello")


def test_a_conversation_that_the_template_refuses_is_refused() -> None:
    strict = chat(ChatTemplate("strict", "{{ raise_exception('No.') if add_generation_prompt else '' }}"))
    with pytest.raises(UsageError, match=r"The conversation cannot be written: the chat template refuses it: No\."):
        strict.encode(CHAT)


def test_a_tokenizer_without_a_template_has_no_chat() -> None:
    tokenizer: Any = loading.train(Bytes(), ())
    assert chat_of(tokenizer) is None
