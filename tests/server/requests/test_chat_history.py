"""A chat may go on without end: the messages that fit are chosen by a documented policy."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabella.server.limits import LONG_CHATS, Limits, LongChats
from fabella.server.requests.chat_history import MESSAGE_SEPARATOR, select_messages, texts_fit
from fabella.server.requests.prompts import PromptEncoder
from fabella.tokenizers.bytes import ByteTokenizer
from tests.server.stubs import SMALL, InProcess, hashing, served_models

CONTEXT = 63
"""Tokens that fit before EOS; a byte is a token."""


@pytest.fixture(scope="module")
def apps() -> Iterator[dict[LongChats, InProcess]]:
    """Servers with each policy and a model with a limited context."""
    running: dict[LongChats, Limits] = {policy: replace(SMALL, long_chats=policy) for policy in LONG_CHATS}
    apps: dict[LongChats, InProcess] = {
        policy: InProcess(served_models(hashing(endless=False), limits=limits), limits)
        for policy, limits in running.items()
    }
    for app in apps.values():
        app.__enter__()
    yield apps
    for app in apps.values():
        app.__exit__()


def encoder(most: int = CONTEXT) -> PromptEncoder:
    return PromptEncoder(ByteTokenizer(), max_tokens=most, limited_by_option=False, longest_token=1)


def select(texts: list[str], policy: LongChats = "drop-middle", new_tokens: int = 10) -> list[str]:
    return select_messages(texts, encoder(), new_tokens=new_tokens, policy=policy, fits=partial(texts_fit, encoder()))


def test_the_first_message_and_the_latest_that_fit_are_kept() -> None:
    texts = ["scene", *(f"turn {number:02}" for number in range(20))]
    assert select(texts) == ["scene", *texts[-5:]]  # 5 + 5 * (2 + 7) = 50 of 53
    assert select(texts, "drop-oldest") == texts[-6:]  # 6 * 7 + 5 * 2 = 52
    assert select(texts, "refuse") == texts


def test_space_is_left_for_the_answer_but_no_more_than_half_of_the_context() -> None:
    texts = ["a" * 20, "b" * 20, "c" * 10]  # 54 tokens
    assert select(texts, new_tokens=9) == texts
    assert select(texts, new_tokens=10) == ["a" * 20, "c" * 10]
    assert select(["a" * 5, "b" * 5, "c" * 20], new_tokens=10_000) == ["a" * 5, "c" * 20]  # 27 of 32


def test_the_first_message_gives_way_to_the_last_one() -> None:
    assert select(["a" * 40, "b" * 30]) == ["b" * 30]
    assert select(["a" * 5, "b" * 56]) == ["a" * 5, "b" * 56], "it leaves no space, but it fits"
    assert select(["a" * 5, "b" * 70]) == ["b" * 70], "encoding it is refused"
    assert select(["b" * 70]) == ["b" * 70]


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    new_tokens=st.integers(1, 80),
    policy=st.sampled_from(["drop-middle", "drop-oldest"]),
)
def test_kept_messages_are_a_prefix_and_the_longest_suffix_that_fits(
    sizes: list[int], new_tokens: int, policy: LongChats
) -> None:
    texts = [chr(97 + number) * size for number, size in enumerate(sizes)]
    kept = select(texts, policy, new_tokens)
    space = CONTEXT - min(new_tokens, CONTEXT // 2)

    def length(messages: list[str]) -> int:
        return len(MESSAGE_SEPARATOR.join(messages))

    assert kept[-1] == texts[-1]
    if kept == texts:
        return
    first = kept[:1] if policy == "drop-middle" and length([texts[0], texts[-1]]) <= CONTEXT else []
    latest = kept[len(first) :]
    assert kept == [*first, *texts[len(texts) - len(latest) :]]
    if first:
        assert first == texts[:1]
    assert length(kept) <= space or len(latest) == 1
    assert length([*first, *texts[len(texts) - len(latest) - 1 :]]) > space, "one more would not fit"


def talk(app: InProcess, turns: int) -> list[dict[str, Any]]:
    """Send a growing chat, as a chat program does; return the responses."""
    messages, responses = [{"role": "system", "content": "A story."}], list[dict[str, Any]]()
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Turn {turn}."})
        response = app.post("/v1/chat/completions", {"messages": messages, "max_tokens": 8, "seed": turn})
        assert response.status == 200, response.body
        messages.append(response.json["choices"][0]["message"])
        responses.append({**response.json, "dropped": response.headers.get("x-fabella-dropped-messages")})
    return responses


@pytest.mark.parametrize("policy", ["drop-middle", "drop-oldest"])
def test_a_chat_goes_on_for_as_long_as_wanted(apps: dict[LongChats, InProcess], policy: LongChats) -> None:
    responses = talk(apps[policy], 60)
    assert all(response["usage"]["prompt_tokens"] <= CONTEXT - 8 for response in responses)
    assert responses[0]["dropped"] is None
    assert int(responses[-1]["dropped"]) > 100


def test_the_prompt_of_a_long_chat_is_the_first_message_and_the_latest(apps: dict[LongChats, InProcess]) -> None:
    messages = [{"role": "user", "content": text} for text in ("first", "x" * 60, "last")]
    body = {"max_tokens": 8, "seed": 1}
    given = apps["drop-middle"].post("/v1/chat/completions", {**body, "messages": messages}).json
    short = apps["drop-middle"].post("/v1/completions", {**body, "prompt": "first\n\nlast"}).json
    assert given["choices"][0]["message"]["content"] == short["choices"][0]["text"]


def test_a_last_message_that_does_not_fit_is_refused_with_every_policy(apps: dict[LongChats, InProcess]) -> None:
    for app in apps.values():
        messages = [{"role": "user", "content": "first"}, {"role": "user", "content": "x" * 70}]
        response = app.post("/v1/chat/completions", {"messages": messages})
        assert (response.status, response.error["code"]) == (400, "context_length_exceeded")
        assert response.error["message"].startswith("This model's maximum context length is 63 tokens")


def test_a_long_chat_is_refused_on_request(apps: dict[LongChats, InProcess]) -> None:
    messages = [{"role": "user", "content": "x" * 30}] * 3
    assert apps["refuse"].post("/v1/chat/completions", {"messages": messages}).status == 400
    assert apps["drop-middle"].post("/v1/chat/completions", {"messages": messages}).status == 200
