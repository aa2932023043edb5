"""Show a run, or several side by side, on one page that needs no network: curves, samples, settings, evaluation.

Examples:
  fabella report runs/quickstart                      writes runs/quickstart/report.html
  fabella report runs/one runs/two --output both.html
  fabella report runs/one --png pictures --against tokens
  fabella report runs/one --live                      a page that follows the training; Ctrl-C ends it
  fabella report runs/one --terminal                  the same in the terminal
"""

import time
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import say, show
from fabella.errors import UsageError
from fabella.report import live_server as serving
from fabella.report.page import page
from fabella.report.png import draw
from fabella.report.published_curves import as_reference
from fabella.report.run_history import AGAINST, read
from fabella.report.terminal_view import watch
from fabella.storage import write_file, write_json


def command(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .html file to write.")] = None,
    png: Annotated[Path | None, typer.Option(help="A folder for the curves as PNG files.")] = None,
    against: Annotated[str, typer.Option(help="Of the PNG files: step, tokens, seconds or flops.")] = "step",
    live: Annotated[bool, typer.Option("--live", help="Serve the page on this machine, and follow the runs.")] = False,
    port: Annotated[int, typer.Option(help="Of --live; 0: any that is free.", min=0, max=65535)] = 8642,
    terminal: Annotated[bool, typer.Option("--terminal", help="Follow one run here instead.")] = False,
    curve: Annotated[
        Path | None, typer.Option(help="Write the run as a reference curve of its preset: a .json file.")
    ] = None,
) -> None:
    if against not in AGAINST:
        raise UsageError(f"--against {against} is none.", fix=f"Choose from: {', '.join(AGAINST)}.")
    if (terminal or curve) and len(runs) > 1:
        raise UsageError(f"{len(runs)} runs were given where one can be shown.", fix="Give one run.")
    if terminal:
        watch(runs[0])
    elif live:
        _serve(runs, port)
    elif curve:
        kept = as_reference(read(runs[0]), time.strftime("%Y-%m-%d"))
        write_json(curve, kept)
        show(str(curve))
    else:
        _write(runs, output or runs[0] / "report.html", png, against)


def _write(runs: list[Path], output: Path, png: Path | None, against: str) -> None:
    histories = [read(run) for run in runs]
    write_file(output, page(histories).encode())
    show(str(output))
    if png:
        for path in draw(histories, png, against):
            show(str(path))


def _serve(runs: list[Path], port: int) -> None:
    for run in runs:
        read(run)  # what is wrong is told here, not in the browser
    with serving.server(runs, port) as server:
        say(f"Following at http://{serving.HOST}:{server.server_port}/ - Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("Ended.")
