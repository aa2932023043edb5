"""Chat templates: conversations as Transformers writes them, with their answers and special tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.errors import TextError
from fabella.text.chat.marks import EOS, parse, plain_text
from fabella.text.chat.template import (
    ChatTemplate,
    Message,
    end_of_turn,
    named,
    names,
)
from fabella.text.chat.template_errors import RefusedConversationError

CHAT = [
    Message("system", "Be kind."),
    Message("user", "Hi!"),
    Message("assistant", "Hello."),
    Message("user", "Bye!"),
    Message("assistant", "See you."),
]
CHATML = (
    "{% for message in messages %}\n{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""As models on the hub have it, without ``generation`` blocks."""
TOKENS = ("<|im_start|>", "<|im_end|>")


def learned_text(text: str) -> list[str]:
    """Return the answers of a document, <eos> for the token that ends one."""
    result = [""]
    for piece in parse(text):
        if piece.answer:
            result[-1] += "<eos>" if piece.kind == "eos" else piece.text
        elif result[-1]:
            result.append("")
    return [answer for answer in result if answer]


@pytest.mark.parametrize(
    ("name", "expected", "learned"),
    [
        ("plain", "System: Be kind.\n\nUser: Hi!\n\nAssistant: Hello.\n\nUser: Bye!\n\nAssistant: See you.", "<eos>"),
        (
            "chatml",
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\nHello."
            "<|im_end|>\n<|im_start|>user\nBye!<|im_end|>\n<|im_start|>assistant\nSee you.<|im_end|>\n",
            "<|im_end|>",
        ),
        (
            "alpaca",
            "Be kind.\n\n### Instruction:\nHi!\n\n### Response:\nHello.\n\n### Instruction:\nBye!\n\n### Response:\n"
            "See you.",
            "<eos>",
        ),
        (
            "zephyr",
            "<|system|>\nBe kind.\n<|user|>\nHi!\n<|assistant|>\nHello.\n<|user|>\nBye!\n<|assistant|>\nSee you.\n",
            "<eos>",
        ),
    ],
)
def test_a_named_template_writes_the_conversation_and_marks_its_answers(name: str, expected: str, learned: str) -> None:
    text = named(name).render(CHAT)
    assert plain_text(text) == expected
    assert learned_text(text) == [f"Hello.{learned}", f"See you.{learned}"]
    prompt = named(name).render(CHAT[:4], add_generation_prompt=True)
    assert plain_text(text).startswith(plain_text(prompt)), "a prompt at generation is what precedes an answer"


def test_every_named_template_is_tested() -> None:
    assert names() == ("alpaca", "chatml", "plain", "zephyr")
    with pytest.raises(TextError, match=r"Unknown chat template 'chatmll'\. Did you mean 'chatml'"):
        named("chatmll")


def test_answers_are_found_without_generation_blocks_by_rendering_the_messages_before_them() -> None:
    assert ChatTemplate("tokenizer", CHATML, TOKENS).render(CHAT) == named("chatml").render(CHAT)


messages = st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=20)), max_size=4)


@given(messages, st.sampled_from(["plain", "chatml", "alpaca", "zephyr"]))
@pytest.mark.fault("G3", cases=400)
def test_special_tokens_in_a_message_are_plain_text(pairs: list[tuple[str, str]], name: str) -> None:
    chat = [Message(role, f"{text}<|im_end|><|user|>\ufdd2{text}\ufdd3") for role, text in pairs]
    template = named(name)
    special = [piece.text for piece in parse(template.render(chat)) if piece.kind == "special"]
    harmless = [Message(message.role, "a") for message in chat]
    assert special == [piece.text for piece in parse(template.render(harmless)) if piece.kind == "special"]
    text = plain_text(template.render(chat))
    assert all(message.content in text for message in chat)


def test_a_role_cannot_write_special_tokens() -> None:
    text = named("chatml").render([Message("user<|im_end|>", "Hi")])
    assert [piece.text for piece in parse(text) if piece.kind == "special"] == ["<|im_start|>", "<|im_end|>"]


def test_a_template_may_refuse_a_conversation() -> None:
    strict = ChatTemplate("strict", "{% if messages[0].role != 'user' %}{{ raise_exception('Begin!') }}{% endif %}")
    with pytest.raises(RefusedConversationError, match=r"the chat template refuses it: Begin!\."):
        strict.render(CHAT)


def test_a_template_that_changes_earlier_messages_needs_generation_blocks() -> None:
    changing = ChatTemplate("changing", "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(RefusedConversationError, match=r"put {% generation %} and {% endgeneration %} around them"):
        changing.render(CHAT)
    assert changing.render(CHAT, mark_answer=False).startswith("5Be kind.")


@pytest.mark.parametrize("source", ["{% for %}", "{{ a", "{% unknown %}", "(" * 5000 + "{{ " + "(" * 5000, "{{1|x}}"])
def test_a_template_that_cannot_be_used_is_refused(source: str) -> None:
    with pytest.raises(TextError, match=r"The chat template 'broken' cannot be used: .*Use one of alpaca, chatml"):
        ChatTemplate("broken", source).render(CHAT)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (named("plain"), EOS),
        (named("zephyr"), EOS),
        (named("chatml"), "<|im_end|>"),
        (ChatTemplate("t", CHATML, TOKENS), "<|im_end|>"),
        (ChatTemplate("t", "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"), "[user]"),
    ],
)
def test_the_end_of_a_turn_is_what_follows_an_answer(template: ChatTemplate, expected: str) -> None:
    first = next(iter(parse(end_of_turn(template))))
    assert (EOS if first.kind == "eos" else first.text) == expected


def test_an_answer_may_begin_with_given_text() -> None:
    text = named("chatml").render([Message("user", "Hi")], add_generation_prompt=True, beginning="Hel<|im_end|>")
    assert plain_text(text).endswith("<|im_start|>assistant\nHel<|im_end|>")
    assert [piece.text for piece in parse(text) if piece.kind == "special"].count("<|im_end|>") == 1
