"""A search on one page: its history, what mattered, every setting against the score, and all trials as lines."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fabella.report.axes import number
from fabella.report.charts import Axis, Line, chart
from fabella.report.page import document, table
from fabella.tuning.study import ended, optuna

SCORE = Axis("bits per byte", log=True, log_from=2.0)
WIDTH, HEIGHT, TOP, BOTTOM, SIDE = 960, 340, 16, 46, 70


def page(study: Any, title: str, best: Mapping[str, tuple[str, str]]) -> str:
    """The page; ``best``: the settings of the best run that are not those it began with, before and after, as JSON."""
    trials = ended(study)
    complete = [trial for trial in trials if trial.value is not None and _is_complete(trial)]
    parts = [
        _summary(trials, complete),
        "<h2>The best settings</h2>" + table("", ["setting", "as it was", "best"], _changed(best))
        if best
        else "<p>The settings that the search began with are the best ones found.</p>",
        '<h2>Curves</h2><div class="charts">',
        _figure("History", _history(complete)),
        _figure("What mattered", _importance(study, complete)),
        *(_figure(name, _slice(complete, name)) for name in _numbers(complete)),
        "</div>",
        f"<h2>All trials</h2><figure>{parallel(complete)}<figcaption></figcaption></figure>",
        _table(trials),
    ]
    return document(title, f"<h1>{escape(title)}</h1><main>{''.join(parts)}</main>")


def importance(study: Any) -> dict[str, float]:
    """Setting → its share of what decides whether a trial is good (PED-ANOVA, Watanabe et al. 2023, arXiv 2304.10255).

    Empty where there are too few trials to tell.
    """
    library = optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the evaluator is called experimental
        try:
            evaluator = library.importance.PedAnovaImportanceEvaluator()
            found = library.importance.get_param_importances(study, evaluator=evaluator)
        except (ValueError, RuntimeError):  # too few trials, or all alike: the library says so by these
            return {}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _changed(best: Mapping[str, tuple[str, str]]) -> list[list[str]]:
    return [[name, *map(in_words, both)] for name, both in best.items()]


def in_words(setting: str) -> str:
    """A setting's JSON, short enough for a table: numbers to four digits, a schedule by its parts."""
    value = json.loads(setting) if setting else ""
    return f"{value:.4g}" if isinstance(value, float) else _short(value) if isinstance(value, list) else setting


def _is_complete(trial: Any) -> bool:
    return trial.state.name == "COMPLETE"


def _summary(trials: Sequence[Any], complete: Sequence[Any]) -> str:
    best = min((trial.value for trial in complete), default=math.nan)
    first = next((trial.value for trial in complete if trial.user_attrs.get("as it is")), None)
    cells = [
        ("trials", str(len(trials))),
        ("given up early", str(len(trials) - len(complete))),
        ("best, bits per byte", f"{best:.4f}"),
        ("as it was", "-" if first is None else f"{first:.4f}"),
    ]
    return '<dl class="figures">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in cells) + "</dl>"


def _figure(title: str, drawn: str) -> str:
    return f"<figure><h3>{escape(title)}</h3>{drawn}<figcaption></figcaption></figure>"


def _history(complete: Sequence[Any]) -> str:
    points = [(float(trial.number), float(trial.value)) for trial in complete]
    best = [(x, min(y for _, y in points[: place + 1])) for place, (x, _) in enumerate(points)]
    lines = [Line("trial", points, style="dots"), Line("best so far", best, color=1)]
    return chart("History", lines, Axis("trial"), SCORE)


def _importance(study: Any, complete: Sequence[Any]) -> str:
    found = importance(study) if len(complete) > 2 else {}
    if not found:
        return '<p class="nothing">Too few trials came to an end to tell.</p>'
    return table("share of what decides", ["setting", ""], [[name, f"{share:.0%}"] for name, share in found.items()])


def _numbers(complete: Sequence[Any]) -> list[str]:
    """Settings with a range of numbers."""
    return [name for name in _names(complete) if all(isinstance(_value(t, name), float) for t in complete)]


def _names(complete: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(name for trial in complete for name in trial.params))


def _value(trial: Any, name: str) -> float | str:
    """What a trial took: a number where it is one; groups of settings in few words."""
    found = trial.params.get(name, "")
    value = json.loads(found) if isinstance(found, str) and found else found
    if isinstance(value, Mapping):
        told = [f"{key.rpartition('.')[2]} {_short(inner)}" for key, inner in value.items()]
        return ", ".join(told) if len(told) > 1 else told[0].partition(" ")[2]
    return float(value) if isinstance(value, int | float) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        first, *rest = value
        return ", ".join([str(first.get("length")), *(f"{part.get('shape')} to {part.get('end'):g}" for part in rest)])
    return str(value)


def _by_factors(complete: Sequence[Any], name: str) -> bool:
    """Whether a setting was searched on a logarithmic scale."""
    return any(getattr(trial.distributions.get(name), "log", False) for trial in complete)


def _slice(complete: Sequence[Any], name: str) -> str:
    points = sorted((float(_value(trial, name)), float(trial.value)) for trial in complete)
    return chart(name, [Line("trial", points, style="dots")], Axis(name, log=_by_factors(complete, name)), SCORE)


def parallel(complete: Sequence[Any]) -> str:
    """Every trial as a line through its settings to its score; the better, the stronger."""
    names = _names(complete)
    if len(complete) < 2:
        return '<p class="nothing">Too few trials came to an end.</p>'
    scores = [float(trial.value) for trial in complete]
    columns = [(name, [_value(trial, name) for trial in complete]) for name in names] + [(SCORE.label, scores)]
    logs = [*(_by_factors(complete, name) for name in names), SCORE.log]
    places = [SIDE + at * (WIDTH - 2 * SIDE) / (len(columns) - 1) for at in range(len(columns))]
    heights = [_heights(values, log=log) for (_, values), log in zip(columns, logs, strict=True)]
    order = sorted(range(len(complete)), key=scores.__getitem__, reverse=True)
    lines = []
    for rank, number_ in enumerate(order):
        points = "L".join(f"{x:.1f} {column[number_]:.1f}" for x, column in zip(places, heights, strict=True))
        strength = 0.15 + 0.85 * (rank / (len(order) - 1)) ** 3
        color = 1 if rank == len(order) - 1 else 0
        lines.append(
            f'<path class="line run-{color}" stroke-opacity="{strength:.2f}" stroke-width="1.6" d="M{points}"/>'
        )
    axes = "".join(
        f'<path class="base" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>{_marks(x, values)}'
        f'<text class="axis" x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(name.rpartition('.')[2])}</text>"
        for (name, values), x in zip(columns, places, strict=True)
    )
    told = f"{len(complete)} trials through {', '.join(names)} to bits per byte; the best is drawn strongest"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">{axes}{"".join(lines)}</svg>'


def _heights(values: Sequence[float | str], *, log: bool = False) -> list[float]:
    room = HEIGHT - BOTTOM - TOP
    if all(isinstance(value, float) for value in values):
        by_factors = log and all(float(value) > 0 for value in values)
        numbers = [math.log(float(value)) if by_factors else float(value) for value in values]
        low, high = min(numbers), max(numbers)
        return [HEIGHT - BOTTOM - (value - low) / ((high - low) or 1.0) * room for value in numbers]
    kinds = sorted({str(value) for value in values})
    return [HEIGHT - BOTTOM - kinds.index(str(value)) / max(len(kinds) - 1, 1) * room for value in values]


def _marks(x: float, values: Sequence[float | str]) -> str:
    if all(isinstance(value, float) for value in values):
        numbers = [float(value) for value in values]
        marks = [(HEIGHT - BOTTOM, number(min(numbers))), (TOP, number(max(numbers)))]
    else:
        kinds = sorted({str(value) for value in values})
        marks = list(zip(_heights(kinds), kinds, strict=True))
    return "".join(f'<text x="{x + 5:.1f}" y="{y + 4:.1f}">{escape(word[:18])}</text>' for y, word in marks)


def _table(trials: Sequence[Any]) -> str:
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [[f"{trial.number}", _outcome(trial), *(_cell(trial, name) for name in names)] for trial in trials]
    body = table("", ["trial", "bits per byte", *names], rows)
    return f'<details id="trials"><summary>Every trial in numbers</summary>{body}</details>'


def _outcome(trial: Any) -> str:
    scores = trial.user_attrs.get("scores", [])
    if _is_complete(trial) and len(scores) > 1:
        return f"{trial.value:.4f} ({min(scores):.4f} to {max(scores):.4f})"
    return f"{trial.value:.4f}" if _is_complete(trial) else str(trial.user_attrs.get("reason", "given up"))[:60]


def _cell(trial: Any, name: str) -> str:
    value = _value(trial, name)
    return number(value) if isinstance(value, float) else str(value)
