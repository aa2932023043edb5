"""HTML page of a search: its history, the importance of each setting, and every trial."""

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib import pyplot

from fabella.report.axes import number
from fabella.report.charts import Axis, Line, caption, chart
from fabella.report.page import document, table
from fabella.report.plots import png_image
from fabella.tuning.study import finished, optuna

SCORE = Axis("bits per byte", log=True, log_from=2.0)
MAX_LABEL = 18
"""Characters of a categorical value on the axis of a plot."""


def search_page(study: Any, title: str, best: Mapping[str, tuple[str, str]], *, rule: str) -> str:
    """Return the page. ``best``: settings of the best run that changed → JSON before and after the search.

    ``rule``: the name of the rule of all scores.
    """
    trials = finished(study)
    complete = [trial for trial in trials if trial.value is not None and _is_complete(trial)]
    parts = [
        _summary(trials, complete, rule),
        "<h2>Best settings</h2>" + table("", ["setting", "baseline", "best"], _changed(best))
        if best
        else "<p>The baseline settings are the best ones.</p>",
        '<h2>Curves</h2><div class="charts">',
        _figure("History", _history(complete)),
        _figure("Parameter importance", _importance(study, complete)),
        *(_figure(name, _slice(complete, name)) for name in _numeric(complete)),
        "</div>",
        f"<h2>Parallel coordinates</h2>{_figure('', parallel_coordinates(complete))}",
        _table(trials, rule),
    ]
    return document(title, f"<h1>{escape(title)}</h1><main>{''.join(parts)}</main>")


def importance(study: Any) -> dict[str, float]:
    """Return the share of each setting in the quality of a trial (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255).

    Empty if there are too few trials.
    """
    library = optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is experimental
        try:
            shares = library.importance.get_param_importances(study, evaluator=_evaluator())
        except (ValueError, RuntimeError):  # Optuna's errors for too few trials, or for equal ones
            return {}
    return {name: float(share) for name, share in shares.items() if math.isfinite(share)}


def _evaluator() -> Any:
    """PED-ANOVA, because Optuna's default evaluator needs scikit-learn."""
    return optuna().importance.PedAnovaImportanceEvaluator()


def _changed(best: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    return [[name, *map(format_setting, values)] for name, values in best.items()]


def format_setting(setting: str) -> str:
    """Format the JSON of a setting for a table: numbers with four digits, a schedule as its phases."""
    value = json.loads(setting) if setting else ""
    return f"{value:.4g}" if isinstance(value, float) else _short(value) if isinstance(value, list) else setting


def _is_complete(trial: Any) -> bool:
    return trial.state.name == "COMPLETE"


def _summary(trials: Sequence[Any], complete: Sequence[Any], rule: str) -> str:
    best = min((trial.value for trial in complete), default=math.nan)
    baseline = next((trial.value for trial in complete if trial.user_attrs.get("baseline")), None)
    cells = [
        ("trials", str(len(trials))),
        ("pruned", str(len(trials) - len(complete))),
        (f"best, bits per byte, {rule}", f"{best:.4f}"),
        ("baseline", "-" if baseline is None else f"{baseline:.4f}"),
    ]
    return '<dl class="figures">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in cells) + "</dl>"


def _figure(title: str, content: str) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f"<figure>{heading}{content}</figure>"


def _history(complete: Sequence[Any]) -> str:
    points = [(float(trial.number), float(trial.value)) for trial in complete]
    best = [(x, min(y for _, y in points[: index + 1])) for index, (x, _) in enumerate(points)]
    lines = [Line("trial", points, style="dots"), Line("best so far", best, color=1)]
    return chart("History", lines, Axis("trial"), SCORE) + caption(lines)


def _importance(study: Any, complete: Sequence[Any]) -> str:
    shares = importance(study) if len(complete) > 2 else {}
    if not shares:
        return '<p class="nothing">Too few complete trials.</p>'
    alternative = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    plots = optuna().visualization.matplotlib
    return _plot(lambda: plots.plot_param_importances(study, evaluator=_evaluator()), alternative)


def _numeric(complete: Sequence[Any]) -> list[str]:
    """Return the settings that are numbers in every trial."""
    return [name for name in _names(complete) if all(isinstance(_value(t, name), float) for t in complete)]


def _names(complete: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for trial in complete for name in trial.params))


def _value(trial: Any, name: str) -> float | str:
    """Return the value of a setting in a trial: a number, or short text for lists and groups of settings."""
    param = trial.params.get(name, "")
    value = json.loads(param) if isinstance(param, str) and param else param
    if isinstance(value, Mapping):
        settings = [f"{key.rpartition('.')[2]} {_short(inner)}" for key, inner in value.items()]
        return ", ".join(settings) if len(settings) > 1 else settings[0].partition(" ")[2]
    return float(value) if isinstance(value, int | float) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        first, *rest = value
        return ", ".join(
            [str(first.get("length")), *(f"{phase.get('shape')} to {phase.get('end'):g}" for phase in rest)]
        )
    return str(value)


def _is_log(complete: Sequence[Any], name: str) -> bool:
    """Return whether a setting was searched on a logarithmic scale."""
    return any(getattr(trial.distributions.get(name), "log", False) for trial in complete)


def _slice(complete: Sequence[Any], name: str) -> str:
    points = sorted((float(_value(trial, name)), float(trial.value)) for trial in complete)
    lines = [Line("trial", points, style="dots")]
    return chart(name, lines, Axis(name, log=_is_log(complete, name)), SCORE) + caption(lines)


def parallel_coordinates(complete: Sequence[Any]) -> str:
    """Plot every complete trial as a line through its settings; darker lines have lower bits per byte."""
    if len(complete) < 2:
        return '<p class="nothing">Too few complete trials.</p>'
    plots = optuna().visualization.matplotlib
    alternative = f"{len(complete)} trials through {', '.join(_names(complete))} to bits per byte"
    study = _readable_study(complete)
    return _plot(lambda: plots.plot_parallel_coordinate(study, target_name=SCORE.label), alternative)


def _readable_study(complete: Sequence[Any]) -> Any:
    """Copy trials to a study in memory in which categorical values are short text instead of JSON."""
    library = optuna()
    study = library.create_study()
    categorical = library.distributions.CategoricalDistribution
    labels: dict[str, dict[str, None]] = {}
    for trial in complete:
        for name, distribution in trial.distributions.items():
            if isinstance(distribution, categorical):
                labels.setdefault(name, {})[_label(trial, name)] = None
    for trial in complete:
        params = {name: _label(trial, name) if name in labels else value for name, value in trial.params.items()}
        distributions = {name: categorical(list(values)) for name, values in labels.items() if name in params}
        study.add_trial(
            library.trial.create_trial(
                value=trial.value, params=params, distributions={**trial.distributions, **distributions}
            )
        )
    return study


def _label(trial: Any, name: str) -> str:
    value = _cell(trial, name)
    return value if len(value) <= MAX_LABEL else value[: MAX_LABEL - 1] + "…"


def _plot(draw: Callable[[], Any], alternative: str) -> str:
    """Return an Optuna plot as an image. Optuna draws with pyplot and changes its global style, which is restored."""
    pyplot.switch_backend("agg")
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # Optuna's matplotlib plots are experimental
        figure = draw().figure
        figure.set_size_inches(9, 4)
        image = png_image(figure, alternative)
    pyplot.close(figure)
    return image


def _table(trials: Sequence[Any], rule: str) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [[f"{trial.number}", _outcome(trial), *(_cell(trial, name) for name in names)] for trial in trials]
    body = table("", ["trial", f"bits per byte, {rule}", *names], rows)
    return f'<details id="trials"><summary>Table of all trials</summary>{body}</details>'


def _outcome(trial: Any) -> str:
    scores = trial.user_attrs.get("scores", [])
    if _is_complete(trial) and len(scores) > 1:
        return f"{trial.value:.4f} ({min(scores):.4f} to {max(scores):.4f})"
    return f"{trial.value:.4f}" if _is_complete(trial) else str(trial.user_attrs.get("reason", "pruned"))[:60]


def _cell(trial: Any, name: str) -> str:
    value = _value(trial, name)
    return number(value) if isinstance(value, float) else str(value)
