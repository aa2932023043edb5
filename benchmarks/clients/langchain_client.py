"""langchain-openai: its chat model, its completion model, and LangChain's own classes of errors."""

from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI, OpenAI
from openai import AuthenticationError, BadRequestError, NotFoundError, RateLimitError

from benchmarks.clients.checks import Servers, caught, require, run


def model(url: str, **options: object) -> ChatOpenAI:
    shared = {"model": "tiny", "base_url": f"{url}/v1", "api_key": "any", "max_retries": 0, "max_tokens": 8, "seed": 1}
    return ChatOpenAI(**{**shared, **options})


def completion(servers: Servers) -> None:
    text = OpenAI(model="tiny", base_url=f"{servers.open}/v1", api_key="any", max_tokens=8, max_retries=0)
    require(text.invoke("Once"))


def chat(servers: Servers) -> None:
    answer = model(servers.open).invoke("Once")
    again = model(servers.open).invoke([("user", "Once"), answer, ("user", "Then")])
    require(answer.content and again.content)


def stream(servers: Servers) -> None:
    chunks = [chunk.content for chunk in model(servers.open).stream("Once")]
    require("".join(chunks) == model(servers.open).invoke("Once").content)


def logprobs(servers: Servers) -> None:
    answer = model(servers.open, logprobs=True, top_logprobs=2).invoke("Once")
    require(all(len(token["top_logprobs"]) == 2 for token in answer.response_metadata["logprobs"]["content"]))


def errors(servers: Servers) -> None:
    caught(ContextOverflowError, model(servers.open).invoke, "x" * 500)
    caught(NotFoundError, model(servers.open, model="other").invoke, "Once")
    caught(AuthenticationError, model(servers.keyed).invoke, "Once")
    caught(RateLimitError, model(servers.full).invoke, "Once")
    caught(BadRequestError, model(servers.open, reasoning_effort="high").invoke, "Once")


if __name__ == "__main__":
    run("langchain-openai", completion=completion, chat=chat, stream=stream, logprobs=logprobs, errors=errors)
