"""Train several model families of equal size on the same text and compare them.

Examples:
  fabella compare-architectures my-stories.txt --steps 500 --seeds 3         with 95 % intervals over three seeds
  fabella compare-architectures storybook-1m --match flops                   equal FLOPs per token
  fabella compare-architectures storybook-1m --size 400000 --layers 6        400,000 non-embedding parameters
  fabella compare-architectures storybook-1m --minutes 2                     equal time instead of equal steps
  fabella compare-architectures storybook-1m --families mingru_plain,llama,./mine_torch.py
  fabella compare-architectures storybook-1m --lr llama=5e-3,mingru=3e-3     or --lr-find: a rate for each family

The same command continues a comparison that was stopped, and adds families or seeds to a finished one.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, writable
from fabella.cli.text_options import ReadingOptions, TokenizerOptions, Words, expand_options, text_request
from fabella.errors import UsageError
from fabella.report.page import page
from fabella.report.run_history import read
from fabella.storage import atomic_write
from fabella.training.setup.prepare_request import fit_request, prepare_request
from fabella.training.setup.request import resolve_request
from fabella.tuning import compare as comparison
from fabella.tuning.compare import FamilyResult
from fabella.tuning.comparison_tables import draw_curves, text_table, to_csv, to_latex
from fabella.tuning.family_settings import with_found_rate, with_minutes, with_rates
from fabella.tuning.match_size import SizeTarget, matched_model, size_target

FAMILIES = "mingru_plain,mingru,gpt2,llama,hybrid"


@expand_options
def command(
    reading: ReadingOptions,
    tokenizing: TokenizerOptions,
    what: Annotated[str, typer.Argument(help="Preset, YAML config, or text.")],
    overrides: Words = None,
    data: Annotated[str, typer.Option(help="Text source, or directory of a prepared dataset.")] = "",
    families: Annotated[
        str, typer.Option(help="Model families, separated by commas: names, or paths to NAME_torch.py.")
    ] = FAMILIES,
    match: Annotated[
        str, typer.Option(help="What is equal: non-embedding (parameters), total (parameters), or flops (per token).")
    ] = "non-embedding",
    size: Annotated[
        int, typer.Option(help="How much of it each model has; by default as much as the model of the config.", min=0)
    ] = 0,
    tolerance: Annotated[float, typer.Option(help="Largest relative deviation from the size.")] = 0.02,
    layers: Annotated[int, typer.Option(help="Layers of each model; by default those of the config.", min=0)] = 0,
    lr: Annotated[
        str, typer.Option(help="Peak learning rate, or one per family: llama=5e-3,gpt2=2e-3; by default the config's.")
    ] = "",
    lr_find: Annotated[
        bool, typer.Option("--lr-find", help="Choose the learning rate of each family by short trainings.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Training runs per family, each with its own seed.", min=1)] = 1,
    steps: Annotated[int, typer.Option(help="Training steps per run; by default those of the config.", min=0)] = 0,
    minutes: Annotated[
        float,
        typer.Option(help="Training minutes per run instead of equal steps; by default steps are equal.", min=0.0),
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Directory of the runs.", callback=writable)] = Path("runs/architectures"),
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the config.")] = "",
    prepared: Annotated[Path, typer.Option(help="Directory of prepared datasets.", callback=writable)] = Path(
        "prepared"
    ),
    as_json: AsJson = False,
) -> None:
    if lr and lr_find:
        raise UsageError("--lr and --lr-find both set the learning rate.", hint="Leave out one of them.")
    request = resolve_request(text_request(what, overrides, reading, tokenizing, data=data, engine=engine, steps=steps))
    names = list(dict.fromkeys(family.strip() for family in families.split(",") if family.strip()))
    target = size_target(request.run, match, size, layers, tolerance)
    runs = with_rates([matched_model(request.run, family, target) for family in names], lr)
    ids = prepare_request(request, prepared)
    fitted = fit_request(request, ids)
    runs = [run.model_copy(update={"data": fitted.data}) for run in runs]
    if lr_find:
        runs = [with_found_rate(run, ids, comparison.run_dirs(run, out, 1)[0], device) for run in runs]
    if minutes:
        runs = [with_minutes(run, minutes, comparison.run_dirs(run, out, 1)[0], device) for run in runs]
    results = comparison.compare(runs, ids, out, seeds=seeds, device=device)
    source = "found by --lr-find" if lr_find else "given by --lr" if lr else "the config's for all"
    _finish(results, target, out, f"Learning rates: {source}.", as_json=as_json)


def _finish(results: list[FamilyResult], target: SizeTarget, out: Path, rates: str, *, as_json: bool) -> None:
    """Write the report, CSV, LaTeX and plot, and print the table."""
    seeds = len(results[0].runs)
    intervals = f"± is a 95 % t interval over {seeds} seeds." if seeds > 1 else "One seed: no interval is known."
    caption = f"Models of {target}. {rates} {intervals}"
    files = {
        "compare.html": page([read(run.run_dir) for result in results for run in result.runs]).encode(),
        "compare.csv": to_csv(results).encode(),
        "compare.tex": to_latex(results, caption).encode(),
        "compare.png": draw_curves(results),
    }
    for name, content in files.items():
        atomic_write(out / name, content)
    if as_json:
        compared = [_to_json(result) for result in results]
        print_json({
            "match": target.measure, "size": target.size, "tolerance": target.tolerance, "learning_rates": rates,
            "compared": compared, "page": str(out / "compare.html"), "csv": str(out / "compare.csv"),
            "latex": str(out / "compare.tex"), "plot": str(out / "compare.png"),
        })  # fmt: skip
        return
    print_result("\n".join(text_table(results)))
    print_status(f"{caption} All runs use the same text, tokenizer, sequences, batch size and optimizer settings.")
    print_status(
        "'gap to best' compares runs of equal seed; 'seeds to decide' is how many a gap of this size needs. Memory is "
        "an estimate for training."
    )
    print_result(f"Files: {', '.join(str(out / name) for name in files)}")


def _to_json(result: FamilyResult) -> dict[str, Any]:
    return asdict(result) | {
        "runs": [asdict(run) | {"run_dir": str(run.run_dir)} for run in result.runs],
        "bits_per_byte": asdict(result.bits_per_byte),
        "loss": asdict(result.loss),
        "rule": result.runs[0].rule,
        "tokens": result.runs[0].tokens,
        "steps": result.runs[0].steps,
    }
