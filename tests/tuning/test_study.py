"""Tests that searches are seeded, can be resumed, run the requested trials, and are shown on one page."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import ConfigError, LockedError, StorageError, TrainingInterrupted
from fabella.run_config.files import load_config
from fabella.runs.metrics_log import read_rows
from fabella.storage.lock import lock_dir
from fabella.tuning import study as studies
from fabella.tuning import trials, workers
from fabella.tuning.search_page import search_page
from fabella.tuning.space import LogUniformRange, Space, apply_overrides, suggest
from fabella.tuning.study import BEST, Search, best, finished, open_study, optuna, requeue_stale_trials, work
from fabella.tuning.workers import search_in_parallel, threads_of_worker
from tests.report.test_page import check_html
from tests.training import tiny

SPACE: Space = {"optimizer.lr": LogUniformRange(low=1e-4, high=2e-2)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.prepared(tmp_path_factory.mktemp("data"))


def search(out: Path, data: Any, **given: Any) -> Search:
    return Search(
        **{"run": tiny.run("model.dropout=0.0", steps=8), "space": SPACE, "prepared": data, "out": out, **given}
    )


def scores(study: Any) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in finished(study)]


def test_a_resumed_search_finds_the_same_as_an_uninterrupted_one(data: Any, tmp_path: Path) -> None:
    uninterrupted, resumed = search(tmp_path / "uninterrupted", data), search(tmp_path / "resumed", data)
    work(uninterrupted, 3)
    for count in (2, 3):
        work(resumed, count)
    first, second = (scores(open_study(each)) for each in (uninterrupted, resumed))
    assert first == second
    assert len({params["optimizer.lr"] for params, _ in first}) == 3
    assert first[0][0] == {"optimizer.lr": uninterrupted.run.optimizer.lr}  # the first trial is the baseline
    run, trial = best(uninterrupted, open_study(uninterrupted))
    assert trial.value == min(value for _, value in first if value is not None)
    written = load_config(str(uninterrupted.out / BEST))
    assert written == run
    assert written.validation == uninterrupted.run.validation


def test_workers_share_the_threads_that_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabella.tuning.workers.cores", lambda: 8)
    shares = {"": [8, 2, 1], "4": [4, 1, 1], "1": [1, 1, 1], "4,2": [8, 2, 1]}
    for variable, threads in shares.items():
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
        assert [threads_of_worker(workers) for workers in (1, 3, 100)] == threads
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads_of_worker(1) == 8


def test_parallel_workers_report_every_trial(data: Any, tmp_path: Path) -> None:
    reported: list[int] = []
    parallel = search(tmp_path / "parallel", data)
    study = search_in_parallel(parallel, 3, 2, lambda trial: reported.append(trial.number))
    assert sorted(reported) == sorted(trial.number for trial in finished(study))
    assert len(reported) >= 3
    changed = {"optimizer.lr": ("0.0039999", "0.0061234567"), "model.<i>": ("2", "3")}
    text = search_page(study, "Tuning <b>", changed, rule=parallel.rule)
    assert "best, bits per byte, line-32" in text
    assert check_html(text).urls == []
    assert "<b>" not in text
    assert ">0.006123<" in text
    assert 'aria-label="History against trial' in text


def test_the_score_of_a_trial_is_the_mean_over_its_seeds(data: Any, tmp_path: Path) -> None:
    tuning = search(tmp_path / "seeds", data, seeds=2)
    work(tuning, 1)
    (trial,) = finished(open_study(tuning))
    first = trials.as_trial(
        apply_overrides(tuning.run, suggest(tuning.space, optuna().trial.FixedTrial(trial.params))), 8
    )
    separate = [
        trials.train(run, tmp_path / f"seed-{run.seed}", data, lambda step, score: False, device="cpu")
        for run in trials.with_seeds(first, 2)
    ]
    assert trial.user_attrs["scores"] == separate
    assert separate[0] != separate[1]
    assert trial.value == pytest.approx(sum(separate) / 2)
    with pytest.raises(ConfigError, match="contains another search"):
        open_study(search(tmp_path / "seeds", data))


def test_an_invalid_config_prunes_its_trial_and_the_search_continues(data: Any, tmp_path: Path) -> None:
    wrong: Space = {"model.dim": LogUniformRange(low=15.1, high=15.9)}
    tuning = search(tmp_path / "wrong", data, space=wrong)
    work(tuning, 2)
    assert [trial.state.name for trial in finished(open_study(tuning))] == ["PRUNED", "PRUNED"]
    with pytest.raises(StorageError, match="No trial is complete"):
        best(tuning, open_study(tuning))


def test_poor_trials_end_early(data: Any, tmp_path: Path) -> None:
    seen: list[int] = []

    def should_prune(step: int, score: float) -> bool:
        seen.append(step)
        return step >= 2

    run = trials.as_trial(tiny.run(steps=40), checks=20)
    with pytest.raises(trials.PrunedError):
        trials.train(run, tmp_path / "run", data, should_prune, device="cpu")
    assert seen == [2]


def test_the_last_validation_of_a_trial_prunes_nothing(data: Any, tmp_path: Path) -> None:
    seen: list[int] = []

    def should_prune(step: int, score: float) -> bool:
        seen.append(step)
        return step == 13

    run = trials.as_trial(tiny.run(steps=13), checks=3)
    score = trials.train(run, tmp_path / "run", data, should_prune, device="cpu")
    assert score > 0
    assert seen == [5, 10]
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [5, 10, 13]


@pytest.mark.parametrize(
    ("percent", "score", "pruned"), [(50, 5.0, False), (50, 6.0, False), (50, 7.5, True), (12, 7.5, False)]
)
def test_a_trial_is_pruned_in_the_worst_quarter_but_not_in_its_first_steps(
    percent: int, score: float, pruned: bool, data: Any, tmp_path: Path
) -> None:
    library, study = optuna(), open_study(search(tmp_path / "pruning", data))
    for other in range(1, 9):
        scores_seen = {12: float(other), 50: float(other)}
        study.add_trial(library.trial.create_trial(value=float(other), intermediate_values=scores_seen))
    trial = study.ask()
    trial.report(score, percent)
    assert trial.should_prune() == pruned


def test_a_running_trial_of_another_process_counts(data: Any, tmp_path: Path) -> None:
    tuning = search(tmp_path / "shared", data)
    study = open_study(tuning)
    study.ask()
    work(tuning, 2, single_process=False)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "COMPLETE"]


def test_the_trial_of_a_killed_process_is_queued_again(data: Any, tmp_path: Path) -> None:
    tuning = search(tmp_path / "killed", data)
    study = open_study(tuning)
    stale = study.ask({"optimizer.lr": optuna().distributions.FloatDistribution(1e-4, 2e-2, log=True)})
    assert requeue_stale_trials(study) == 1
    work(tuning, 1)
    (trial,) = finished(open_study(tuning))
    assert trial.params == stale.params


def test_another_search_in_the_same_directory_is_refused(data: Any, tmp_path: Path) -> None:
    open_study(search(tmp_path / "one", data))
    with pytest.raises(ConfigError, match="contains another search"):
        open_study(search(tmp_path / "one", data, space={"optimizer.lr": LogUniformRange(low=1e-4, high=1e-2)}))


def test_a_running_search_and_a_locked_storage_are_errors(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning = search(tmp_path / "one", data)
    open_study(tuning)
    with lock_dir(tuning.out), pytest.raises(LockedError, match=r"the search in .* is locked by pid"):
        search_in_parallel(tuning, 1, 1)
    monkeypatch.setattr(studies, "_engine_options", lambda url: {"connect_args": {"timeout": 0.01}})
    connection = sqlite3.connect(tuning.out / "study.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LockedError, match="is locked"):
        open_study(tuning)
    connection.close()
    with pytest.raises(StorageError, match="fails"):
        open_study(search(tmp_path / "two", data, storage="sqlite:////proc/nothing/study.db"))


def test_a_failed_worker_is_reported(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHILD", ["sh", "-c", "cat > /dev/null; echo out of cheese >&2; exit 3"])
    with pytest.raises(StorageError, match="Worker 0 ended with code 3: out of cheese"):
        search_in_parallel(search(tmp_path / "one", data), 1, 1)


def test_the_command_writes_the_best_config_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["tune", "storybook-1m", *tiny.SETTINGS, "--steps", "6", "--trials", "2", "--json"]
    assert fabella(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert load_config(result["config"]).name == "storybook-1m"
    assert Path(result["page"]).read_text().endswith("</html>\n")


def test_a_missing_optuna_is_an_error_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(studies.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'fabella\[tune\]'"):
        optuna()


def test_a_missing_database_driver_is_reported_without_the_password(data: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="driver of its database: No module named 'psycopg2'") as raised:
        open_study(search(tmp_path / "one", data, storage="postgresql+psycopg2://me:secret@nowhere/db"))
    assert "secret" not in str(raised.value)


def test_a_trial_ends_after_its_search_was_killed(data: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="has ended"):
        trials.train(tiny.run(steps=8), tmp_path / "run", data, lambda step, score: False, lambda: True, device="cpu")
