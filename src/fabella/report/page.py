"""Report of one or several runs as one self-contained HTML file that loads nothing from the network."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fabella.errors import UsageError
from fabella.models.parameters import count, count_non_embedding
from fabella.models.registry import family_label
from fabella.report.axes import number
from fabella.report.charts import caption, chart
from fabella.report.curves import X, curves
from fabella.report.evaluation_section import evaluation_section
from fabella.report.published_curves import PublishedCurve, matching_curves
from fabella.report.run_history import RunHistory, data_of, differing, names, read
from fabella.report.seeds import mean_scores, scores, seed_groups
from fabella.run_config.files import to_yaml
from fabella.runs.branch import parent_of
from fabella.runs.resume_rules import describe_changes
from fabella.runs.run_dir import CHANGES, INIT_FROM
from fabella.storage import atomic_write, format_duration, format_exp, format_number

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
X_AXIS_LABELS = {"step": "steps", "tokens": "tokens", "seconds": "time", "flops": "FLOPs"}
MAX_SAMPLES = 24


def write_report(runs: str | Path | Sequence[str | Path], output: str | Path = "") -> Path:
    """Write the report of one or several runs as one HTML file, and return its path.

    ``output``: by default ``report.html`` in the first run. Raises StorageError for a directory that is not a run, a
    run with damaged metrics, or a file that cannot be written; UsageError without a run.
    """
    paths = [Path(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    if not paths:
        raise UsageError("Expected at least one run, got none.", hint="Give the directory of a run.")
    return write_page([read(path) for path in paths], Path(output) if output else paths[0] / "report.html")


def write_page(histories: Sequence[RunHistory], target: Path) -> Path:
    """Write the page to ``target``, and return that. Raises StorageError."""
    atomic_write(target, page(histories).encode())
    return target


def page(histories: Sequence[RunHistory], *, live: str = "") -> str:
    """Return the page. ``live``: ETag of its content if a server follows the runs (live_server.py), otherwise empty."""
    title = ", ".join(names(histories))
    choice = "".join(
        f'<label><input type="radio" name="x-axis" id="x-axis-{key}"{" checked" * (key == "step")}> {label}</label>'
        for key, label in X_AXIS_LABELS.items()
    )
    content = (
        f"<header><h1>{escape(title)}</h1>{_live(live)}</header>"
        f"<fieldset><legend>x-axis</legend>{choice}</fieldset><main>{main(histories)}</main>"
    )
    return document(f"{title} - Fabella", content, live=live)


def document(title: str, content: str, *, live: str = "") -> str:
    """Return an HTML file that contains its style and its script. ``content`` is HTML; ``title`` is escaped here."""
    style, script = (resources.files("fabella.report").joinpath(f).read_text("utf-8") for f in ("page.css", "page.js"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}"><style>{style}</style></head><body{_data(live)}>{content}'
        f"<script>{script}</script></body></html>\n"
    )


def main(histories: Sequence[RunHistory]) -> str:
    """Return the part of the page that changes while a run continues: everything except the header."""
    labels = names(histories)
    published = matching_curves(histories)
    parts = [
        _warnings(histories),
        *(
            _figures(history, name if len(histories) > 1 else "")
            for history, name in zip(histories, labels, strict=True)
        ),
        *(_changes(history, name) for history, name in zip(histories, labels, strict=True)),
        _differences(histories, labels),
        _seeds(histories, labels),
        _charts(histories, labels, published),
        *(_comparison(history, published) for history in histories),
        _samples(histories, labels),
        *(
            evaluation_section(history, name if len(histories) > 1 else "")
            for history, name in zip(histories, labels, strict=True)
        ),
        _scores(histories, labels),
        _models(histories, labels),
        _configs(histories, labels),
    ]
    return "".join(parts)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column has the row headers; all cells are escaped here."""
    header = "".join(f'<th scope="col"{_right(number)}>{escape(cell)}</th>' for number, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="table"><table>{title}<thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


def _right(column: int) -> str:
    return ' class="number"' if column else ""


def _data(live: str) -> str:
    return f' data-live="{escape(live)}"' if live else ""


def _live(live: str) -> str:
    return '<p class="soft" id="live" role="status">following the training</p>' if live else ""


def _warnings(histories: Sequence[RunHistory]) -> str:
    warnings = [f"{history.name}: {warning}" for history in histories for warning in history.warnings]
    if len({data_of(history) for history in histories}) > 1:
        warnings.append(
            "These runs were trained on different datasets. Losses and perplexities are not comparable, "
            "bits per byte only if the validation texts are similar."
        )
    elif len({str(history.manifest.get("tokenizer")) for history in histories}) > 1:
        warnings.append("These runs have different tokenizers. Compare bits per byte, not losses.")
    if len(rules := dict.fromkeys(history.rule for history in histories)) > 1:
        warnings.append(
            f"These runs are scored by different rules ({', '.join(rules)}): their losses, perplexities and bits per "
            "byte are not comparable. fabella compare scores them by one rule."
        )
    return "".join(f'<p class="warning">{escape(warning)}</p>' for warning in warnings)


def _changes(history: RunHistory, name: str) -> str:
    """Return the settings that changed when the run was resumed, so that no chart is read as one unchanged run."""
    lines = describe_changes(history.manifest.get(CHANGES, []))
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>Settings that changed when {escape(name)} was resumed</h2><ul>{items}</ul>" if lines else ""


def _figures(history: RunHistory, name: str) -> str:
    """Return six key figures of a run, and two of the average of its weights."""
    last, final, score = history.last, history.final, scores(history)
    max_steps = getattr(history.run.training.length, "max_steps", 0)
    steps = f"{last['step']:,}" + (f" of {max_steps:,}" if max_steps and max_steps != last["step"] else "")
    cells = [
        ("steps", steps),
        ("tokens", number(last["tokens"])),
        ("training time", format_duration(last["seconds"])),
        ("final validation loss" if final else "validation loss", _number(score.get("loss"), ".4f")),
        ("perplexity", _perplexity(score)),
        (f"bits/byte, {history.rule}", _number(score.get("bits_per_byte"), ".4f")),
    ]
    if average := history.final_average:
        cells += [
            ("final loss, averaged weights", _number(average.get("loss"), ".4f")),
            ("bits/byte, averaged weights", _number(average.get("bits_per_byte"), ".4f")),
        ]
    boxes = "".join(f"<div><dt>{label}</dt><dd>{escape(value)}</dd></div>" for label, value in cells)
    origins = {
        "This run began with the weights of": parent_of(history.manifest, INIT_FROM),
        "This run is a branch of": parent_of(history.manifest),
    }
    origin = "".join(f'<p class="soft">{words} {escape(name)}.</p>' for words, name in origins.items() if name)
    return (f"<h3>{escape(name)}</h3>" if name else "") + f'<dl class="figures">{boxes}</dl>{origin}'


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if isinstance(value, int | float) else "-"


def _perplexity(row: Mapping[str, Any]) -> str:
    loss = row.get("loss")
    return format_exp(loss) if isinstance(loss, int | float) else "-"


def _differences(histories: Sequence[RunHistory], labels: Sequence[str]) -> str:
    if len(histories) < 2:
        return ""
    rows = [[name, *values] for name, values in differing(histories).items()]
    content = table("", ["setting", *labels], rows) if rows else "<p>All settings are the same.</p>"
    return f"<h2>Different settings</h2>{content}"


def _seeds(histories: Sequence[RunHistory], labels: Sequence[str]) -> str:
    """Return a table of the mean scores of runs that differ only in their seed."""
    keys = (("loss", 4), ("perplexity", 2), ("bits_per_byte", 4))
    rows: list[list[str]] = []
    for group in seed_groups(histories):
        means = zip(keys, mean_scores(group, histories, [key for key, _ in keys]), strict=True)
        cells = [
            f"{format_number(mean, digits)} ± {format_number(by, digits)}" if mean == mean else "-"
            for (_, digits), (mean, by) in means
        ]
        rows.append([group.label(labels), histories[group.numbers[0]].rule, *cells])
    if not rows:
        return ""
    return f"<h2>Seeds</h2>{table('', ['', 'rule', 'loss', 'perplexity', 'bits per byte'], rows)}"


def _charts(histories: Sequence[RunHistory], labels: Sequence[str], published: Sequence[PublishedCurve]) -> str:
    figures = []
    for each in curves(histories, labels, published):
        charts = "".join(
            f'<div class="x-axis {key}">{chart(each.title, each.lines[key], X[key], each.y)}</div>' for key in X
        )
        figures.append(f"<figure><h3>{each.title}</h3>{charts}{caption(each.lines['step'])}</figure>")
    return f'<h2>Curves</h2><div class="charts">{"".join(figures)}</div>'


def _comparison(history: RunHistory, published: Sequence[PublishedCurve]) -> str:
    """Return the origin of the published curve of a run and the settings in which they differ."""
    curve = next((curve for curve in published if curve.matches(history)), None)
    if curve is None:
        return ""
    differences = curve.differences(history)
    origin = f"The dotted curve is a run of {curve.preset} on {curve.text} ({curve.machine}, {curve.date})"
    if not differences:
        return f'<p class="soft">{escape(origin)} with the same settings.</p>'
    items = "".join(f"<li>{escape(difference)}</li>" for difference in differences)
    several = len(differences) > 1
    summary = f"{origin}; {len(differences)} setting{'s' * several} of {history.name} differ{'s' * (not several)}."
    summary = f'<summary class="soft">{escape(summary)}</summary>'
    return f'<details id="comparison-{escape(history.name)}">{summary}<ul>{items}</ul></details>'


def _samples(histories: Sequence[RunHistory], labels: Sequence[str]) -> str:
    samples = [
        (row, name) for history, name in zip(histories, labels, strict=True) for row in history.samples[-MAX_SAMPLES:]
    ]
    if not samples:
        return ""
    samples.sort(key=lambda sample: int(sample[0].get("step", 0)), reverse=True)
    cards = "".join(
        f'<div class="sample"><h3>step {int(row.get("step", 0)):,}{f", {escape(name)}" * (len(histories) > 1)}</h3>'
        f'<p><span class="prompt">{escape(str(row.get("prompt", "")))}</span>'
        f"{escape(str(row.get('text', '')))}</p></div>"
        for row, name in samples
    )
    newest, _, rest = cards.partition('<div class="sample">')[2].partition('<div class="sample">')
    older = f'<details id="samples"><summary>Earlier samples</summary><div class="sample">{rest}</details>'
    return f'<h2>Samples</h2><div class="sample">{newest}{older if rest else ""}'


def _scores(histories: Sequence[RunHistory], labels: Sequence[str]) -> str:
    """Return a table of all validations and final scores, the accessible form of the curves."""
    several = len(histories) > 1
    ends = {"final": ", all text", "final_average": ", all text, averaged weights"}
    rows = [
        [
            (f"{name}, " if several else "") + f"step {row['step']:,}{ends.get(row['kind'], '')}",
            number(row["tokens"]), format_duration(row["seconds"]), _number(row.get("loss"), ".4f"),
            _perplexity(row), _number(row.get("bits_per_byte"), ".4f"), history.rule,
        ]
        for history, name in zip(histories, labels, strict=True)
        for row in (*history.validation, history.final, history.final_average) if row
    ]  # fmt: skip
    head = ["", "tokens", "time", "loss", "perplexity", "bits per byte", "rule"]
    return f'<details id="scores"><summary>Table of all validations</summary>{table("", head, rows)}</details>'


def _models(histories: Sequence[RunHistory], labels: Sequence[str]) -> str:
    rows: list[list[str]] = [
        ["family"],
        ["parameters"],
        ["non-embedding parameters"],
        ["vocabulary size"],
        ["sequence length"],
    ]
    for history in histories:
        parameters = history.run.model.parameters()
        cells = (
            family_label(history.run.model.family), f"{count(parameters):,}", f"{count_non_embedding(parameters):,}",
            f"{history.run.model.vocab_size:,}", f"{history.run.data.sequences.length:,}",
        )  # fmt: skip
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    learned = [history.run.data.loss_on for history in histories]
    if "answers" in learned:
        rows.append(["loss on", *learned])
    environments: list[Mapping[str, Any]] = [history.manifest.get("environment", {}) for history in histories]
    keys = dict.fromkeys(key for environment in environments for key in environment)
    machine = [[key, *(_value(environment.get(key, "-")) for environment in environments)] for key in keys]
    return (
        f'<div class="pair"><section><h2>Model</h2>{table("", ["", *labels], rows)}</section>'
        f'<section class="environment"><h2>Environment</h2>{table("", ["", *labels], machine)}</section></div>'
    )


def _value(value: object) -> str:
    """Return a value of the environment; of a hash its start."""
    text = str(value)
    return text[:12] if re.fullmatch("[0-9a-f]{40,}", text) else text


def _configs(histories: Sequence[RunHistory], labels: Sequence[str]) -> str:
    return "".join(
        f'<details id="config-{escape(name)}"><summary>Config of {escape(name)}</summary>'
        f"<pre>{escape(to_yaml(history.run))}</pre></details>"
        for history, name in zip(histories, labels, strict=True)
    )
