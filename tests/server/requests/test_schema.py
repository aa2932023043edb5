"""Tests of request validation: types, bounds and unknown fields, with clear messages."""

import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from tests.server.stubs import SMALL, InProcess, Response, hashing, served_models

TEXT_BODY = {"prompt": "Once", "max_tokens": 2}
CHAT_BODY = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 2}
ENDPOINTS = [("/v1/completions", TEXT_BODY), ("/v1/chat/completions", CHAT_BODY)]


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    limits = replace(SMALL, body_bytes=2_000_000)
    with InProcess(served_models(hashing(), hashing(endless=False), limits=limits), limits) as client:
        yield client


def require_refusal(response: Response, param: str | None = None) -> str:
    """Return the message of an error response after checking its format."""
    assert response.status == 400, response.body
    assert set(response.error) == {"message", "type", "param", "code"}
    if param:
        assert response.error["param"] == param
    assert response.error["message"]
    assert "Traceback" not in response.error["message"]
    return response.error["message"]


INVALID_COUNTS: list[Any] = [0, -2, 10**9, 2**63, 10**400, 1.5, 1e300, "5", True, [], {}, float("nan"), float("inf")]


@pytest.mark.fault("F2", cases=26)
@pytest.mark.parametrize("value", INVALID_COUNTS, ids=[repr(value)[:12] for value in INVALID_COUNTS])
@pytest.mark.parametrize(("path", "body"), ENDPOINTS, ids=["text", "chat"])
def test_max_tokens_is_a_whole_number_within_bounds(
    app: InProcess, path: str, body: dict[str, Any], value: Any
) -> None:
    """Completions may have 0: they then score or echo their prompt."""
    value = -3 if (path, repr(value)) == ("/v1/completions", "0") else value
    require_refusal(
        app.post(path, {**body, "max_tokens": value}),
        None if value != value or value == float("inf") else "max_tokens",
    )


def test_null_means_the_default(app: InProcess) -> None:
    nothing = dict.fromkeys(
        ["max_tokens", "n", "stop", "seed", "temperature", "top_p", "logprobs", "stream", "model", "user"]
    )
    assert app.post("/v1/completions", {"prompt": "Once", **nothing}).json["usage"]["completion_tokens"] == 200


OVER_LIMIT: list[dict[str, Any]] = [
    {"n": 129}, {"n": 0}, {"n": "2"}, {"best_of": 4}, {"logprobs": 21}, {"logprobs": -1}, {"logprobs": True},
    {"top_k": -2}, {"top_k": 2**40}, {"stop": ["a"] * 20_000}, {"stop": "x" * 257}, {"stop": [1]},
    {"stop": {}},
    {"logit_bias": {str(i): 1 for i in range(10_000)}}, {"logit_bias": {"5": 101}}, {"logit_bias": {"x": 1}},
    {"logit_bias": {"05": 1}}, {"logit_bias": {"5": "1"}}, {"logit_bias": {"5": None}}, {"logit_bias": [5]},
    {"logit_bias": {"256": 1}}, {"logit_bias": {"-1": 1}}, {"seed": 2**63},
    {"seed": -(2**63) - 1}, {"seed": "x"}, {"seed": 1.5}, {"echo": 1}, {"suffix": "end"}, {"stream": 1},
    {"stream": "yes"},
    {"stream_options": {"include_usage": True}}, {"stream_options": {"x": 1}, "stream": True},
    {"stream_options": [], "stream": True},
    {"truncate_prompt_tokens": -2}, {"frequency_penalty": 2.1}, {"presence_penalty": float("1e308")},
    {"response_format": {"type": "json_object"}}, {"tools": [{}]}, {"model": 5}, {"model": "\ud800"},
    {"prompt": ["a"] * 257},
]  # fmt: skip


@pytest.mark.fault("F3", cases=41)
@pytest.mark.parametrize("more", OVER_LIMIT, ids=[f"{next(iter(more))}-{i}" for i, more in enumerate(OVER_LIMIT)])
def test_a_value_over_a_limit_is_refused_with_the_name_of_its_field(app: InProcess, more: dict[str, Any]) -> None:
    require_refusal(app.post("/v1/completions", {**TEXT_BODY, **more}), next(iter(more)))


SAMPLING = ["temperature", "top_p", "min_p", "repetition_penalty"]
EDGES = [0, -1, 1, 2, -0.0, 1e308, -1e308, 1e-320, 5e-324, 0.999999999, 1.0000001, 100, 100.1, 10**400, -(10**400)]
EDGES += [float("inf"), float("-inf"), float("nan")]


def numbers(count: int) -> Iterator[float]:
    """Yield floats of any 64 bits, integers of any size, usual values, and edge cases."""
    random = Random(4)
    for case in range(count):
        match case % 4:
            case 0:
                yield struct.unpack("<d", random.randbytes(8))[0]
            case 1:
                yield random.choice((-1, 1)) * random.getrandbits(random.randint(1, 200))
            case 2:
                yield random.uniform(-0.5, 3)
            case _:
                yield EDGES[case // 4 % len(EDGES)]


@pytest.mark.fault("F4", cases=5000)
def test_sampling_parameters_are_finite_and_within_bounds_or_refused(app: InProcess) -> None:
    statuses = Counter[int]()
    for case, value in enumerate(numbers(5000)):
        name = SAMPLING[case // 4 % 4]
        response = app.post("/v1/completions", {"prompt": "O", "max_tokens": 1, name: value})
        statuses[response.status] += 1
        if response.status != 200:
            require_refusal(response)
        else:
            assert len(response.json["choices"]) == 1
    assert min(statuses[200], statuses[400]) > 500, "valid and invalid values are tried"


def test_temperatures_near_0_are_greedy(app: InProcess) -> None:
    generated = {
        app.post("/v1/completions", {"prompt": "Once", "temperature": value}).json["choices"][0]["text"]
        for value in (0, 0.0, 1e-320, 5e-324, 1e-30)
    }
    assert len(generated) == 1


INVALID_PROMPTS: list[tuple[str, Any]] = [
    ("/v1/completions", body) for body in (
        [], None, 5, "text", {"prompt": []}, {"prompt": {}}, {"prompt": 5}, {"prompt": True}, {"prompt": [None]},
        {"prompt": [[]]}, {"prompt": ["a", 5]}, {"prompt": [[5, "a"]]}, {"prompt": [256]}, {"prompt": [-1]},
        {"prompt": [10**30]}, {"prompt": [[1], [300]]}, {"prompt": [1.5]}, {"prompt": [True]}, {"prompt": "\ud83d"},
        {"prompt": "a", "": 1}, {"prompt": "a", "max_token": 5}, {"prompt": "a", "\x1b[2J": 5},
    )
] + [
    ("/v1/chat/completions", body) for body in (
        {}, {"messages": []}, {"messages": {}}, {"messages": "a"}, {"messages": [[]]}, {"messages": ["a"]},
        {"messages": [{}]}, {"messages": [{"role": "user"}]}, {"messages": [{"content": "a"}]},
        {"messages": [{"role": "wizard", "content": "a"}]}, {"messages": [{"role": None, "content": "a"}]},
        {"messages": [{"role": ["user"], "content": "a"}]}, {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": ["a"]}]},
        {"messages": [{"role": "user", "content": "a", "more": 1}]},
        {"messages": [{"role": "user", "content": "a"}] * 4097},
        {**CHAT_BODY, "prompt": "a"}, {**CHAT_BODY, "logprobs": 5}, {**CHAT_BODY, "top_logprobs": 5},
    )
]  # fmt: skip


@pytest.mark.fault("F5", cases=44)
@pytest.mark.parametrize(("path", "body"), INVALID_PROMPTS, ids=[f"{i}" for i in range(len(INVALID_PROMPTS))])
def test_invalid_prompts_and_messages_are_refused(app: InProcess, path: str, body: Any) -> None:
    require_refusal(app.post(path, body))


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not JSON"), (b"{", "not JSON"), (b"\xff\xfe", "not UTF-8"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"prompt": "a", "prompt": "b"}', "twice"), (b"[" * 100_000, "nested too deeply"),
        (b'{"n": 1' + b"0" * 5000 + b"}", "JSON"),
        (b'{"prompt": "a", "temperature": 1e999}', "finite"),
    ],
)  # fmt: skip
def test_bodies_that_are_not_a_json_object_are_refused(app: InProcess, body: bytes, what: str) -> None:
    assert what in require_refusal(app.post("/v1/completions", body))


@pytest.mark.fault("F6", cases=3)
@pytest.mark.parametrize("length", [126, 63_000, 1_000_000])
def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(app: InProcess, length: int) -> None:
    generated = app.served.models["b"].scheduler.tokens
    response = app.post("/v1/completions", {"model": "b", "prompt": "a" * length})
    expected = "This model's maximum context length is 63 tokens; the prompt is too long: it has"
    assert require_refusal(response, "prompt").startswith(f"{expected} at least {length:,} tokens. Shorten it")
    assert response.error["code"] == "context_length_exceeded"
    length = min(length, 400_000)  # as many ids as fit in a body
    ids = app.post("/v1/completions", {"model": "b", "prompt": [97] * length})
    assert require_refusal(ids, "prompt").startswith(f"{expected} {length:,} tokens. Shorten it")
    assert app.served.models["b"].scheduler.tokens == generated, "no step ran"


def test_the_longest_prompt_is_accepted(app: InProcess) -> None:
    generated = app.post("/v1/completions", {"model": "b", "prompt": "a" * 63, "max_tokens": 3})
    assert generated.json["usage"] == {"prompt_tokens": 63, "completion_tokens": 3, "total_tokens": 66}


def test_unsupported_fields_are_accepted_with_the_value_that_changes_nothing(app: InProcess) -> None:
    harmless = {"user": "me", "metadata": {}, "logit_bias": {}, "frequency_penalty": 0, "best_of": 1, "echo": False}
    assert app.post("/v1/completions", {**TEXT_BODY, **harmless}).status == 200
    assert (
        app.post("/v1/chat/completions", {**CHAT_BODY, "tools": [], "response_format": {"type": "text"}}).status == 200
    )


def test_messages_may_have_content_parts(app: InProcess) -> None:
    parts = [{"type": "text", "text": "On"}, {"type": "text", "text": "ce"}]
    generated = app.post("/v1/chat/completions", {"messages": [{"role": "system", "content": parts}], "seed": 2}).json
    whole = app.post("/v1/completions", {"prompt": "Once", "seed": 2}).json
    assert generated["choices"][0]["message"]["content"] == whole["choices"][0]["text"]


def test_large_compressed_and_mistyped_bodies_are_refused(app: InProcess) -> None:
    body = json.dumps({"prompt": "a" * 2_000_000}).encode()
    assert app.post("/v1/completions", body).status == 413
    assert app.post("/v1/completions", b"{}", content_length="999999999999").status == 413
    assert app.post("/v1/completions", b"{}", content_encoding="gzip").status == 415
    assert app.post("/v1/completions", b"{}", content_type="text/plain").status == 415
