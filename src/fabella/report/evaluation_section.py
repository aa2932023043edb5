"""Section of the report with the results of ``fabella evaluate``."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fabella.report.charts import Axis, Line, caption, chart
from fabella.report.run_history import RunHistory
from fabella.runs.checkpoint import of_average
from fabella.storage import format_exp

# Field of TextMetrics, label, format. The labels are those of ``fabella evaluate``.
MEASURES = (
    ("words_mean", "words, mean", ".0f"),
    ("ended", "completed with EOS", ".0%"),
    ("repeated", "repeated 4-grams", ".1%"),
    ("name_consistency", "entity consistency", ".0%"),
    ("unknown_words", "unknown words", ".2%"),
    ("copied_mean", "longest verbatim copy, words, mean", ".1f"),
)


def evaluation_section(history: RunHistory, name: str) -> str:
    """Return scores with intervals, calibration, sample measures and the exam; empty if the run was not evaluated."""
    of = f": {escape(name)}" if name else ""
    return _evaluation(history.evaluation, of) + _exam(history.exam, of)


def _evaluation(result: Mapping[str, Any] | None, of: str) -> str:
    if result is None:
        return ""
    step = f"{int(result['step']):,}{of_average(result['settings'].get('weights', ''))}"
    parts = [*(_scores(scores, step) for scores in result["scores"]), _charts(result["scores"][0])]
    if result.get("samples"):
        parts.append(_samples(result["samples"], result["settings"]))
    if cloze := result.get("cloze"):
        accuracy = cloze["accuracy"]
        parts.append(
            f"<p>Cloze test: accuracy {accuracy['value']:.0%} ({accuracy['low']:.0%} to {accuracy['high']:.0%}) with "
            f"{cloze['choices']} endings per story on {cloze['questions']:,} validation stories; chance is "
            f"{cloze['chance']:.0%}.</p>"
        )
    return f"<h2>Evaluation{of}</h2>{''.join(parts)}"


def _exam(result: Mapping[str, Any] | None, of: str) -> str:
    """Return the table of an exam: accuracy with its interval, chance, and the difference that its questions show."""
    if result is None:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(task["name"])}</th>'
        + "".join(
            f'<td class="number">{cell}</td>'
            for cell in (
                f"{task['questions']:,}",
                f"{task['accuracy']['value']:.1%}",
                f"{task['accuracy']['low']:.1%} to {task['accuracy']['high']:.1%}",
                f"{task['chance']:.0%}",
                f"{task['separable']:.1%}",
            )
        )
        + "</tr>"
        for task in result["tasks"]
    )
    head = "".join(
        f'<th scope="col" class="number">{cell}</th>'
        for cell in ("questions", "accuracy", "95 %", "chance", "separable")
    )
    step = f"{int(result['step']):,}{of_average(result.get('weights', ''))}"
    title = f"Suite {escape(result['suite'])}, step {step}. Separable: difference that two runs show"
    return (
        f'<h2>Exam{of}</h2><div class="table"><table><caption>{title}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_copies(result.get('copies'))}"
    )


def _copies(copies: Mapping[str, Any] | None) -> str:
    if not copies:
        return ""
    return (
        f"<p>Longest copy of the training text: {copies['generated']['value']:.1f} words in {copies['samples']} "
        f"samples, {copies['real']['value']:.1f} in real text.</p>"
    )


def _scores(scores: Mapping[str, Any], step: str) -> str:
    def interval(key: str, digits: int) -> str:
        value, low, high = (scores[key][part] for part in ("value", "low", "high"))
        bounds = f" ({low:.{digits}f} to {high:.{digits}f})" if low is not None else ""
        return f"{value:.{digits}f}{bounds}" if value is not None else "-"

    return (
        f"<p>Rule {escape(scores['rule'])}, step {step}, on {scores['documents']:,} validation documents with "
        f"{scores['tokens']:,} tokens: loss {interval('loss', 4)}, perplexity {_perplexity(scores['loss'])}, "
        f"{interval('bits_per_byte', 4)} bits "
        "per byte (95 % confidence intervals over documents).</p>"
    )


def _perplexity(loss: Mapping[str, Any]) -> str:
    value, low, high = (loss[part] for part in ("value", "low", "high"))
    bounds = f" ({format_exp(low)} to {format_exp(high)})" if low is not None else ""
    return f"{format_exp(value)}{bounds}" if value is not None else "-"


def _charts(scores: Mapping[str, Any]) -> str:
    positions = [((part["first"] + part["last"]) / 2, part["loss"]) for part in scores["positions"]]
    bins = [(part["confidence"], part["accuracy"]) for part in scores["calibration"]["bins"] if part["tokens"]]
    calibration = [Line("model", bins), Line("perfectly calibrated", [(0.0, 0.0), (1.0, 1.0)], 0, "reference")]
    losses = [Line("loss", positions)]
    rule = escape(scores["rule"])
    position = chart("Loss by position", losses, Axis("earlier tokens"), Axis("nats per token", log=True))
    error = scores["calibration"]["error"]
    return (
        '<div class="charts">'
        f"<figure><h3>Loss by position in the context, {rule}</h3>"
        f"{position}{caption(losses)}</figure>"
        f"<figure><h3>Calibration, {rule}</h3>"
        f"{chart('Calibration', calibration, Axis('probability of the top token'), Axis('accuracy'))}"
        f"{caption(calibration, f'expected calibration error {error:.2%}')}</figure></div>"
    )


def _samples(samples: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    generated, real = samples["generated"], samples["real"]
    rows = [(label, format(generated[key], spec), format(real[key], spec)) for key, label, spec in MEASURES]
    overlap, real_overlap = generated["ngram_overlap"], real["ngram_overlap"]
    rows += [(f"{n}-grams found in the training text", f"{overlap[n]:.1%}", f"{real_overlap[n]:.1%}") for n in overlap]
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th><td class="number">{generated_value}</td>'
        f'<td class="number">{real_value}</td></tr>'
        for label, generated_value, real_value in rows
    )
    caption = (
        f"{generated['stories']} generated stories and as many real ones with the same prompts (temperature "
        f"{settings['temperature']}, top-p {settings['top_p']}, seed {settings['seed']})"
    )
    return (
        f'<div class="table"><table><caption>{escape(caption)}</caption><thead><tr><th></th>'
        f'<th scope="col" class="number">generated</th><th scope="col" class="number">real</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
