"""Tell stories over HTTP: a page to play on, and an API that OpenAI's clients know.

Examples:
  fabella serve runs/quickstart                                  then open http://127.0.0.1:8000
  fabella serve runs/quickstart@200 runs/quickstart@latest       two checkpoints, side by side on the page
  fabella serve runs/a runs/b --port 8080
  FABELLA_API_KEY=… fabella serve runs/a --host 0.0.0.0          for other machines; the key is then a must
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_status
from fabella.errors import UsageError

try:
    from fabella.server.app import LOOPBACK_NAMES, application
    from fabella.server.http_server import bind, require_key, serve
    from fabella.server.limits import Limits
    from fabella.server.served_models import load
except ModuleNotFoundError as missing:
    if missing.name not in {"starlette", "uvicorn", "h11"}:
        raise
    raise UsageError(
        f"fabella serve needs the package '{missing.name}', which is not installed.",
        hint="Install the extra: pip install 'fabella[serve]'",
    ) from None

_USUAL = Limits()


def command(
    runs: Annotated[list[str], typer.Argument(help="Folders of runs; RUN@STEP or RUN@latest names a checkpoint.")],
    host: Annotated[str, typer.Option(help="Where to listen; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    together: Annotated[int, typer.Option(min=1, max=1024, help="Texts told side by side.")] = _USUAL.max_batch_size,
    waiting: Annotated[int, typer.Option(min=0, max=100_000, help="Texts that may wait.")] = _USUAL.max_queue_size,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most tokens a text.")] = _USUAL.max_tokens,
    seconds: Annotated[
        float, typer.Option(min=1, help="Longest time for one answer.")
    ] = _USUAL.generation_timeout_seconds,
    requests_per_minute: Annotated[float, typer.Option(min=0, help="Of one client; 0: no limit.")] = 0.0,
    api_key_file: Annotated[Path | None, typer.Option(help="A file with the API key; or set FABELLA_API_KEY.")] = None,
    allowed_host: Annotated[list[str] | None, typer.Option(help="A name the server may be called by.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
) -> None:
    key = _key(api_key_file)
    require_key(host, key)
    limits = Limits(
        max_batch_size=together,
        max_queue_size=waiting,
        max_tokens=max_tokens,
        generation_timeout_seconds=seconds,
        requests_per_minute=requests_per_minute,
    )
    listening = bind(host, port)  # first of all: nobody waits for a model to hear that the port is taken
    shelf = load(runs, device=device, limits=limits)
    for model in shelf.models.values():
        for remark in model.teller.remarks:
            print_status(remark)
    app = application(shelf, limits, hosts=[*LOOPBACK_NAMES, host, *(allowed_host or [])], key=key)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    print_status(f"Telling stories with {', '.join(shelf.models)} at {address}; Ctrl-C ends it.")
    serve(app, [listening], limits)


def _key(file: Path | None) -> str:
    """Never an argument: those stand in the list of processes."""
    if file is None:
        return os.environ.get("FABELLA_API_KEY", "")
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The API key cannot be read from {file} ({error}).") from None
