"""litellm, which classifies errors by their words."""

import litellm

from benchmarks.clients.checks import Servers, caught, require, run

litellm.suppress_debug_info = True
MESSAGES = [{"role": "user", "content": "Once"}]


def ask(url: str, **body: object) -> object:
    options = {"model": "openai/tiny", "messages": MESSAGES, "max_tokens": 8, "api_key": "any", "num_retries": 0}
    return litellm.completion(**{**options, "api_base": f"{url}/v1", **body})


def completion(servers: Servers) -> None:
    answer = litellm.text_completion(
        model="text-completion-openai/tiny", prompt="Once", max_tokens=8, api_base=f"{servers.open}/v1", api_key="any",
        frequency_penalty=0.0, presence_penalty=0, top_p=1.0, best_of=1,
    )  # fmt: skip
    require(answer.choices[0].text)


def chat(servers: Servers) -> None:
    answer = ask(servers.open, frequency_penalty=0.0, presence_penalty=0, n=1, top_p=1.0, logit_bias={})
    again = ask(servers.open, messages=[*MESSAGES, answer.choices[0].message.model_dump(), *MESSAGES])
    require(answer.choices[0].message.content and again.choices[0].message.content)


def stream(servers: Servers) -> None:
    whole = ask(servers.open, seed=1).choices[0].message.content
    chunks = list(ask(servers.open, seed=1, stream=True, stream_options={"include_usage": True}))
    require("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole)


def logprobs(servers: Servers) -> None:
    answer = ask(servers.open, logprobs=True, top_logprobs=2)
    require(all(len(token.top_logprobs) == 2 for token in answer.choices[0].logprobs.content))


def errors(servers: Servers) -> None:
    caught(litellm.ContextWindowExceededError, ask, servers.open, messages=[{"role": "user", "content": "x" * 500}])
    caught(litellm.NotFoundError, ask, servers.open, model="openai/other")
    caught(litellm.AuthenticationError, ask, servers.keyed)
    caught(litellm.RateLimitError, ask, servers.full)
    caught(
        litellm.BadRequestError, ask, servers.open, reasoning_effort="high", allowed_openai_params=["reasoning_effort"]
    )


if __name__ == "__main__":
    run("litellm", completion=completion, chat=chat, stream=stream, logprobs=logprobs, errors=errors)
