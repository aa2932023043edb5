"""A whole search on a tiny run: seeded, gone on with, bounded by what it was asked for, and told on one page."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as fabella
from fabella.errors import ConfigError, LockedError, StorageError, TrainingInterrupted
from fabella.run_config.files import load_config
from fabella.storage import locked
from fabella.tuning import study as studies
from fabella.tuning import trials, workers
from fabella.tuning.lr_range_test import lr_range_test
from fabella.tuning.search_page import page
from fabella.tuning.space import LogUniformRange, Space, apply_overrides, suggest
from fabella.tuning.study import BEST, Search, best, ended, open_study, optuna, requeue_stale_trials, work
from fabella.tuning.workers import search_together
from tests.report.test_page import whole
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
    return [(trial.params, trial.value) for trial in ended(study)]


def test_a_search_that_went_on_found_what_one_without_a_stop_finds(data: Any, tmp_path: Path) -> None:
    straight, parts = search(tmp_path / "straight", data), search(tmp_path / "parts", data)
    work(straight, 3)
    for count in (2, 3):
        work(parts, count)
    first, second = (scores(open_study(one)) for one in (straight, parts))
    assert first == second
    assert len({params["optimizer.lr"] for params, _ in first}) == 3
    assert first[0][0] == {"optimizer.lr": straight.run.optimizer.lr}  # the run as it is, which others have to beat
    run, trial = best(straight, open_study(straight))
    assert trial.value == min(value for _, value in first if value is not None)
    written = load_config(str(straight.out / BEST))
    assert written == run
    assert written.validation == straight.run.validation


def test_processes_search_together_and_report_every_trial(data: Any, tmp_path: Path) -> None:
    told: list[int] = []
    asked = search(tmp_path / "together", data)
    study = search_together(asked, 3, 2, lambda trial: told.append(trial.number))
    assert sorted(told) == sorted(trial.number for trial in ended(study))
    assert len(told) >= 3
    text = page(study, "Tuning <b>", {"optimizer.lr": ("0.0039999", "0.0061234567"), "model.<i>": ("2", "3")})
    assert whole(text).asked == []
    assert "<b>" not in text
    assert ">0.006123<" in text
    assert 'aria-label="History against trial' in text


def test_the_mean_over_seeds_counts(data: Any, tmp_path: Path) -> None:
    asked = search(tmp_path / "seeds", data, seeds=2)
    work(asked, 1)
    (trial,) = ended(open_study(asked))
    first = trials.as_trial(
        apply_overrides(asked.run, suggest(asked.space, optuna().trial.FixedTrial(trial.params))), 8
    )
    alone = [
        trials.train(run, tmp_path / f"alone-{run.seed}", data, lambda step, score: False, device="cpu")
        for run in trials.seeded(first, 2)
    ]
    assert trial.user_attrs["scores"] == alone
    assert alone[0] != alone[1]
    assert trial.value == pytest.approx(sum(alone) / 2)
    with pytest.raises(ConfigError, match="holds another search"):
        open_study(search(tmp_path / "seeds", data))


def test_a_trial_that_cannot_be_is_given_up_and_the_search_goes_on(data: Any, tmp_path: Path) -> None:
    wrong: Space = {"model.dim": LogUniformRange(low=15.1, high=15.9)}
    asked = search(tmp_path / "wrong", data, space=wrong)
    work(asked, 2)
    assert [trial.state.name for trial in ended(open_study(asked))] == ["PRUNED", "PRUNED"]
    with pytest.raises(StorageError, match="No trial came to its end"):
        best(asked, open_study(asked))


def test_hopeless_trials_end_early(data: Any, tmp_path: Path) -> None:
    seen: list[int] = []

    def hopeless(step: int, score: float) -> bool:
        seen.append(step)
        return step >= 2

    run = trials.as_trial(tiny.run(steps=40), looks=20)
    with pytest.raises(trials.PrunedError):
        trials.train(run, tmp_path / "run", data, hopeless, device="cpu")
    assert seen == [2]


@pytest.mark.parametrize(
    ("place", "score", "given_up"), [(50, 5.0, False), (50, 6.0, False), (50, 7.5, True), (12, 7.5, False)]
)
def test_hopeless_is_who_is_worse_than_three_quarters_and_not_by_a_slow_beginning(
    place: int, score: float, given_up: bool, data: Any, tmp_path: Path
) -> None:
    library, study = optuna(), open_study(search(tmp_path / "judged", data))
    for other in range(1, 9):
        scores_seen = {12: float(other), 50: float(other)}
        study.add_trial(library.trial.create_trial(value=float(other), intermediate_values=scores_seen))
    trial = study.ask()
    trial.report(score, place)
    assert trial.should_prune() == given_up


def test_what_another_process_is_at_counts_as_done(data: Any, tmp_path: Path) -> None:
    asked = search(tmp_path / "shared", data)
    study = open_study(asked)
    study.ask()
    work(asked, 2, alone=False)
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "COMPLETE"]


def test_what_a_killed_process_was_at_is_tried_again(data: Any, tmp_path: Path) -> None:
    asked = search(tmp_path / "killed", data)
    study = open_study(asked)
    begun = study.ask({"optimizer.lr": optuna().distributions.FloatDistribution(1e-4, 2e-2, log=True)})
    assert requeue_stale_trials(study) == 1
    work(asked, 1)
    (only,) = ended(open_study(asked))
    assert only.params == begun.params


def test_another_search_in_the_same_folder_is_refused(data: Any, tmp_path: Path) -> None:
    open_study(search(tmp_path / "one", data))
    with pytest.raises(ConfigError, match="holds another search"):
        open_study(search(tmp_path / "one", data, space={"optimizer.lr": LogUniformRange(low=1e-4, high=1e-2)}))


def test_a_search_at_work_and_a_locked_storage_are_told(
    data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = search(tmp_path / "one", data)
    open_study(asked)
    with locked(asked.out), pytest.raises(LockedError, match=r"the search in .* is locked by pid"):
        search_together(asked, 1, 1)
    monkeypatch.setattr(studies, "_waiting", lambda url: {"connect_args": {"timeout": 0.01}})
    holding = sqlite3.connect(asked.out / "study.db", isolation_level=None)
    holding.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LockedError, match="is locked"):
        open_study(asked)
    holding.close()
    with pytest.raises(StorageError, match="fails"):
        open_study(search(tmp_path / "two", data, storage="sqlite:////proc/nothing/study.db"))


def test_a_worker_that_fails_is_told(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CHILD", ["sh", "-c", "cat > /dev/null; echo out of cheese >&2; exit 3"])
    with pytest.raises(StorageError, match="Worker 0 ended with code 3: out of cheese"):
        search_together(search(tmp_path / "one", data), 1, 1)


def test_rising_rates_find_where_it_diverges(data: Any) -> None:
    found = lr_range_test(tiny.run("model.dropout=0.0"), data, steps=60)
    assert found.rates[0] == pytest.approx(1e-6)
    assert 1e-4 < found.suggested < 0.3
    assert min(found.losses) < found.losses[0]
    assert found == lr_range_test(tiny.run("model.dropout=0.0"), data, steps=60)


def test_the_command_says_what_is_better_and_writes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tune", "storybook-1m", *tiny.SETTINGS, "--steps", "6", "--trials", "2", "--json"]
    assert fabella(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert load_config(found["config"]).name == "storybook-1m"
    assert Path(found["page"]).read_text().endswith("</html>\n")
    assert fabella(["tune", "storybook-1m", *tiny.SETTINGS, "--lr-find", "--steps", "30"]) == 0
    assert "Try: optimizer.lr=" in capsys.readouterr().out


def test_without_optuna_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(studies.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"pip install 'fabella\[tune\]'"):
        optuna()


def test_a_storage_without_its_driver_and_its_password_are_told_and_not_told(data: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="driver of its database: No module named 'psycopg2'") as told:
        open_study(search(tmp_path / "one", data, storage="postgresql+psycopg2://me:secret@nowhere/db"))
    assert "secret" not in str(told.value)


def test_a_trial_whose_search_was_killed_ends(data: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted, match="has ended"):
        trials.train(tiny.run(steps=8), tmp_path / "run", data, lambda step, score: False, lambda: True, device="cpu")
