"""Serve models over HTTP: an OpenAI-compatible API and a page to write stories with.

Examples:
  fabella serve runs/quickstart                                  then open http://127.0.0.1:8000
  fabella serve runs/quickstart@200 runs/quickstart@latest       two checkpoints, compared on the page
  fabella serve runs/a runs/b --port 8080
  FABELLA_API_KEY=… fabella serve runs/a --host 0.0.0.0          for other machines; requires the API key
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_status
from fabella.cli.run_options import Device
from fabella.errors import UsageError

try:
    from fabella.server.app import LOOPBACK_NAMES, application
    from fabella.server.http_server import bind, require_key, serve
    from fabella.server.limits import Limits
    from fabella.server.served_models import load
except ModuleNotFoundError as missing:
    if missing.name not in {"starlette", "uvicorn", "h11", "prometheus_client"}:
        raise
    raise UsageError(
        f"fabella serve needs the package '{missing.name}', which is not installed.",
        hint="Install the extra: pip install 'fabella[serve]'",
    ) from None

_DEFAULTS = Limits()


def command(
    runs: Annotated[list[str], typer.Argument(help="Run directories; RUN@STEP or RUN@latest selects a checkpoint.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on; only this machine can reach 127.0.0.1.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")] = 8000,
    max_batch_size: Annotated[
        int,
        typer.Option(min=1, max=1024, help="Maximum number of sequences decoded in one batch (vLLM: --max-num-seqs)."),
    ] = _DEFAULTS.max_batch_size,
    max_queue_size: Annotated[
        int, typer.Option(min=0, max=100_000, help="Maximum number of queued sequences; further requests get 429.")
    ] = _DEFAULTS.max_queue_size,
    max_tokens: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Maximum number of new tokens per completion.")
    ] = _DEFAULTS.max_tokens,
    request_timeout: Annotated[
        float, typer.Option(min=1, help="Maximum time for a response in seconds; it is then cut off.")
    ] = _DEFAULTS.generation_timeout_seconds,
    api_key_file: Annotated[
        Path | None, typer.Option(help="File that contains the API key; alternative to FABELLA_API_KEY.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Additional host name that requests may use; repeatable.")
    ] = None,
    device: Device = "auto",
) -> None:
    key = _read_key(api_key_file)
    require_key(host, key)
    limits = Limits(
        max_batch_size=max_batch_size,
        max_queue_size=max_queue_size,
        max_tokens=max_tokens,
        generation_timeout_seconds=request_timeout,
    )
    listener = bind(host, port)  # before loading, so that a used port is reported at once
    served = load(runs, device=device, limits=limits)
    for model in served.models.values():
        for warning in model.generator.warnings:
            print_status(warning)
    app = application(served, limits, hosts=[*LOOPBACK_NAMES, host, *(allowed_host or [])], key=key)
    url_host = f"[{host}]" if ":" in host else host
    address = f"http://{url_host}:{listener.getsockname()[1]}"
    print_status(f"Serving {', '.join(served.models)} at {address}; stop with Ctrl-C.")
    serve(app, [listener], limits)


def _read_key(file: Path | None) -> str:
    """Return the API key from the file or the environment; an argument would be visible in the process list."""
    if file is None:
        return os.environ.get("FABELLA_API_KEY", "")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the API key from {file} ({error}).") from None
