"""Search for better settings with Optuna, and show what was found; or test learning rates.

Examples:
  fabella tune storybook-1m --trials 20 --workers 2         writes tuned/storybook-1m/best.yaml and tune.html
  fabella tune my-stories.txt --trials 20 --steps 200       the same command again goes on with more --trials
  fabella tune storybook-1m --seeds 3                       judges a trial by the mean of three trainings
  fabella tune storybook-1m --parameters 1200000            tries shapes of the model, too
  fabella tune storybook-1m --space space.yaml              optimizer.lr: {kind: log, low: 1e-4, high: 1e-2}
  fabella tune storybook-1m --storage postgresql://…        with workers on several machines
  fabella tune storybook-1m --lr-find                       a short training with a rising rate
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.cli.output import print_json, print_result, print_status
from fabella.config.training import Epochs
from fabella.data.dataset import TokenizedDataset
from fabella.report.run_history import settings
from fabella.storage import atomic_write, make_folders, storage_errors
from fabella.tracking.prepare_progress import PrepareProgressLine, print_notes
from fabella.training.run import resolve_config
from fabella.training.setup.request import TrainRequest, prepare_data, resolve_request
from fabella.tuning.lr_range_test import lr_range_test, rate_page
from fabella.tuning.search_page import importance, in_words, page
from fabella.tuning.space import default_space, read_space
from fabella.tuning.study import BEST, Search, best, ended, optuna
from fabella.tuning.workers import search_together


def command(
    what: Annotated[str, typer.Argument(help="A preset, a .yaml config, or a text.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings, as section.key=value.")] = None,
    data: Annotated[str, typer.Option(help="A source of text, or a prepared folder.")] = "",
    steps: Annotated[int, typer.Option(help="Optimizer steps of a trial; 0: as the config says.", min=0)] = 0,
    trials: Annotated[int, typer.Option(help="In all, those of earlier commands among them.", min=1)] = 20,
    workers: Annotated[int, typer.Option(help="Processes that do trials side by side.", min=1)] = 1,
    space: Annotated[Path | None, typer.Option(help="A .yaml file with what to search.")] = None,
    parameters: Annotated[
        int, typer.Option(help="Try shapes of the model up to this size; 0: only its own.", min=0)
    ] = 0,
    storage: Annotated[str, typer.Option(help="Optuna's storage; usually a file in the folder.")] = "",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 1,
    seeds: Annotated[int, typer.Option(help="Trainings of a trial, each with a seed of its own.", min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="The folder of the search; usually tuned/NAME.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually as the config says.")] = "",
    prepared: Annotated[Path, typer.Option(help="Where prepared data is kept.")] = Path("prepared"),
    lr_find: Annotated[bool, typer.Option("--lr-find", help="Test learning rates instead, in 100 steps.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    if not lr_find:
        optuna()  # whether it is there, before text is prepared
    planned = resolve_request(
        TrainRequest(what=what, data=data, engine=engine, steps=steps, overrides=tuple(overrides or ()))
    )
    ids = planned.prepared
    if ids is None:
        with PrepareProgressLine() as line:
            ids = prepare_data(planned.run, prepared, progress=line)
        print_notes(ids.manifest)
    run = resolve_config(planned.run, ids) if isinstance(planned.run.training.length, Epochs) else planned.run
    folder = out or Path("tuned") / run.name
    if lr_find:
        _find_rate(run, ids, folder, steps or 100, device, as_json=as_json)
        return
    searched = read_space(space, run) if space else default_space(run, parameters)
    search = Search(
        run=run, space=searched, prepared=ids, out=folder, storage=storage, seed=seed, seeds=seeds, device=device
    )
    study = search_together(search, trials, workers, _say)
    _finish(search, study, as_json=as_json)


def _say(trial: Any) -> None:
    score = f"{trial.value:.4f} bits per byte" if trial.state.name == "COMPLETE" else "given up"
    print_status(f"trial {trial.number}: {score}")


def _finish(search: Search, study: Any, *, as_json: bool) -> None:
    run, trial = best(search, study)
    before, after = settings(search.run), settings(run)
    changed = {name: (before.get(name, ""), after[name]) for name in after if after[name] != before.get(name)}
    atomic_write(search.out / "tune.html", page(study, f"Tuning of {search.run.name}", changed).encode())
    if as_json:
        print_json(
            {
                "trial": trial.number,
                "bits_per_byte": trial.value,
                "settings": {name: after[name] for name in changed},
                "importance": importance(study),
                "config": str(search.out / BEST),
                "page": str(search.out / "tune.html"),
            }
        )
        return
    print_result(f"The best of {len(ended(study))} trials is number {trial.number}: {trial.value:.4f} bits per byte.")
    for name, (old, new) in changed.items():
        print_result(f"  {name}: {in_words(old)} → {in_words(new)}")
    print_result(f"Train with it:  fabella train {search.out / BEST}")
    print_result(f"What was tried: {search.out / 'tune.html'}")


def _find_rate(run: Any, ids: TokenizedDataset, folder: Path, steps: int, device: str, *, as_json: bool) -> None:
    found = lr_range_test(run, ids, steps=steps, device=device)
    with storage_errors(folder, "making the folder of the search"):
        make_folders(folder)
    target = folder / "lr-find.html"
    atomic_write(target, rate_page(found, f"Learning rates of {run.name}").encode())
    if as_json:
        print_json(
            {"lr": found.suggested, "rates": list(found.rates), "losses": list(found.losses), "page": str(target)}
        )
        return
    print_result(f"The loss fell fastest before, and was lowest at a rate of {found.lowest:.2g}.")
    print_result(f"Try: optimizer.lr={found.suggested:.2g}   ({target})")
