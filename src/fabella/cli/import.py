"""Import a model of another format as a run: generate, evaluate, serve and fine-tune it like any other.

Reads Hugging Face folders (Llama, Qwen, GPT-2, GPT-Neo, GPT-NeoX; safetensors), .gguf files and .bin files of
llama2.c. Code in a folder is never executed, and pickles are never read.

Examples:
  fabella import ~/models/SmolLM2-135M-Instruct --out runs/smollm
  fabella import stories15M.bin --out runs/stories15m
  fabella generate runs/smollm "Once upon a time"
"""

from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.cli.run_options import AsJson, writable
from fabella.interop.import_model import ImportResult, import_model
from fabella.storage.messages import escaped_path


def command(
    path: Annotated[Path, typer.Argument(help="Hugging Face folder, .gguf file, or .bin file of llama2.c.")],
    out: Annotated[
        Path | None, typer.Option(help="New run directory; by default runs/NAME.", callback=writable)
    ] = None,
    as_json: AsJson = False,
) -> None:
    result = import_model(path, out=out or "", report=print_status)
    print_report(result, lines, as_json=as_json)


def lines(result: ImportResult) -> list[str]:
    """Format the result as text."""
    run = escaped_path(result.path)
    return [
        f"{run}: family {result.family}, {result.parameters:,} parameters, context length {result.context_length:,}.",
        f"  source     {result.source}",
        f"  tokenizer  {result.tokenizer}",
        f'Generate text with:  fabella generate {run} "Once upon a time"',
    ]
