"""Write a report of one or several runs: one HTML page with curves, samples, settings and evaluation.

Examples:
  fabella report runs/quickstart                      writes runs/quickstart/report.html
  fabella report runs/one runs/two --output both.html
  fabella report runs/one --png plots --x-axis tokens
  fabella report runs/seed1 runs/seed2 --pdf plots    curves for a paper; runs that differ only in the seed get a mean
  fabella report runs/one --live                      serves a page that follows the training; Ctrl-C ends it
  fabella report runs/one --terminal                  follows the training in the terminal
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_result, print_status
from fabella.cli.run_options import writable
from fabella.errors import UsageError
from fabella.report import live_server as serving
from fabella.report.page import write_page
from fabella.report.plots import draw
from fabella.report.published_curves import to_published_curve
from fabella.report.run_history import X_AXES, read
from fabella.report.terminal_view import follow
from fabella.storage import write_json


def command(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="HTML file to write; by default report.html in the first run.", callback=writable
        ),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Directory for the curves as PNG files.", callback=writable)] = None,
    svg: Annotated[Path | None, typer.Option(help="Directory for the curves as SVG files.", callback=writable)] = None,
    pdf: Annotated[Path | None, typer.Option(help="Directory for the curves as PDF files.", callback=writable)] = None,
    x_axis: Annotated[
        str, typer.Option(help="Horizontal axis of the PNG, SVG and PDF files: step, tokens, seconds or flops.")
    ] = "step",
    live: Annotated[
        bool, typer.Option("--live", help="Serve the page on this machine only and follow the runs.")
    ] = False,
    port: Annotated[int, typer.Option(help="Port of --live; 0 for any free one.", min=0, max=65535)] = 8642,
    terminal: Annotated[bool, typer.Option("--terminal", help="Follow one run in the terminal.")] = False,
    curve: Annotated[
        Path | None,
        typer.Option(help="Write the run as the published curve of its preset to this JSON file.", callback=writable),
    ] = None,
) -> None:
    if x_axis not in X_AXES:
        raise UsageError(f"Unknown --x-axis '{x_axis}'.", hint=f"Choose from: {', '.join(X_AXES)}.")
    if (terminal or curve) and len(runs) > 1:
        raise UsageError(f"Expected one run with --terminal or --curve, got {len(runs)}.", hint="Give one run.")
    if terminal:
        follow(runs[0])
    elif live:
        _serve(runs, port)
    elif curve:
        write_json(curve, to_published_curve(read(runs[0]), time.strftime("%Y-%m-%d")))
        print_result(str(curve))
    else:
        _write(runs, output or runs[0] / "report.html", {"png": png, "svg": svg, "pdf": pdf}, x_axis)


def _write(runs: list[Path], output: Path, directories: Mapping[str, Path | None], x_axis: str) -> None:
    histories = [read(run) for run in runs]
    print_result(str(write_page(histories, output)))
    for kind, directory in directories.items():
        for path in draw(histories, directory, x_axis, kind) if directory else ():
            print_result(str(path))


def _serve(runs: list[Path], port: int) -> None:
    for run in runs:
        read(run)  # errors appear here, not in the browser
    with serving.server(runs, port) as server:
        print_status(f"Following at http://{serving.HOST}:{server.server_port}/ - Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print_status("Stopped.")
