"""Responses have OpenAI's form field by field, whole and streamed, with and without log probabilities and echo."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.stubs import InProcess, hashing, saying, served_models, texts

STORY = "naïve 🐉"
NUMBERS = (int, float)


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    """Model a depends on the prompt; b generates STORY after prompts of two tokens, and then EOS."""
    with InProcess(served_models(hashing(), saying(STORY, prompt=2))) as app:
        yield app


def complete(app: InProcess, **body: Any) -> dict[str, Any]:
    response = app.post("/v1/completions", {"prompt": "Once", "seed": 3, "max_tokens": 12, **body})
    assert response.status == 200, response.body
    return response.json


def chat(app: InProcess, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Once"}]
    response = app.post("/v1/chat/completions", {"messages": messages, "seed": 3, "max_tokens": 12, **body})
    assert response.status == 200, response.body
    return response.json


def require_head(response: dict[str, Any], object_name: str, prefix: str, *more: str) -> None:
    assert set(response) == {"id", "object", "created", "model", "choices", "system_fingerprint", *more}
    assert response["object"] == object_name
    assert response["id"].startswith(prefix)
    assert type(response["created"]) is int
    assert (response["model"], type(response["system_fingerprint"])) == ("a", str)


def require_usage(usage: dict[str, Any], prompt: int, completion: int) -> None:
    assert usage == {
        "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion
    }  # fmt: skip


def test_a_completion_has_the_fields_of_openai(app: InProcess) -> None:
    response = complete(app, n=2)
    require_head(response, "text_completion", "cmpl-", "usage")
    require_usage(response["usage"], 4, 24)
    for index, choice in enumerate(response["choices"]):
        assert set(choice) == {"text", "index", "logprobs", "finish_reason"}
        assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (index, None, "length")
        assert choice["text"]
    assert complete(app, model="b", prompt="Hi")["choices"][0]["finish_reason"] == "stop"


def test_a_chat_completion_has_the_fields_of_openai(app: InProcess) -> None:
    response = chat(app, n=2)
    require_head(response, "chat.completion", "chatcmpl-", "usage")
    require_usage(response["usage"], 4, 24)
    for index, choice in enumerate(response["choices"]):
        assert set(choice) == {"message", "index", "logprobs", "finish_reason"}
        assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (index, None, "length")
        assert set(choice["message"]) == {"role", "content", "refusal"}
        assert (choice["message"]["role"], choice["message"]["refusal"]) == ("assistant", None)


@pytest.mark.parametrize("include_usage", [True, False])
def test_the_chunks_of_a_stream_have_the_fields_of_openai(app: InProcess, include_usage: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": include_usage}}
    usage = ("usage",) if include_usage else ()
    text = app.post("/v1/completions", {"prompt": "Once", "max_tokens": 5, **options}).events
    messages = [{"role": "user", "content": "Once"}]
    chats = app.post("/v1/chat/completions", {"messages": messages, "max_tokens": 5, **options}).events
    for events, object_name, prefix in (
        (text, "text_completion", "cmpl-"),
        (chats, "chat.completion.chunk", "chatcmpl-"),
    ):
        assert len({(event["id"], event["created"]) for event in events}) == 1
        for event in events:
            require_head(event, object_name, prefix, *usage)
        if include_usage:
            last = events.pop()
            assert last["choices"] == []
            require_usage(last["usage"], 4, 5)
            assert all(event["usage"] is None for event in events)
        reasons = [event["choices"][0]["finish_reason"] for event in events]
        assert reasons == [None] * (len(events) - 1) + ["length"]
    assert all(set(event["choices"][0]) == {"text", "index", "logprobs", "finish_reason"} for event in text)
    assert all(set(event["choices"][0]) == {"delta", "index", "logprobs", "finish_reason"} for event in chats)
    assert chats[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(event["choices"][0]["delta"]) <= {"content"} for event in chats[1:])


# ---------------------------------------------------------------- log probabilities


@pytest.mark.parametrize("number", [0, 1, 2, 5, 20])
def test_logprobs_of_a_completion_are_ordered_and_contain_the_sampled_token(app: InProcess, number: int) -> None:
    """At a high temperature, most sampled tokens are not among the most likely ones."""
    choice = complete(app, logprobs=number, temperature=3.0, max_tokens=60)["choices"][0]
    logprobs = choice["logprobs"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(values) for values in logprobs.values()}) == 1
    outside = 0
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert top[token] == value
        assert list(top.values()) == sorted(top.values(), reverse=True), "the most likely one is the first"
        assert len(top) in {number, number + 1}
        outside += len(top) == number + 1
    assert outside > (10 if number < 20 else 0)


def test_offsets_count_characters_from_the_start_of_the_prompt(app: InProcess) -> None:
    logprobs = complete(app, model="b", prompt="Hi", logprobs=0)["choices"][0]["logprobs"]
    assert logprobs["tokens"][:2] == ["n", "a"]
    # Two bytes are ï and four are the dragon: each starts at its character.
    assert logprobs["text_offset"] == [2, 3, 4, 4, 5, 6, 7, 8, 8, 8, 8]
    assert logprobs["tokens"][2:4] == ["bytes:\\xc3", "bytes:\\xaf"]


def test_logprobs_of_a_chat_have_the_fields_of_openai(app: InProcess) -> None:
    logprobs = chat(app, logprobs=True, top_logprobs=3, temperature=3.0)["choices"][0]["logprobs"]
    assert set(logprobs) == {"content", "refusal"}
    assert len(logprobs["content"]) == 12
    for token in logprobs["content"]:
        assert set(token) == {"token", "logprob", "bytes", "top_logprobs"}
        assert type(token["logprob"]) is float
        assert [set(other) for other in token["top_logprobs"]] == [{"token", "logprob", "bytes"}] * 3
        values = [other["logprob"] for other in token["top_logprobs"]]
        assert values == sorted(values, reverse=True)
        same = [other for other in token["top_logprobs"] if other["token"] == token["token"]]
        assert all(other["logprob"] == token["logprob"] for other in same)
    assert chat(app, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


# ---------------------------------------------------------------- echo


def joined(events: list[Any], field: str) -> dict[int, list[Any]]:
    values: dict[int, list[Any]] = {}
    for event in events:
        for choice in event["choices"]:
            values.setdefault(choice["index"], []).extend(choice["logprobs"][field])
    return values


@pytest.mark.parametrize("max_tokens", [0, 1, 9])
@pytest.mark.parametrize("prompt", ["Once", [79, 110, 99, 101], "é🐉"])
@pytest.mark.parametrize("logprobs", [0, 1, 4])
def test_echo_scores_the_prompt_whole_and_streamed(app: InProcess, prompt: Any, logprobs: int, max_tokens: int) -> None:
    body = {"prompt": prompt, "echo": True, "logprobs": logprobs, "max_tokens": max_tokens, "n": 2, "seed": 2}
    response = app.post("/v1/completions", body).json
    text = prompt if isinstance(prompt, str) else bytes(prompt).decode()
    generator = app.served.models["a"].generator
    nats = generator.perplexity(text).nats.tolist()
    require_usage(response["usage"], len(nats), 2 * max_tokens)
    for choice in response["choices"]:
        given = choice["logprobs"]
        assert choice["text"].startswith(text)
        assert choice["finish_reason"] == "length"
        assert len(given["tokens"]) == len(nats) + max_tokens
        assert (given["token_logprobs"][0], given["top_logprobs"][0], given["text_offset"][0]) == (None, None, 0)
        assert given["token_logprobs"][1 : len(nats)] == pytest.approx([-value for value in nats[1:]], rel=1e-6)
        for token, value, top in list(
            zip(given["tokens"], given["token_logprobs"], given["top_logprobs"], strict=True)
        )[1:]:
            assert top[token] == value
            assert list(top.values()) == sorted(top.values(), reverse=True)
            assert logprobs <= len(top) <= logprobs + 1
        assert given["text_offset"] == sorted(given["text_offset"])
    streamed = app.post("/v1/completions", {**body, "stream": True}).events
    assert texts(streamed) == {choice["index"]: choice["text"] for choice in response["choices"]}
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert joined(streamed, field) == {choice["index"]: choice["logprobs"][field] for choice in response["choices"]}


def test_echo_does_not_change_the_completion(app: InProcess) -> None:
    plain, echoed = complete(app, logprobs=2), complete(app, logprobs=2, echo=True)
    assert echoed["choices"][0]["text"] == "Once" + plain["choices"][0]["text"]
    for field, values in plain["choices"][0]["logprobs"].items():
        assert echoed["choices"][0]["logprobs"][field][4:] == values
    assert complete(app, echo=True)["choices"][0] == {**echoed["choices"][0], "logprobs": None}


def test_no_tokens_are_generated_for_max_tokens_0(app: InProcess) -> None:
    before = app.served.models["a"].scheduler.tokens
    response = complete(app, max_tokens=0)
    assert response["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]
    assert complete(app, max_tokens=0, echo=True)["choices"][0]["text"] == "Once"
    assert app.served.models["a"].scheduler.tokens == before


def test_a_prompt_that_starts_with_eos_gets_no_second_one(app: InProcess) -> None:
    """An evaluation tool sends EOS itself to score the first token of a text."""
    eos = app.served.models["a"].generator.tokenizer.eos_id
    ids = [eos, *b"Once"]
    scored = complete(app, prompt=ids, echo=True, logprobs=1, max_tokens=1)
    logprobs = scored["choices"][0]["logprobs"]
    nats = app.served.models["a"].generator.perplexity("Once").nats
    assert logprobs["tokens"][0] == "<|endoftext|>"
    assert logprobs["token_logprobs"][:1] == [None]
    assert logprobs["token_logprobs"][1:-1] == pytest.approx((-nats).tolist(), rel=1e-6)
    assert scored["usage"]["prompt_tokens"] == 5
    assert scored["choices"][0]["text"] == complete(app, echo=True, max_tokens=1)["choices"][0]["text"]


def test_several_prompts_are_echoed_in_order(app: InProcess) -> None:
    body = {"echo": True, "logprobs": 1, "max_tokens": 3}
    both = complete(app, prompt=["Once", "A dog"], **body)["choices"]
    single = [complete(app, prompt=prompt, **body)["choices"][0] for prompt in ("Once", "A dog")]
    assert [{**choice, "index": 0} for choice in both] == single


def test_a_prompt_longer_than_the_context_is_scored_in_windows(app: InProcess) -> None:
    """The model has no limit, but was trained with 64 tokens: scores are those of ``perplexity``."""
    text = "A dog ran. " * 30
    given = complete(app, prompt=text, echo=True, logprobs=0, max_tokens=0)["choices"][0]["logprobs"]
    nats = app.served.models["a"].generator.perplexity(text).nats
    assert given["token_logprobs"][1:] == pytest.approx((-nats[1:]).tolist(), rel=1e-6)


def test_an_empty_prompt_is_echoed(app: InProcess) -> None:
    choice = complete(app, prompt="", echo=True, logprobs=1, max_tokens=2)["choices"][0]
    assert len(choice["logprobs"]["tokens"]) == 2
    assert all(math.isfinite(value) for value in choice["logprobs"]["token_logprobs"])
