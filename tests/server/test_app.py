"""Tests that the openai client works unchanged, and that every response has its format."""

import itertools
import json
import math
import random
import re
from collections.abc import Iterator
from urllib.parse import urljoin

import openai
import pytest
from openai import OpenAI

from fabella.server.limits import Limits
from tests.server.stubs import InProcess, hashing, listening, saying, saying_words, served_models, texts

STORY = "Once there was a naïve 🐉, and “hello” it said.\n\nIt was happy."


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    """Client of a server with a model that depends on the prompt and one that always generates STORY."""
    with (
        listening(served_models(hashing(), saying(STORY, prompt=2))) as port,
        OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing(), saying(STORY, prompt=2))) as app:
        yield app


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["a", "b"]
    assert client.models.retrieve("b").owned_by == "fabella"
    with pytest.raises(openai.NotFoundError, match="The model 'c' does not exist"):
        client.models.retrieve("c")


def test_a_completion_returns_the_generated_text(client: OpenAI) -> None:
    response = client.completions.create(model="b", prompt="Hi", max_tokens=200)
    assert response.choices[0].text == STORY
    assert response.choices[0].finish_reason == "stop"
    assert response.usage
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (2, len(STORY.encode()))


def test_a_joined_stream_is_the_generated_text(client: OpenAI) -> None:
    stream = client.completions.create(
        model="b", prompt="Hi", max_tokens=200, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == STORY
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == len(STORY.encode())


def test_a_chat_continues_its_messages(client: OpenAI) -> None:
    """The prompt is the messages, joined by empty lines."""
    response = client.chat.completions.create(
        model="a", messages=[{"role": "user", "content": "One"}, {"role": "assistant", "content": "two"}], seed=4
    )
    plain = client.completions.create(model="a", prompt="One\n\ntwo", max_tokens=200, seed=4)
    assert response.choices[0].message.content == plain.choices[0].text
    assert response.choices[0].message.role == "assistant"


def test_a_chat_streams(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="b", messages=[{"role": "user", "content": "Hi"}], stream=True, max_tokens=200
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == STORY


def test_the_seed_determines_the_completions(client: OpenAI) -> None:
    def completions(seed: int) -> list[str]:
        response = client.completions.create(model="a", prompt="Once", seed=seed, n=3, max_tokens=30, temperature=1)
        return [choice.text for choice in response.choices]

    assert completions(1) == completions(1)
    assert completions(1) != completions(2)
    assert len(set(completions(1))) == 3


def test_a_stop_sequence_ends_the_completion_and_is_not_part_of_it(client: OpenAI) -> None:
    response = client.completions.create(model="b", prompt="Hi", stop=["hello", "happy"], max_tokens=200, logprobs=0)
    before = STORY.split("hello")[0]
    assert response.choices[0].text == before
    assert response.choices[0].finish_reason == "stop"
    assert response.choices[0].logprobs
    assert len(response.choices[0].logprobs.tokens or []) == len(before.encode())


def test_log_probabilities_are_those_of_the_model(client: OpenAI) -> None:
    response = client.completions.create(model="a", prompt="Once", logprobs=5, max_tokens=20, temperature=0, seed=1)
    given = response.choices[0].logprobs
    assert given
    assert given.tokens
    assert given.token_logprobs
    assert given.top_logprobs
    assert given.text_offset
    for value, best in zip(given.token_logprobs, given.top_logprobs, strict=True):
        assert value is not None
        assert best
        assert value == max(best.values())  # greedy: the most likely token was taken
        assert sum(math.exp(value) for value in best.values()) <= 1.0 + 1e-6
    assert given.text_offset == sorted(given.text_offset)


def test_log_probabilities_of_a_chat_contain_the_bytes_of_tokens(client: OpenAI) -> None:
    response = client.chat.completions.create(
        model="b", messages=[{"role": "user", "content": "Hi"}], logprobs=True, top_logprobs=2, max_tokens=200
    )
    content = response.choices[0].logprobs and response.choices[0].logprobs.content
    assert content
    assert bytes(byte for token in content for byte in token.bytes or []).decode() == STORY
    assert all(len(token.top_logprobs) == 2 for token in content)


def test_errors_have_the_format_of_openai(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens must be at least 0") as caught:
        client.completions.create(model="a", prompt="Once", max_tokens=-2)
    assert caught.value.param == "max_tokens"
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_and_a_whole_response_are_equal(app: InProcess, path: str) -> None:
    body = {"model": "a", "n": 3, "seed": 5, "max_tokens": 40, "temperature": 1.3, "stop": ["e", "é"]}
    body |= {"prompt": "Once"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "Once"}]}
    whole = app.post(path, body).json["choices"]
    generated = [choice["text"] if "text" in choice else choice["message"]["content"] for choice in whole]
    assert texts(app.post(path, {**body, "stream": True}).events) == dict(enumerate(generated))


def test_several_prompts_are_completed_in_order(app: InProcess) -> None:
    body = {"model": "a", "seed": 5, "max_tokens": 10}
    both = app.post("/v1/completions", {**body, "prompt": ["Once", [79, 110]], "n": 2}).json["choices"]
    first = app.post("/v1/completions", {**body, "prompt": "Once", "n": 2}).json["choices"]
    second = app.post("/v1/completions", {**body, "prompt": "On", "n": 2}).json["choices"]
    assert [choice["index"] for choice in both] == [0, 1, 2, 3]
    assert [choice["text"] for choice in both] == [choice["text"] for choice in first + second]


def test_a_long_prompt_is_truncated_on_request(app: InProcess) -> None:
    generated = app.post("/v1/completions", {"prompt": "x" * 500 + "Once", "truncate_prompt_tokens": 4, "seed": 1}).json
    short = app.post("/v1/completions", {"prompt": "Once", "seed": 1}).json
    assert generated["choices"][0]["text"] == short["choices"][0]["text"]
    assert generated["usage"]["prompt_tokens"] == 4


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405), ("POST", "/v1/models", 405),
     ("GET", "/page/../app.py", 404), ("GET", "/page/%2e%2e/app.py", 404),
     ("GET", "/page/", 404), ("GET", "/v1/models/../../etc/passwd", 404)],
)  # fmt: skip
def test_unknown_paths_and_methods_get_an_error_in_the_same_format(
    app: InProcess, method: str, path: str, status: int
) -> None:
    response = app.request(method, path, b"")
    assert response.status == status
    assert set(response.error) == {"message", "type", "param", "code"}


def test_the_page_works_below_a_path_of_a_proxy(app: InProcess) -> None:
    """A proxy shows the server at /stories/ and removes that from the path: jupyter-server-proxy, nginx."""
    page, below = "http://proxy/stories/", set[str]()

    def request(address: str, base: str) -> str:
        absolute = urljoin(base, address)
        assert absolute.startswith(page), f"{address} of {base} leaves the path of the proxy"
        path = "/" + absolute.removeprefix(page)
        below.add(path)
        if path.startswith("/v1/"):
            assert app.request("PUT", path, b"").status == 405, f"{path} does not exist"
            return ""
        response = app.get(path)
        assert response.status == 200, path
        return response.body.decode()

    pending = [(address, page) for address in re.findall(r'(?:href|src)="([^":,]+)"', request("", page))]
    while pending:
        address, base = pending.pop()
        text, own = request(address, base), urljoin(base, address)
        # An import is relative to its file, a request to the page.
        pending += [(found, own) for found in re.findall(r'^import .* from "([^"]+)"', text, re.MULTILINE)]
        pending += [(found, page) for found in re.findall(r'\b(?:ask|fetch|request)\("([^"]+)"', text)]
    scripts = {f"/page/{name}.js" for name in ("story", "sheet", "words", "api")}
    assert below == {"/", "/page/story.css", *scripts, "/v1/completions", "/v1/models"}


def test_health_and_metrics(app: InProcess) -> None:
    assert app.get("/healthz").json == {"status": "ok"}
    before = app.get("/metrics").body.decode()
    app.post("/v1/completions", {"model": "a", "prompt": "Once", "max_tokens": 7})
    after = app.get("/metrics").body.decode()

    def value(text: str, name: str) -> float:
        return next(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    for name, more in [('fabella_generation_tokens_total{model="a"}', 7), ("fabella_prompt_tokens_total", 4)]:
        assert value(after, name) - value(before, name) == more
    assert value(after, 'fabella_num_requests_running{model="a"}') == 0
    assert 'fabella_requests_total{route="/v1/completions",status="200"}' in after


# Every line end that some parser knows, keywords of the protocol, markup, and invalid UTF-8.
WORDS = ["\n", "\r", "\r\n", "\n\n", "data: ", "data: [DONE]\n\n", "\u2028", "\u2029", "\x85", "\x00", "\x0b", '"',
         "\\", "</script>", "🐉", "event: x\n", ": ", "\ufeff", "é", "\x1b[2J"]  # fmt: skip
AWKWARD = [*(word.encode() for word in WORDS), b"\xf0\x9f", b"\x90\x89", b"\xe2\x80", b"\xa8"]


@pytest.mark.fault("F22", cases=1000)
def test_any_generated_text_is_framed_so_that_clients_can_read_it() -> None:
    chance, everyone = random.Random(1), range(len(AWKWARD))
    pairs = list(itertools.product(everyone, everyone))
    longer = [chance.choices(everyone, k=chance.randrange(3, 12)) for _ in range(1000 - len(pairs))]
    generator, set_words = saying_words(AWKWARD)
    with InProcess(served_models(generator)) as app:
        for numbers in [*pairs, *longer]:
            set_words(numbers)
            whole = app.post("/v1/completions", {"prompt": "Hi"}).json["choices"][0]["text"]
            streamed = app.post("/v1/completions", {"prompt": "Hi", "stream": True})
            assert whole == b"".join(AWKWARD[number] for number in numbers).decode(errors="replace")
            assert texts(streamed.events) == {0: whole}
            for line in streamed.body.decode().splitlines():  # splits at more line ends than the format has
                assert not line or line == "data: [DONE]" or json.loads(line.removeprefix("data: "))["choices"]


def test_models_report_their_limits() -> None:
    with InProcess(served_models(hashing(endless=False), limits=Limits(max_tokens=9))) as app:
        facts = app.get("/v1/models").json["data"][0]["fabella"]
        assert (facts["max_tokens"], facts["prompt_tokens"]) == (9, 63)
