"""A model that was trained with a chat template is served in it; the end of its turn ends an answer."""

from collections.abc import Iterator
from typing import Any

import pytest

from fabella.config.data import Packed
from fabella.generation.generator import TextGenerator
from fabella.text.chat.template import ChatTemplate, Message, named
from fabella.tokenizers.bytes import ByteTokenizer
from tests.generation.fake_model import Config, Parrot
from tests.server.stubs import InProcess, served_models

QUESTION = [{"role": "user", "content": "Hi<|im_end|>"}]
START, END = 256, 257


def generator(template: ChatTemplate, output: list[int], *, prompt: int = 1) -> TextGenerator:
    """Return a model that answers with ``output`` after ``prompt`` tokens."""
    tokenizer = ByteTokenizer(template.special_tokens)
    tokenizer.chat_template = template
    config = Config(vocab_size=tokenizer.vocab_size, context_length=200)
    model = Parrot(config, output, prompt=prompt)
    return TextGenerator(model, tokenizer, config=config, sequences=Packed(length=200, stride=200), engine="torch")


@pytest.fixture
def app() -> Iterator[InProcess]:
    template = named("chatml")
    length = len(b"user\nHi<|im_end|>\nassistant\n") + 4  # three special tokens, and EOS before the document
    with InProcess(served_models(generator(template, [*b"Hello", END, *b"never"], prompt=length))) as running:
        yield running


def test_the_chat_endpoint_reads_messages_in_the_template_and_stops_at_its_end_of_turn(app: InProcess) -> None:
    response = app.post("/v1/chat/completions", {"messages": QUESTION, "max_tokens": 50, "temperature": 0}).json
    assert response["choices"][0]["message"]["content"] == "Hello"
    assert response["choices"][0]["finish_reason"] == "stop"
    assert response["usage"]["prompt_tokens"] == len(b"user\nHi<|im_end|>\nassistant\n") + 3


def test_log_probabilities_have_no_token_for_the_end_of_the_turn(app: InProcess) -> None:
    body = {"messages": QUESTION, "max_tokens": 50, "temperature": 0, "logprobs": True}
    content = app.post("/v1/chat/completions", body).json["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == "Hello"


def test_a_plain_completion_is_not_written_in_the_template(app: InProcess) -> None:
    response = app.post("/v1/completions", {"prompt": "a" * 31, "max_tokens": 11, "temperature": 0}).json
    assert response["usage"]["prompt_tokens"] == 31


def test_tokenizer_info_has_the_template(app: InProcess) -> None:
    assert app.get("/tokenizer_info").json["chat_template"] == named("chatml").source


@pytest.mark.fault("F5", cases=1)
def test_a_conversation_that_the_template_refuses_is_answered_with_its_reason() -> None:
    strict = ChatTemplate("strict", "{{ raise_exception('The user begins.') }}")
    with InProcess(served_models(generator(strict, [65]))) as app:
        response = app.post("/v1/chat/completions", {"messages": QUESTION})
    assert response.status == 400
    assert "the chat template refuses it: The user begins." in response.json["error"]["message"]


def test_messages_that_do_not_fit_into_the_template_are_dropped() -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": role, "content": f"Turn {n:02}"} for n in range(20) for role in ("user", "assistant")]
    messages.append({"role": "user", "content": "Last"})
    running = generator(named("chatml"), [*b"Hello", END])
    with InProcess(served_models(running)) as app:
        response = app.post("/v1/chat/completions", {"messages": messages, "max_tokens": 20})
    assert response.status == 200
    kept = len(messages) - int(response.headers["x-fabella-dropped-messages"])
    texts = [Message(message["role"], message["content"]) for message in [messages[0], *messages[1 - kept :]]]
    chat = running.chat
    assert chat is not None
    assert response.json["usage"]["prompt_tokens"] == len(chat.encode(texts)) <= 200 - 1 - 20
