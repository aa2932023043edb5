"""OpenAI's client for Python."""

import openai

from benchmarks.clients.checks import Servers, caught, require, run


def client(url: str, key: str = "any") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def completion(servers: Servers) -> None:
    answer = client(servers.open).completions.create(
        model="tiny", prompt="Once", max_tokens=8, seed=1, frequency_penalty=0.0, presence_penalty=0.0, best_of=1, n=1,
        logit_bias={}, suffix=None, echo=False, user="me",
    )  # fmt: skip
    require(answer.choices[0].text and answer.usage and answer.usage.completion_tokens <= 8)


def chat(servers: Servers) -> None:
    answer = client(servers.open).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Once"}], max_completion_tokens=8, seed=1, store=False,
        parallel_tool_calls=False, tool_choice="none", response_format={"type": "text"}, frequency_penalty=0.0,
    )  # fmt: skip
    history = [{"role": "user", "content": "Once"}, answer.choices[0].message, {"role": "user", "content": "Then"}]
    again = client(servers.open).chat.completions.create(model="tiny", messages=history, max_tokens=8)
    require(answer.choices[0].message.content and again.choices[0].message.content)


def stream(servers: Servers) -> None:
    body = {"model": "tiny", "prompt": "Once", "max_tokens": 8, "seed": 1}
    whole = client(servers.open).completions.create(**body).choices[0].text
    chunks = list(client(servers.open).completions.create(**body, stream=True, stream_options={"include_usage": True}))
    require("".join(choice.text for chunk in chunks for choice in chunk.choices) == whole)
    require(chunks[-1].usage is not None)


def logprobs(servers: Servers) -> None:
    answer = client(servers.open).completions.create(
        model="tiny", prompt="Once", max_tokens=1, seed=1, logprobs=1, echo=True
    )
    values = answer.choices[0].logprobs.token_logprobs
    require(values[0] is None and all(value <= 0 for value in values[1:]))
    given = client(servers.open).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Once"}], max_tokens=4, logprobs=True, top_logprobs=2
    )
    require(all(len(token.top_logprobs) == 2 for token in given.choices[0].logprobs.content))


def errors(servers: Servers) -> None:
    def ask(url: str, **body: object) -> object:
        key = str(body.pop("key", "any"))
        return client(url, key).completions.create(**{"model": "tiny", "prompt": "Once", "max_tokens": 4, **body})

    too_long = caught(openai.BadRequestError, ask, servers.open, prompt="x" * 500)
    require(too_long.code == "context_length_exceeded")
    require(caught(openai.NotFoundError, ask, servers.open, model="other").code == "model_not_found")
    require(caught(openai.AuthenticationError, ask, servers.keyed, key="wrong").code == "invalid_api_key")
    full = caught(openai.RateLimitError, ask, servers.full)
    require(full.code == "rate_limit_exceeded" and int(full.response.headers["retry-after"]) > 0)
    require(caught(openai.BadRequestError, ask, servers.open, suffix="end").param == "suffix")
    caught(openai.NotFoundError, client(servers.open).embeddings.create, model="tiny", input="Once")
    caught(openai.NotFoundError, client(servers.open).responses.create, model="tiny", input="Once")


if __name__ == "__main__":
    run("openai", completion=completion, chat=chat, stream=stream, logprobs=logprobs, errors=errors)
