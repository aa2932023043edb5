"""Every limit can be set by an option of ``fabella serve``, and the error that enforces it names the option."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import click
import pytest
import typer

from fabella.cli import serve
from fabella.server.limits import LONG_CHATS, OPTIONS, Limits, parse_long_chats, set_by
from tests.server.stubs import InProcess, hashing, served_models

TINY = Limits(
    max_batch_size=2, max_queue_size=2, body_bytes=2000, prompts=2, n=3, max_tokens=9, prompt_tokens=20, messages=2,
    stops=1, stop_characters=3, log_probabilities=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def app() -> Iterator[InProcess]:
    with InProcess(served_models(hashing(), limits=TINY), TINY) as app:
        yield app


def test_every_limit_has_an_option_with_its_default() -> None:
    command = typer.Typer()
    command.command()(serve.command)
    parameters = {
        name: parameter
        for parameter in typer.main.get_command(command).params
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option"
        for name in parameter.opts
    }
    assert set(OPTIONS) == {field.name for field in fields(Limits)}
    for field, option in OPTIONS.items():
        if field != "body_bytes":
            assert parameters[option].default == getattr(Limits(), field), option


COMPLETIONS: list[tuple[str, dict[str, Any]]] = [
    ("prompts", {"prompt": ["a"] * 3}), ("n", {"n": 4}), ("max_tokens", {"max_tokens": 10}),
    ("prompt_tokens", {"prompt": "a" * 21}), ("stops", {"stop": ["a", "b"]}), ("stop_characters", {"stop": "abcd"}),
    ("log_probabilities", {"logprobs": 2}), ("body_bytes", {"user": "x" * 2000}),
    ("max_queue_size", {"prompt": ["a"] * 2, "n": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "more"), COMPLETIONS, ids=[field for field, _ in COMPLETIONS])
def test_an_error_names_the_option_that_sets_the_limit(app: InProcess, field: str, more: dict[str, Any]) -> None:
    response = app.post("/v1/completions", {"prompt": "a", "max_tokens": 1, **more})
    assert response.status in {400, 413}
    assert set_by(field) in response.error["message"]


def test_the_number_of_messages_is_limited_by_an_option(app: InProcess) -> None:
    response = app.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 3})
    assert (response.status, set_by("messages") in response.error["message"]) == (400, True)


def test_a_full_queue_is_a_rate_limit(app: InProcess) -> None:
    """A request that fits an empty queue is answered; one that never fits is not worth trying again."""
    assert app.post("/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 1}).status == 200
    assert app.post("/v1/completions", {"prompt": ["a", "b"], "n": 3, "max_tokens": 1}).status == 400


def test_policies_for_long_chats_are_named() -> None:
    assert [parse_long_chats(name) for name in LONG_CHATS] == list(LONG_CHATS)
    with pytest.raises(Exception, match=r"Unknown --long-chats 'keep'\. Use drop-middle, drop-oldest, refuse\."):
        parse_long_chats("keep")
