"""Hyperparameter search with Optuna; all state is in its storage, shared by any number of processes and machines."""

import importlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fabella.config.scoring import validation_rule
from fabella.data.dataset import TokenizedDataset
from fabella.errors import ConfigError, LockedError, NumericsError, StorageError
from fabella.models.parameters import count
from fabella.run_config.files import to_yaml
from fabella.run_config.run import RunConfig
from fabella.storage import atomic_write, make_dirs, storage_errors
from fabella.storage.lock import lock_dir
from fabella.tuning import trials
from fabella.tuning.space import Space, apply_overrides, baseline_params, max_steps, suggest

BEST = "best.yaml"
PRUNING_CHECKS = 8
"""Validations of a trial; it may be pruned at each of them but the last."""
STARTUP_TRIALS = 8
"""Random trials before the sampler learns from earlier ones and before any trial is pruned."""
PRUNE_PERCENTILE, PRUNE_FROM_PERCENT = 75.0, 20
"""A trial is pruned if its score is above this percentile of the other trials at the same share of their steps. Small
batches and high rates start slowly, so the first 20 % of the steps do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Search of the settings of ``run`` over ``space``, in the directory ``out``.

    ``storage``: URL of an Optuna storage; empty for a file in ``out``. ``seeds``: training runs per trial, with the
    seed of the run and those after it; the mean of their scores counts.
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
    def rule(self) -> str:
        """Name of the rule by which all trials are scored: that of the run's validation."""
        return validation_rule(self.run.data.sequences).name

    @property
    def url(self) -> str:
        """URL of the Optuna storage."""
        return self.storage or f"sqlite:///{self.out.absolute() / 'study.db'}"


def optuna() -> Any:
    """Import Optuna. Raises ConfigError if it is not installed."""
    try:
        library = importlib.import_module("optuna")
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"fabella tune needs the Python module '{missing.name}'.",
            hint="Install it: pip install 'fabella[tune]'.",
        ) from None
    library.logging.set_verbosity(library.logging.WARNING)
    return library


def open_study(search: Search) -> Any:
    """Open the study of a search, or create it.

    Raises StorageError if its storage fails, LockedError if it is locked, ConfigError if it has another search.
    """
    library = optuna()
    with storage_errors(search.out, "creating the directory of the search"):
        make_dirs(search.out)
    pruner = library.pruners.PercentilePruner(PRUNE_PERCENTILE, STARTUP_TRIALS, n_warmup_steps=PRUNE_FROM_PERCENT)
    with optuna_storage_errors(search.url), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = library.storages.RDBStorage(search.url, engine_kwargs=_engine_options(search.url))
        study = library.create_study(study_name="fabella", storage=storage, pruner=pruner, load_if_exists=True)
        stored, identity = study.user_attrs.get("search"), _identity(search)
        if stored is None:
            study.set_user_attr("search", identity)
            if params := baseline_params(search.run, search.space):
                study.enqueue_trial(params, user_attrs={"baseline": True})
        elif stored != identity:
            raise ConfigError(
                f"{search.storage or search.out} contains another search: its run, dataset or space differs.",
                hint="Choose another --out, or continue with the same run and space.",
            )
    return study


def _engine_options(url: str) -> dict[str, Any]:
    """Let SQLite wait up to 20 seconds for another process that has locked the file."""
    return {"connect_args": {"timeout": 20}} if url.startswith("sqlite") else {}


def _identity(search: Search) -> str:
    space = {name: range_.model_dump(mode="json") for name, range_ in search.space.items()}
    run = search.run.model_dump(mode="json", exclude={"about", "name"})
    return json.dumps([run, space, search.prepared.fingerprint, search.seeds], sort_keys=True)


class optuna_storage_errors:  # noqa: N801 - read as a phrase in a with statement
    """Context manager that turns errors of an Optuna storage into Fabella's."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImportError):
            raise ConfigError(
                f"The storage of the search needs the driver of its database: {error.__cause__ or error}.",
                hint="Install the driver with pip, or omit --storage to use a file.",
            ) from error
        if error is None or not type(error).__module__.startswith(("optuna", "sqlalchemy")):
            return
        reason = str(getattr(error, "__cause__", None) or error).splitlines()[0][:200]
        storage = f"The storage of the search, {self.url.split('@')[-1]},"  # a password may precede the @
        if "locked" in reason:
            raise LockedError(
                f"{storage} is locked.", hint="Wait until the other process releases it, or choose another --storage."
            )
        raise StorageError(f"{storage} fails: {reason}.", hint="Check its address and its permissions.") from error


def requeue_stale_trials(study: Any) -> int:
    """Queue the trials of killed processes again and return their number; no other process may use the study."""
    library = optuna()
    stale = _running(study)
    for trial in stale:
        study.tell(trial.number, state=library.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return len(stale)


def _running(study: Any) -> Sequence[Any]:
    return study.get_trials(deepcopy=False, states=(optuna().trial.TrialState.RUNNING,))


def work(
    search: Search,
    max_trials: int,
    *,
    single_process: bool = True,
    abandoned: Callable[[], bool] = lambda: False,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Run trials until ``max_trials`` of any process have finished or are running, or until ``abandoned()``.

    ``single_process``: no other process runs trials of the study at the same time.
    """
    library, study = optuna(), open_study(search)
    trials_dir = search.out / "trials"
    with storage_errors(trials_dir, "creating the directory of the trials"):
        make_dirs(trials_dir)
    with optuna_storage_errors(search.url):
        while not abandoned():
            # SQLite has no row locks: two processes that ask at once may get the same trial.
            with lock_dir(trials_dir, what="the trials in", blocking=True):
                if len(finished(study)) + len(_running(study)) >= max_trials:
                    return
                number = len(study.get_trials(deepcopy=False))
                study.sampler = _sampler(library, search.seed, number, single_process=single_process)
                trial = study.ask()
            try:
                study.tell(trial, _objective(search, trial, library, abandoned, report))
            except library.TrialPruned:
                study.tell(trial, state=library.trial.TrialState.PRUNED)
            except BaseException:
                study.tell(trial, state=library.trial.TrialState.FAIL)
                raise


def _sampler(library: Any, seed: int, number: int, *, single_process: bool) -> Any:
    """Return the sampler of trial ``number``; seeded per trial, so that a resumed search draws the same values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant_liar is experimental
        return library.samplers.TPESampler(
            seed=(seed * 1_000_003 + number) % 2**32, n_startup_trials=STARTUP_TRIALS, constant_liar=not single_process
        )


def _objective(
    search: Search, trial: Any, library: Any, abandoned: Callable[[], bool], report: Callable[[str], None]
) -> float:
    """Train with the suggested settings and return the score; raises TrialPruned if poor, impossible or non-finite."""
    try:
        run = trials.as_trial(apply_overrides(search.run, suggest(search.space, trial)), PRUNING_CHECKS)
    except ConfigError as error:
        trial.set_user_attr("reason", str(error))
        raise library.TrialPruned from error
    trial.set_user_attr("parameters", count(run.model.parameters()))
    scores: list[float] = []

    def should_prune(step: int, score: float) -> bool:
        if scores:  # only the first seed is compared with other trials
            return False
        trial.report(score, round(100 * step / max_steps(run)))
        return bool(trial.should_prune())

    try:
        for number, seeded in enumerate(trials.with_seeds(run, search.seeds)):
            out = search.out / "trials" / (f"{trial.number:05d}" + (f"-seed-{seeded.seed}" if number else ""))
            shutil.rmtree(out, ignore_errors=True)  # left by a killed process
            scores.append(trials.train(seeded, out, search.prepared, should_prune, abandoned, device=search.device))
    except (trials.PrunedError, NumericsError) as error:
        reason = "poor validation" if isinstance(error, trials.PrunedError) else error.message
        trial.set_user_attr("reason", reason)
        report(f"trial {trial.number}: pruned, {reason}")
        raise library.TrialPruned from error
    trial.set_user_attr("scores", scores)
    report(f"trial {trial.number}: {fmean(scores):.4f} bits per byte ({search.rule})")
    return fmean(scores)


def best(search: Search, study: Any) -> tuple[RunConfig, Any]:
    """Write the config of the best trial to ``best.yaml`` in the directory of the search; return it and the trial.

    Raises StorageError if no trial is complete.
    """
    library = optuna()
    complete = study.get_trials(deepcopy=False, states=(library.trial.TrialState.COMPLETE,))
    if not complete:
        raise StorageError(
            "No trial is complete, so there is no best one.", hint="Use more --trials, or shorter ones with --steps."
        )
    trial = min(complete, key=lambda trial: (trial.value, trial.number))
    run = apply_overrides(search.run, suggest(search.space, library.trial.FixedTrial(trial.params)))
    atomic_write(search.out / BEST, to_yaml(run).encode())
    return run, trial


def finished(study: Any) -> Sequence[Any]:
    """Return the complete and the pruned trials in their order."""
    library = optuna()
    states = (library.trial.TrialState.COMPLETE, library.trial.TrialState.PRUNED)
    return study.get_trials(deepcopy=False, states=states)
