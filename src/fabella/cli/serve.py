"""Serve models over HTTP: an OpenAI-compatible API and a page to write stories with.

Examples:
  fabella serve                                                  the included model, the storyteller
  fabella serve runs/quickstart                                  then open http://127.0.0.1:8000
  fabella serve runs/quickstart@200 runs/quickstart@latest       two checkpoints, compared on the page
  fabella serve runs/a runs/b --port 8080
  FABELLA_API_KEY=… fabella serve runs/a --host 0.0.0.0          for other machines; requires the API key
  fabella serve runs/a --allowed-origin http://localhost:3000    for a web page of your own
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_status
from fabella.cli.run_options import Device, WeightsOption
from fabella.errors import UsageError
from fabella.planning.memory import parse_bytes
from fabella.storyteller import NAME

try:
    from fabella.server.access import LOOPBACK_NAMES, Access, require_origins
    from fabella.server.app import application
    from fabella.server.http_server import bind, require_key, serve
    from fabella.server.limits import Limits, parse_long_chats
    from fabella.server.served_models import ServedModels, load
except ModuleNotFoundError as missing:
    if missing.name not in {"starlette", "uvicorn", "h11", "prometheus_client"}:
        raise
    raise UsageError(
        f"fabella serve needs the package '{missing.name}', which is not installed.",
        hint="Install the extra: pip install 'fabella[serve]'",
    ) from None

_DEFAULTS = Limits()
_MANY = 1_000_000_000

Runs = Annotated[
    list[str] | None,
    typer.Argument(help="Run directories; RUN@STEP or RUN@latest selects a checkpoint. By default the included model."),
]
Host = Annotated[str, typer.Option(help="Address to listen on; only this machine can reach 127.0.0.1.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")]
MaxBatchSize = Annotated[
    int, typer.Option(min=1, max=1024, help="Maximum number of sequences decoded in one batch (vLLM: --max-num-seqs).")
]
MaxQueueSize = Annotated[
    int, typer.Option(min=0, max=1_000_000, help="Maximum number of queued sequences; further requests get 429.")
]
MaxTokens = Annotated[int, typer.Option(min=1, max=1_000_000, help="Maximum number of new tokens per completion.")]
MaxPromptTokens = Annotated[
    int, typer.Option(min=2, max=_MANY, help="Maximum prompt length in tokens; the model's context may be shorter.")
]
MaxPrompts = Annotated[int, typer.Option(min=1, max=_MANY, help="Maximum number of prompts in one request.")]
MaxN = Annotated[int, typer.Option("--max-n", min=1, max=_MANY, help="Maximum number of completions per prompt.")]
MaxMessages = Annotated[int, typer.Option(min=1, max=_MANY, help="Maximum number of messages in a chat.")]
MaxStops = Annotated[int, typer.Option(min=0, max=_MANY, help="Maximum number of stop sequences.")]
MaxStopLength = Annotated[int, typer.Option(min=1, max=_MANY, help="Maximum length of a stop sequence in characters.")]
MaxLogprobs = Annotated[int, typer.Option(min=0, max=_MANY, help="Maximum number of alternatives per token.")]
MaxBodySize = Annotated[str, typer.Option(help="Maximum size of a request body, like 4MiB.")]
MaxConnections = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Maximum number of open connections; further ones get 503.")
]
RequestTimeout = Annotated[
    float, typer.Option(min=1, help="Maximum time for a response in seconds; it is then cut off.")
]
ReceiveTimeout = Annotated[float, typer.Option(min=0.1, help="Maximum time in seconds for a request to arrive.")]
ShutdownTimeout = Annotated[
    float, typer.Option(min=0, help="Maximum time in seconds for running requests to finish after Ctrl-C or SIGTERM.")
]
LongChatsOption = Annotated[
    str,
    typer.Option(
        help="Chats longer than the context: drop-middle keeps the first message and the latest ones, drop-oldest "
        "only the latest ones, refuse answers with an error."
    ),
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(help="File that contains the API key; alternative to FABELLA_API_KEY.")
]
AllowedHost = Annotated[list[str] | None, typer.Option(help="Additional host name that requests may use; repeatable.")]
AllowedOrigin = Annotated[
    list[str] | None,
    typer.Option(help="Origin of a web page that may send requests, like http://localhost:3000; repeatable."),
]


def command(
    runs: Runs = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    max_batch_size: MaxBatchSize = _DEFAULTS.max_batch_size,
    max_queue_size: MaxQueueSize = _DEFAULTS.max_queue_size,
    max_tokens: MaxTokens = _DEFAULTS.max_tokens,
    max_prompt_tokens: MaxPromptTokens = _DEFAULTS.prompt_tokens,
    max_prompts: MaxPrompts = _DEFAULTS.prompts,
    max_n: MaxN = _DEFAULTS.n,
    max_messages: MaxMessages = _DEFAULTS.messages,
    max_stops: MaxStops = _DEFAULTS.stops,
    max_stop_length: MaxStopLength = _DEFAULTS.stop_characters,
    max_logprobs: MaxLogprobs = _DEFAULTS.log_probabilities,
    max_body_size: MaxBodySize = f"{_DEFAULTS.body_bytes // 2**20}MiB",
    max_connections: MaxConnections = _DEFAULTS.connections,
    request_timeout: RequestTimeout = _DEFAULTS.generation_timeout_seconds,
    receive_timeout: ReceiveTimeout = _DEFAULTS.receive_timeout_seconds,
    shutdown_timeout: ShutdownTimeout = _DEFAULTS.shutdown_timeout_seconds,
    long_chats: LongChatsOption = _DEFAULTS.long_chats,
    api_key_file: ApiKeyFile = None,
    allowed_host: AllowedHost = None,
    allowed_origin: AllowedOrigin = None,
    weights: WeightsOption = "trained",
    device: Device = "auto",
) -> None:
    key = _read_key(api_key_file)
    require_key(host, key)
    limits = Limits(
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        max_tokens=max_tokens,
        prompt_tokens=max_prompt_tokens,
        prompts=max_prompts,
        n=max_n,
        messages=max_messages,
        stops=max_stops,
        stop_characters=max_stop_length,
        log_probabilities=max_logprobs,
        body_bytes=parse_bytes(max_body_size),
        connections=max_connections,
        generation_timeout_seconds=request_timeout,
        receive_timeout_seconds=receive_timeout,
        shutdown_timeout_seconds=shutdown_timeout,
        long_chats=parse_long_chats(long_chats),
    )
    hosts, origins = [*LOOPBACK_NAMES, host, *(allowed_host or [])], require_origins(allowed_origin or [])
    load_served = partial(load, runs or [NAME], device=device, limits=limits, weights=weights)
    _serve(load_served, limits, address=(host, port), access=Access(hosts, origins, key))


def _serve(
    load_served: Callable[[], ServedModels], limits: Limits, *, address: tuple[str, int], access: Access
) -> None:
    host, port = address
    listener = bind(host, port)  # before loading, so that a used port is reported at once
    served = load_served()
    for model in served.models.values():
        for warning in model.generator.warnings:
            print_status(warning)
    url_host = f"[{host}]" if ":" in host else host
    url = f"http://{url_host}:{listener.getsockname()[1]}"
    print_status(f"Serving {', '.join(served.models)} at {url}; stop with Ctrl-C.")
    serve(application(served, limits, access), [listener], limits)


def _read_key(file: Path | None) -> str:
    """Return the API key from the file or the environment; an argument would be visible in the process list."""
    if file is None:
        return os.environ.get("FABELLA_API_KEY", "")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the API key from {file} ({error}).") from None
