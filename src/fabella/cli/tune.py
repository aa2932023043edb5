"""Search for better settings with Optuna, or test learning rates.

Examples:
  fabella tune storybook-1m --trials 20 --workers 2         writes tuned/storybook-1m/best.yaml and tune.html
  fabella tune my-stories.txt --trials 20 --steps 200       run it again with more --trials to continue the search
  fabella tune storybook-1m --seeds 3                       scores a trial by the mean of three training runs
  fabella tune storybook-1m --parameters 1200000            also searches model shapes
  fabella tune storybook-1m --space space.yaml              optimizer.lr: {kind: log, low: 1e-4, high: 1e-2}
  fabella tune storybook-1m --storage postgresql://…        with workers on several machines
  fabella tune storybook-1m --lr-find --steps 200           find the learning rate by short trainings of 200 steps
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, writable
from fabella.cli.text_options import ReadingOptions, TokenizerOptions, Words, expand_options, text_request
from fabella.data.dataset import TokenizedDataset
from fabella.report.run_history import settings
from fabella.storage import atomic_write, make_dirs, storage_errors
from fabella.training.setup.prepare_request import fit_request, prepare_request
from fabella.training.setup.request import resolve_request
from fabella.training.setup.resolve_config import resolve_config
from fabella.tuning.lr_search import find_rate, rate_page
from fabella.tuning.search_page import format_setting, importance, search_page
from fabella.tuning.space import default_space, read_space
from fabella.tuning.study import BEST, Search, best, finished, optuna
from fabella.tuning.workers import search_in_parallel

LR_FIND_STEPS = 200
"""Steps of each training of --lr-find without --steps: enough for every preset to be far below the loss of guessing."""


@expand_options
def command(
    reading: ReadingOptions,
    tokenizing: TokenizerOptions,
    what: Annotated[str, typer.Argument(help="Preset, YAML config, or text.")],
    overrides: Words = None,
    data: Annotated[str, typer.Option(help="Text source, or a directory of prepared data.")] = "",
    steps: Annotated[
        int, typer.Option(help="Training steps per trial; by default the length of the config.", min=0)
    ] = 0,
    trials: Annotated[int, typer.Option(help="Number of trials, including those of earlier commands.", min=1)] = 20,
    workers: Annotated[int, typer.Option(help="Number of processes that run trials.", min=1)] = 1,
    space: Annotated[Path | None, typer.Option(help="YAML file with the search space.")] = None,
    parameters: Annotated[
        int,
        typer.Option(
            help="Also search model shapes up to this number of parameters; by default the shape stays.", min=0
        ),
    ] = 0,
    storage: Annotated[str, typer.Option(help="URL of an Optuna storage; by default a file in --out.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the search.")] = 1,
    seeds: Annotated[int, typer.Option(help="Training runs per trial, each with its own seed.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Search directory; default: tuned/NAME.", callback=writable)] = None,
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Engine: torch or jax; by default that of the config.")] = "",
    prepared: Annotated[Path, typer.Option(help="Directory for prepared data.", callback=writable)] = Path("prepared"),
    lr_find: Annotated[
        bool, typer.Option("--lr-find", help="Find the learning rate by short trainings instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    if not lr_find:
        optuna()  # a missing package is an error before text is prepared
    planned = resolve_request(text_request(what, overrides, reading, tokenizing, data=data, engine=engine, steps=steps))
    dataset = prepare_request(planned, prepared)
    run = fit_request(planned, dataset)
    run = resolve_config(run, dataset)
    directory = out or Path("tuned") / run.name
    if lr_find:
        _find_rate(run, dataset, directory, steps or LR_FIND_STEPS, device, as_json=as_json)
        return
    search_space = read_space(space, run) if space else default_space(run, parameters)
    search = Search(
        run=run,
        space=search_space,
        prepared=dataset,
        out=directory,
        storage=storage,
        seed=seed,
        seeds=seeds,
        device=device,
    )
    study = search_in_parallel(search, trials, workers, partial(_print_trial, search.rule))
    _finish(search, study, as_json=as_json)


def _print_trial(rule: str, trial: Any) -> None:
    score = f"{trial.value:.4f} bits per byte ({rule})" if trial.state.name == "COMPLETE" else "pruned"
    print_status(f"trial {trial.number}: {score}")


def _finish(search: Search, study: Any, *, as_json: bool) -> None:
    run, trial = best(search, study)
    before, after = settings(search.run), settings(run)
    changed = {name: (before.get(name, ""), after[name]) for name in after if after[name] != before.get(name)}
    atomic_write(
        search.out / "tune.html", search_page(study, f"Tuning of {search.run.name}", changed, rule=search.rule).encode()
    )
    if as_json:
        print_json(
            {
                "trial": trial.number,
                "bits_per_byte": trial.value,
                "rule": search.rule,
                "settings": {name: after[name] for name in changed},
                "importance": importance(study),
                "config": str(search.out / BEST),
                "page": str(search.out / "tune.html"),
            }
        )
        return
    score = f"{trial.value:.4f} bits per byte ({search.rule})"
    print_result(f"Best of {len(finished(study))} trials: number {trial.number}, {score}.")
    for name, (old, new) in changed.items():
        print_result(f"  {name}: {format_setting(old)} → {format_setting(new)}")
    print_result(f"Train with it:  fabella train {search.out / BEST}")
    print_result(f"All trials:     {search.out / 'tune.html'}")


def _find_rate(run: Any, dataset: TokenizedDataset, directory: Path, steps: int, device: str, *, as_json: bool) -> None:
    result = find_rate(run, dataset, steps=steps, device=device, report=print_status)
    with storage_errors(directory, "creating the directory of the search"):
        make_dirs(directory)
    target = directory / "lr-find.html"
    atomic_write(target, rate_page(result, f"Learning rates of {run.name}").encode())
    low, high = result.interval
    if as_json:
        print_json({
            "lr": result.suggested, "low": low, "high": high, "steps": steps, "rates": list(result.losses),
            "losses": list(result.losses.values()), "page": str(target),
        })  # fmt: skip
        return
    print_result(f"Try: --lr {result.suggested:.2g}   ({target})")
    print_result(
        f"In trainings of {steps:,} steps it was better than {low:.2g} and {high:.2g}: the best is between them."
    )
    print_result("A much longer training prefers the lower half of this interval.")
