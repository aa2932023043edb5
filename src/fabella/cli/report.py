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

from fabella.cli.output import print_result, print_status
from fabella.errors import UsageError
from fabella.report import live_server as serving
from fabella.report.page import page
from fabella.report.png import draw_png
from fabella.report.published_curves import as_reference
from fabella.report.run_history import X_AXES, read
from fabella.report.terminal_view import follow
from fabella.storage import atomic_write, write_json


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
    if against not in X_AXES:
        raise UsageError(f"--against {against} is none.", hint=f"Choose from: {', '.join(X_AXES)}.")
    if (terminal or curve) and len(runs) > 1:
        raise UsageError(f"{len(runs)} runs were given where one can be shown.", hint="Give one run.")
    if terminal:
        follow(runs[0])
    elif live:
        _serve(runs, port)
    elif curve:
        kept = as_reference(read(runs[0]), time.strftime("%Y-%m-%d"))
        write_json(curve, kept)
        print_result(str(curve))
    else:
        _write(runs, output or runs[0] / "report.html", png, against)


def _write(runs: list[Path], output: Path, png: Path | None, against: str) -> None:
    histories = [read(run) for run in runs]
    atomic_write(output, page(histories).encode())
    print_result(str(output))
    if png:
        for path in draw_png(histories, png, against):
            print_result(str(path))


def _serve(runs: list[Path], port: int) -> None:
    for run in runs:
        read(run)  # what is wrong is told here, not in the browser
    with serving.server(runs, port) as server:
        print_status(f"Following at http://{serving.HOST}:{server.server_port}/ - Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print_status("Ended.")
