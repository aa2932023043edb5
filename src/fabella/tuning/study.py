"""A search with Optuna: its storage is the truth; any number of processes and machines may work for it."""

import fcntl
import importlib
import json
import shutil
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError, LockedError, NumericsError, StorageError
from fabella.models.parameters import count
from fabella.run_config.files import to_yaml
from fabella.run_config.run import RunConfig
from fabella.storage import atomic_write, make_folders, storage_errors
from fabella.tuning import trials
from fabella.tuning.space import Space, apply_overrides, baseline_params, suggest

BEST = "best.yaml"
PRUNING_CHECKS = 8
"""Validations of a trial at which it may be given up."""
STARTING_TRIALS = 8
"""Tried at random before the search learns from them; none is given up before these are through."""
PRUNE_PERCENTILE, JUDGED_FROM_PERCENT = 75.0, 20
"""Given up is what is worse than so many of the trials were at the same place. Small batches and high rates begin
slowly: nobody is judged by the first part of a training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched, and where. ``storage``: any URL of Optuna's; empty: a file in ``out``. ``seeds``: trainings of
    each trial, with the seeds from the run's own upwards; the mean of their scores counts.
    """

    run: RunConfig
    space: Space
    prepared: TokenizedDataset
    out: Path
    storage: str = ""
    seed: int = 1
    seeds: int = 1
    device: str = "auto"

    @property
    def url(self) -> str:
        """Where Optuna keeps it."""
        return self.storage or f"sqlite:///{self.out.absolute() / 'study.db'}"


def optuna() -> Any:
    """The library. Raises ConfigError where it is not installed."""
    try:
        library = importlib.import_module("optuna")
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"fabella tune cannot search: Python has no module '{missing.name}'.",
            hint="Install it: pip install 'fabella[tune]'.",
        ) from None
    library.logging.set_verbosity(library.logging.WARNING)
    return library


def open_study(search: Search) -> Any:
    """The study, made where it is not there yet; going on, the space must be the same.

    Raises StorageError where its storage cannot be used or is locked, ConfigError where it is another search's.
    """
    library = optuna()
    with storage_errors(search.out, "making the folder of the search"):
        make_folders(search.out)
    pruner = library.pruners.PercentilePruner(PRUNE_PERCENTILE, STARTING_TRIALS, n_warmup_steps=JUDGED_FROM_PERCENT)
    with optuna_storage_errors(search.url), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = library.storages.RDBStorage(search.url, engine_kwargs=_waiting(search.url))
        study = library.create_study(study_name="fabella", storage=storage, pruner=pruner, load_if_exists=True)
        known = study.user_attrs.get("search")
        asked = _identity(search)
        if known is None:
            study.set_user_attr("search", asked)
            if same := baseline_params(search.run, search.space):
                study.enqueue_trial(same, user_attrs={"as it is": True})
        elif known != asked:
            raise ConfigError(
                f"{search.storage or search.out} holds another search: run, data or space differ.",
                hint="Choose another --out, or give the same run and space to go on.",
            )
    return study


def _waiting(url: str) -> dict[str, Any]:
    """SQLite: another process may hold the file for a moment."""
    return {"connect_args": {"timeout": 20}} if url.startswith("sqlite") else {}


def _identity(search: Search) -> str:
    space = {name: range_.model_dump(mode="json") for name, range_ in search.space.items()}
    run = search.run.model_dump(mode="json", exclude={"about", "name"})
    return json.dumps([run, space, search.prepared.fingerprint, search.seeds], sort_keys=True)


class optuna_storage_errors:  # noqa: N801 - read as a phrase in a with statement
    """What goes wrong in the storage, in words."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise ConfigError(
                f"The storage of the search lacks the driver of its database: {error.__cause__ or error}.",
                hint="Install that driver with pip, or leave --storage out: a file is used.",
            ) from error
        if error is None or not type(error).__module__.startswith(("optuna", "sqlalchemy")):
            return
        reason = str(getattr(error, "__cause__", None) or error).splitlines()[0][:200]
        locked = "locked" in reason
        place = f"The storage of the search, {self.url.split('@')[-1]},"  # what stands before an @ may be a password
        if locked:
            raise LockedError(f"{place} is locked.", hint="Wait for whoever holds it, or choose another --storage.")
        raise StorageError(f"{place} fails: {reason}.", hint="Check its address and place.") from error


def requeue_stale_trials(study: Any) -> int:
    """Put back trials whose process was killed; only while nobody else works for the study. How many there were."""
    library = optuna()
    running = _running(study)
    for trial in running:
        study.tell(trial.number, state=library.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return len(running)


def _running(study: Any) -> Sequence[Any]:
    return study.get_trials(deepcopy=False, states=(optuna().trial.TrialState.RUNNING,))


def work(
    search: Search,
    count_: int,
    *,
    alone: bool = True,
    abandoned: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Do trials until the study has ``count_`` that ended or are under way, by whomever, or nobody waits for them.

    ``alone``: no other process works for the study at the time.
    """
    library, study = optuna(), open_study(search)
    with optuna_storage_errors(search.url):
        while not abandoned():
            with _one_at_a_time(search.out):
                if len(ended(study)) + len(_running(study)) >= count_:
                    return
                study.sampler = _sampler(library, search.seed, len(study.get_trials(deepcopy=False)), alone=alone)
                trial = study.ask()
            try:
                study.tell(trial, _objective(search, trial, library, abandoned, report))
            except library.TrialPruned:
                study.tell(trial, state=library.trial.TrialState.PRUNED)
            except BaseException:
                study.tell(trial, state=library.trial.TrialState.FAIL)
                raise


@contextmanager
def _one_at_a_time(folder: Path) -> Generator[None]:
    """SQLite has no locks of rows: two processes that ask at once may be given the same trial."""
    with (folder / ".asking.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sampler(library: Any, seed: int, number: int, *, alone: bool) -> Any:
    """For the trial of that number; draws depend on seed and number, so that a search goes on as if never stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant_liar is called experimental
        return library.samplers.TPESampler(
            seed=(seed * 1_000_003 + number) % 2**32, n_startup_trials=STARTING_TRIALS, constant_liar=not alone
        )


def _objective(
    search: Search, trial: Any, library: Any, abandoned: Callable[[], bool], report: Callable[[str], None]
) -> float:
    """Train with what the trial suggests; its score, or the end of the trial where it is hopeless or impossible."""
    try:
        run = trials.as_trial(apply_overrides(search.run, suggest(search.space, trial)), PRUNING_CHECKS)
    except ConfigError as error:
        trial.set_user_attr("reason", str(error))
        raise library.TrialPruned from error
    trial.set_user_attr("parameters", count(run.model.parameters()))

    scores: list[float] = []

    def hopeless(step: int, score: float) -> bool:
        if scores:  # the first training alone is held against those of other trials
            return False
        share = round(100 * step / run.training.length.max_steps)  # pyright: ignore[reportAttributeAccessIssue]
        trial.report(score, share)
        return bool(trial.should_prune())

    try:
        for number, seeded in enumerate(trials.seeded(run, search.seeds)):
            out = search.out / "trials" / (f"{trial.number:05d}" + (f"-seed-{seeded.seed}" if number else ""))
            shutil.rmtree(out, ignore_errors=True)  # a killed one's
            scores.append(trials.train(seeded, out, search.prepared, hopeless, abandoned, device=search.device))
    except (trials.PrunedError, NumericsError) as error:
        trial.set_user_attr("reason", "hopeless" if isinstance(error, trials.PrunedError) else error.message)
        report(f"trial {trial.number}: given up")
        raise library.TrialPruned from error
    trial.set_user_attr("scores", scores)
    report(f"trial {trial.number}: {fmean(scores):.4f} bits per byte")
    return fmean(scores)


def best(search: Search, study: Any) -> tuple[RunConfig, Any]:
    """The best run, written as ``best.yaml`` into the folder of the search, and its trial.

    Raises StorageError where no trial came to its end.
    """
    library = optuna()
    complete = study.get_trials(deepcopy=False, states=(library.trial.TrialState.COMPLETE,))
    if not complete:
        raise StorageError(
            "No trial came to its end: there is no best one.", hint="Give more --trials, or shorter ones."
        )
    trial = min(complete, key=lambda one: (one.value, one.number))
    run = apply_overrides(search.run, suggest(search.space, library.trial.FixedTrial(trial.params)))
    atomic_write(search.out / BEST, to_yaml(run).encode())
    return run, trial


def ended(study: Any) -> Sequence[Any]:
    """The trials that came to an end, given up ones among them, in their order."""
    library = optuna()
    states = (library.trial.TrialState.COMPLETE, library.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)
