"""What a chat template writes of the messages of a chat is what it writes of training data; the rest is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from fabella.generation.chat import Chat
from fabella.server.api_error import ApiError
from fabella.server.limits import Limits
from fabella.server.requests.json_body import validate
from fabella.server.requests.prompts import PromptEncoder
from fabella.server.requests.schema import ChatRequest
from fabella.text.chat.template import ChatTemplate, ConversationWriter, Message, named
from fabella.text.tables.conversation import conversation
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.chat.encode import DocumentEncoder
from tests.server.stubs import InProcess, hashing, served_models

TEXT_BODY = {"prompt": "Once", "max_tokens": 6, "seed": 1}
CHAT_BODY = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 6, "seed": 1}
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo<|end|>"}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "9 degrees", "tool_call_id": "1"}
HISTORY: list[dict[str, Any]] = [{"role": "user", "content": "Weather?"}, CALLING, RESULT]
WRITES_TOOLS = ChatTemplate(
    "writes",
    "{% for message in messages %}{{ message.role }}: {{ message.content }}{{ message.reasoning_content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments }}){% endfor %}"
    "{% if message.function_call %}{{ message.function_call | tojson }}{% endif %}{{ message.tool_call_id }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    ("<|end|>",),
)
WITHOUT_CALLS = ChatTemplate(
    "calls", "{% for message in messages %}{{ message.role }}{{ message.content }}{% endfor %}"
)
WITHOUT_RESULTS = ChatTemplate(
    "results", "{% for m in messages if m.role != 'tool' %}{{ m.role }}{{ m.content }}{{ m.tool_calls }}{% endfor %}"
)


def prompt(template: ChatTemplate | None, messages: list[dict[str, Any]], most: int = 2000) -> list[int]:
    """Return the ids of the prompt of a request to a model with this template."""
    tokenizer = ByteTokenizer(template.special_tokens if template else ())
    chat = Chat(tokenizer, template) if template else None
    encoder = PromptEncoder(tokenizer, max_tokens=most, limited_by_option=False, longest_token=1, chat=chat)
    limits = Limits()
    request = validate(ChatRequest, json.dumps({"messages": messages, "max_tokens": 8}).encode(), limits)
    return request.encode(encoder, limits)[0].given_ids.tolist()


def as_trained(template: ChatTemplate, messages: list[dict[str, Any]]) -> list[int]:
    """Return the ids of the same conversation as a document of the training text."""
    text = ConversationWriter(template, marks=True).write(conversation(messages))
    return DocumentEncoder(ByteTokenizer(template.special_tokens)).encode_prompt(text).tolist()


HISTORIES: list[list[dict[str, Any]]] = [
    HISTORY,
    [*HISTORY, {"role": "assistant", "content": "It is 9.", "reasoning_content": "9"}, HISTORY[0]],
    [HISTORY[0], {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, CALL]}, RESULT, RESULT],
    [HISTORY[0], {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
     {"role": "function", "name": "f", "content": "9"}],
    [HISTORY[0], CALLING],
]  # fmt: skip


@pytest.mark.parametrize("messages", HISTORIES)
def test_tool_calls_and_results_are_written_as_in_training_data(messages: list[dict[str, Any]]) -> None:
    expected = as_trained(WRITES_TOOLS, messages)
    assert prompt(WRITES_TOOLS, messages) == [*expected, *b"assistant: "]
    text = bytes(token for token in expected if token < 256)
    assert b"Oslo<|end|>" in text or "tool_calls" not in messages[1], "it is plain text"


LEFT_OUT = [
    (WITHOUT_CALLS, HISTORY, "The model's chat template does not write the tool_calls of message 2 (role assistant)."),
    (
        named("chatml"),
        HISTORY,
        "The model's chat template does not write the tool_calls of message 2 (role assistant).",
    ),
    (named("plain"), [HISTORY[0], {**CALLING, "content": "a"}], "does not write the tool_calls of message 2"),
    (WITHOUT_RESULTS, HISTORY, "The model's chat template does not write message 3 (role tool)."),
    (WRITES_TOOLS, [{"role": "user", "content": "a", "function_call": {"name": "f"}}], ""),
    (None, HISTORY, "The model does not read the tool_calls of message 2 (role assistant): it has no chat template."),
    (None, HISTORIES[3], "The model does not read the function_call of message 2 (role assistant)"),
]


@pytest.mark.parametrize(("template", "messages", "expected"), LEFT_OUT)
@pytest.mark.fault("I8", cases=len(LEFT_OUT))
def test_what_the_model_would_not_read_is_refused_by_its_name(
    template: ChatTemplate | None, messages: list[dict[str, Any]], expected: str
) -> None:
    if not expected:
        assert prompt(template, messages)
        return
    with pytest.raises(ApiError) as caught:
        prompt(template, messages)
    assert expected in caught.value.message
    assert (caught.value.status, caught.value.param) == (400, "messages")
    assert "use a model that was trained with a template that writes" in caught.value.message


def test_a_long_chat_is_not_shortened_to_hide_what_the_template_leaves_out() -> None:
    messages = [*HISTORY, {"role": "user", "content": "x" * 300}]
    with pytest.raises(ApiError, match="does not write the tool_calls"):
        prompt(WITHOUT_CALLS, messages, most=320)


def test_calls_that_are_no_text_or_of_another_type_are_refused() -> None:
    for wrong in ("f", {"name": "f"}, ["f"], [{"function": {"arguments": "\ud800"}}]):
        with pytest.raises(ApiError, match="tool_calls"):
            prompt(WRITES_TOOLS, [HISTORY[0], {**CALLING, "tool_calls": wrong}])


@pytest.mark.parametrize("depth", [100, 400, 900, 960, 980, 5000])
def test_deeply_nested_calls_are_written_or_refused(app: InProcess, depth: int) -> None:
    nested = "[" * depth + "1" + "]" * depth
    messages = f'[{{"role": "assistant", "tool_calls": [{{"function": {nested}}}]}}]'
    response = app.post("/v1/chat/completions", f'{{"messages": {messages}}}'.encode())
    assert response.status == 400
    message = response.error["message"]
    assert "nested too deeply" in message or "does not read the tool_calls of message 1" in message


def test_messages_that_a_template_drops_are_found_in_a_long_conversation() -> None:
    """One rendering shows which of many messages are written; each of the others is tried."""
    chat = [Message("tool", f"{number}") for number in range(500)]
    last = ChatTemplate("last", "{% for m in messages[:-1] %}{{ m.role }}{{ m.content }}{% endfor %}")
    upper = ChatTemplate("upper", "{% for m in messages %}{{ m.content | upper }}{% endfor %}")
    assert WITHOUT_CALLS.left_out(chat) == ""
    assert last.left_out(chat) == "message 500 (role tool)"
    assert upper.left_out(chat[:20]) == ""


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing())) as app:
        yield app


def test_messages_of_an_earlier_answer_can_be_sent_back(app: InProcess) -> None:
    """An answer of this server, of another one, and of a client that adds fields of its own."""
    answer = app.post("/v1/chat/completions", CHAT_BODY).json["choices"][0]["message"]
    history = [
        {"role": "user", "content": "Once"},
        answer,
        {"role": "assistant", "content": None, "tool_calls": [], "function_call": None, "annotations": []},
        {"role": "tool", "content": "42", "tool_call_id": "1", "name": "f"},
        {"role": "function", "content": "43", "name": "f"},
        {"role": "assistant", "content": "a", "reasoning_content": "b", "provider_specific_fields": {"refusal": None}},
        {"role": "user", "content": [{"type": "text", "text": "and then", "cache_control": {"type": "ephemeral"}}]},
    ]
    given = app.post("/v1/chat/completions", {**CHAT_BODY, "messages": history})
    joined = "\n\n".join(["Once", answer["content"], "42", "43", "a", "and then"])
    assert given.status == 200, given.body
    expected = app.post("/v1/completions", {**TEXT_BODY, "prompt": joined}).json
    assert given.json["choices"][0]["message"]["content"] == expected["choices"][0]["text"]


def test_only_an_assistant_may_say_nothing(app: InProcess) -> None:
    for role in ("user", "system", "tool"):
        response = app.post("/v1/chat/completions", {**CHAT_BODY, "messages": [{"role": role, "content": None}]})
        assert (response.status, "is missing" in response.error["message"]) == (400, True)
