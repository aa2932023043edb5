"""The page: everything about one run or several in one file of HTML that asks nobody for anything."""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from fabella.models.parameters import count, count_non_embedding
from fabella.report.axes import duration, number
from fabella.report.charts import chart
from fabella.report.curves import X, curves
from fabella.report.evaluation_section import evaluated
from fabella.report.published_curves import Reference, fitting
from fabella.report.run_history import RunHistory, data_of, differing, names
from fabella.run_config.files import to_yaml

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
X_AXES = {"step": "steps", "tokens": "tokens", "seconds": "time", "flops": "operations"}
SHOWN_SAMPLES = 24


def page(histories: Sequence[RunHistory], *, live: str = "") -> str:
    """The whole page. ``live``: the version of what is shown, where a server follows the runs (see live.py)."""
    title = ", ".join(names(histories))
    choice = "".join(
        f'<label><input type="radio" name="against" id="against-{key}"{" checked" * (key == "step")}> {word}</label>'
        for key, word in X_AXES.items()
    )
    content = (
        f"<header><h1>{escape(title)}</h1>{_live(live)}</header>"
        f"<fieldset><legend>Curves against</legend>{choice}</fieldset><main>{main(histories)}</main>"
    )
    return document(f"{title} - Fabella", content, live=live)


def document(title: str, content: str, *, live: str = "") -> str:
    """A whole file of HTML with its style and script inside. ``content`` is HTML; ``title`` is escaped here."""
    style, script = (resources.files("fabella.report").joinpath(f).read_text("utf-8") for f in ("page.css", "page.js"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" '
        f'content="{POLICY}"><style>{style}</style></head><body{_data(live)}>{content}'
        f"<script>{script}</script></body></html>\n"
    )


def main(histories: Sequence[RunHistory]) -> str:
    """What changes while a run goes on: all but the frame."""
    shown = names(histories)
    kept = fitting(histories)
    parts = [
        _remarks(histories),
        *(
            _figures(history, name if len(histories) > 1 else "")
            for history, name in zip(histories, shown, strict=True)
        ),
        _differences(histories, shown),
        _charts(histories, shown, kept),
        *(_normal(history, kept) for history in histories),
        _samples(histories, shown),
        *(
            evaluated(history, name if len(histories) > 1 else "")
            for history, name in zip(histories, shown, strict=True)
        ),
        _scores(histories, shown),
        _models(histories, shown),
        _configs(histories, shown),
    ]
    return "".join(parts)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first cell of each row names it. Everything is escaped here."""
    top = "".join(f'<th scope="col"{_right(number)}>{escape(cell)}</th>' for number, cell in enumerate(head))
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="number">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="table"><table>{named}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _right(column: int) -> str:
    return ' class="number"' if column else ""


def _data(live: str) -> str:
    return f' data-live="{escape(live)}"' if live else ""


def _live(live: str) -> str:
    return '<p class="soft" id="live" role="status">following the training</p>' if live else ""


def _remarks(histories: Sequence[RunHistory]) -> str:
    remarks = [f"{history.name}: {remark}" for history in histories for remark in history.remarks]
    if len({data_of(history) for history in histories}) > 1:
        remarks.append(
            "These runs did not learn from the same data: losses and perplexities are not comparable, "
            "and bits per byte only as far as the held-out texts are alike."
        )
    elif len({str(history.manifest.get("tokenizer")) for history in histories}) > 1:
        remarks.append("These runs have different tokenizers: compare bits per byte, not losses.")
    return "".join(f'<p class="remark">{escape(remark)}</p>' for remark in remarks)


def _figures(history: RunHistory, name: str) -> str:
    """What a run has come to, in six numbers."""
    last, done = history.last, history.final
    score: Mapping[str, Any] = done or (history.validation[-1] if history.validation else {})
    of = getattr(history.run.training.length, "max_steps", 0)
    steps = f"{last['step']:,}" + (f" of {of:,}" if of and of != last["step"] else "")
    cells = [
        ("steps", steps),
        ("tokens", number(last["tokens"])),
        ("time of training", duration(last["seconds"])),
        ("held-out loss" if done else "validation loss", _number(score.get("loss"), ".4f")),
        ("perplexity", _number(score.get("perplexity"), ".2f")),
        ("bits per byte", _number(score.get("bits_per_byte"), ".4f")),
    ]
    boxes = "".join(f"<div><dt>{word}</dt><dd>{escape(value)}</dd></div>" for word, value in cells)
    return (f"<h3>{escape(name)}</h3>" if name else "") + f'<dl class="figures">{boxes}</dl>'


def _number(value: Any, how: str) -> str:
    return format(value, how) if isinstance(value, int | float) else "-"


def _differences(histories: Sequence[RunHistory], shown: Sequence[str]) -> str:
    if len(histories) < 2:
        return ""
    rows = [[name, *values] for name, values in differing(histories).items()]
    told = table("", ["setting", *shown], rows) if rows else "<p>All settings are the same.</p>"
    keys = "".join(
        f'<span class="run-{number % 8}"><span class="key"></span>{escape(name)}</span> '
        for number, name in enumerate(shown)
    )
    return f"<h2>What differs</h2><p>{keys}</p>{told}"


def _charts(histories: Sequence[RunHistory], shown: Sequence[str], references: Sequence[Reference]) -> str:
    figures = []
    for each in curves(histories, shown, references):
        drawn = "".join(
            f'<div class="against {key}">{chart(each.title, each.lines[key], X[key], each.y)}</div>' for key in X
        )
        legend = dict.fromkeys(line.name for line in each.lines["step"])
        caption = ", ".join(legend) if len(legend) > 1 else ""
        figures.append(f"<figure><h3>{each.title}</h3>{drawn}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<h2>Curves</h2><div class="charts">{"".join(figures)}</div>'


def _normal(history: RunHistory, references: Sequence[Reference]) -> str:
    """Beside which reference a run is shown, and how far the two are alike."""
    found = next((each for each in references if each.matches(history)), None)
    if found is None:
        return ""
    unlike = found.differences(history)
    told = f"The dotted curve is a run of {found.preset} on {found.text} ({found.machine}, {found.date})"
    if not unlike:
        return f'<p class="soft">{escape(told)} with the same settings.</p>'
    items = "".join(f"<li>{escape(one)}</li>" for one in unlike)
    summary = (
        f"{told}; {len(unlike)} setting{'s' * (len(unlike) > 1)} of {history.name} differ{'s' * (len(unlike) == 1)}."
    )
    summary = f'<summary class="soft">{escape(summary)}</summary>'
    return f'<details id="normal-{escape(history.name)}">{summary}<ul>{items}</ul></details>'


def _samples(histories: Sequence[RunHistory], shown: Sequence[str]) -> str:
    told = [
        (row, name) for history, name in zip(histories, shown, strict=True) for row in history.samples[-SHOWN_SAMPLES:]
    ]
    if not told:
        return ""
    told.sort(key=lambda one: int(one[0].get("step", 0)), reverse=True)
    cards = "".join(
        f'<div class="sample"><h3>step {int(row.get("step", 0)):,}{f", {escape(name)}" * (len(histories) > 1)}</h3>'
        f'<p><span class="prompt">{escape(str(row.get("prompt", "")))}</span>'
        f"{escape(str(row.get('text', '')))}</p></div>"
        for row, name in told
    )
    newest, _, rest = cards.partition('<div class="sample">')[2].partition('<div class="sample">')
    older = f'<details id="samples"><summary>Earlier ones: how it learned</summary><div class="sample">{rest}</details>'
    return f'<h2>What it tells</h2><div class="sample">{newest}{older if rest else ""}'


def _scores(histories: Sequence[RunHistory], shown: Sequence[str]) -> str:
    """Every validation in numbers: what the curves show, for who cannot see them."""
    several = len(histories) > 1
    rows = [
        [
            (f"{name}, " if several else "") + f"step {row['step']:,}",
            number(row["tokens"]), duration(row["seconds"]), _number(row.get("loss"), ".4f"),
            _number(row.get("perplexity"), ".2f"), _number(row.get("bits_per_byte"), ".4f"),
        ]
        for history, name in zip(histories, shown, strict=True) for row in history.validation
    ]  # fmt: skip
    head = ["", "tokens", "time", "loss", "perplexity", "bits per byte"]
    return f'<details id="scores"><summary>Every validation in numbers</summary>{table("", head, rows)}</details>'


def _models(histories: Sequence[RunHistory], shown: Sequence[str]) -> str:
    rows: list[list[str]] = [["family"], ["parameters"], ["without embeddings"], ["vocab_size"], ["window, tokens"]]
    for history in histories:
        weights = history.run.model.parameters()
        cells = (
            history.run.model.family, f"{count(weights):,}", f"{count_non_embedding(weights):,}",
            f"{history.run.model.vocab_size:,}", f"{history.run.data.sequences.length:,}",
        )  # fmt: skip
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    environments: list[Mapping[str, Any]] = [history.manifest.get("environment", {}) for history in histories]
    keys = dict.fromkeys(key for one in environments for key in one)
    machine = [[key, *(str(one.get(key, "-")) for one in environments)] for key in keys]
    return (
        f"<h2>What it is</h2>{table('', ['', *shown], rows)}"
        f'<details id="machine"><summary>Where it was trained</summary>{table("", ["", *shown], machine)}</details>'
    )


def _configs(histories: Sequence[RunHistory], shown: Sequence[str]) -> str:
    return "".join(
        f'<details id="config-{escape(name)}"><summary>Config of {escape(name)}</summary>'
        f"<pre>{escape(to_yaml(history.run))}</pre></details>"
        for history, name in zip(histories, shown, strict=True)
    )
