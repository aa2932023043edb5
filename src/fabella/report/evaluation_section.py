"""What ``fabella evaluate`` found, as a part of the page."""

from collections.abc import Mapping
from html import escape
from typing import Any

from fabella.report.charts import Axis, Line, chart
from fabella.report.run_history import RunHistory

COUNTED = (
    ("words_mean", "words, mean", ".0f"),
    ("ended", "end by themselves", ".0%"),
    ("repeated", "repeated runs of 4 words", ".1%"),
    ("name_consistency", "entity consistency", ".0%"),
    ("unknown_words", "words never learned", ".2%"),
    ("copied_mean", "longest copy, words, mean", ".1f"),
)


def evaluated(history: RunHistory, name: str) -> str:
    """Scores with intervals, calibration, story measures; nothing where the run was not evaluated."""
    found = history.evaluation
    if found is None:
        return ""
    title = "What it has learned" + (f": {escape(name)}" if name else "")
    parts = [_scores(found["scores"], int(found["step"])), _pictures(found["scores"])]
    if found.get("samples"):
        parts.append(_samples(found["samples"], found["settings"]))
    if answers := found.get("cloze"):
        accuracy = answers["accuracy"]
        parts.append(
            f"<p>Of {answers['choices']} endings, the true one was the likeliest in {accuracy['value']:.0%} of "
            f"{answers['questions']:,} held-out stories ({accuracy['low']:.0%} to {accuracy['high']:.0%}); "
            f"by chance it would be {answers['chance']:.0%}.</p>"
        )
    return f"<h2>{title}</h2>{''.join(parts)}"


def _scores(scores: Mapping[str, Any], step: int) -> str:
    def told(key: str, digits: int) -> str:
        value, low, high = (scores[key][part] for part in ("value", "low", "high"))
        between = f" ({low:.{digits}f} to {high:.{digits}f})" if low is not None else ""
        return f"{value:.{digits}f}{between}" if value is not None else "-"

    return (
        f"<p>Step {step:,}, on {scores['documents']:,} held-out documents with {scores['tokens']:,} tokens: "
        f"loss {told('loss', 4)}, perplexity {told('perplexity', 2)}, {told('bits_per_byte', 4)} bits per byte "
        "(95 % intervals over documents).</p>"
    )


def _pictures(scores: Mapping[str, Any]) -> str:
    places = [((place["first"] + place["last"]) / 2, place["loss"]) for place in scores["positions"]]
    bins = [(each["confidence"], each["accuracy"]) for each in scores["calibration"]["bins"] if each["tokens"]]
    calibration = [Line("model", bins), Line("perfectly calibrated", [(0.0, 0.0), (1.0, 1.0)], 0, "reference")]
    position = chart(
        "Loss by position", [Line("loss", places)], Axis("tokens read before"), Axis("nats a token", log=True)
    )
    error = scores["calibration"]["error"]
    return (
        '<div class="charts">'
        f"<figure><h3>Loss by position in the context</h3>"
        f"{position}"
        "<figcaption></figcaption></figure>"
        f"<figure><h3>Calibration</h3>"
        f"{chart('Calibration', calibration, Axis('probability of the likeliest token'), Axis('share that is right'))}"
        f"<figcaption>expected calibration error {error:.2%}</figcaption></figure></div>"
    )


def _samples(samples: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    generated, real = samples["generated"], samples["real"]
    rows = [(word, format(generated[key], how), format(real[key], how)) for key, word, how in COUNTED]
    overlap = generated["ngram_overlap"]
    rows += [
        (f"{n}-grams in the training text", f"{overlap[n]:.1%}", f"{real['ngram_overlap'][n]:.1%}") for n in overlap
    ]
    body = "".join(
        f'<tr><th scope="row">{escape(word)}</th><td class="number">{own}</td><td class="number">{other}</td></tr>'
        for word, own, other in rows
    )
    caption = (
        f"{generated['stories']} generated samples and as many real texts with the same first words (temperature "
        f"{settings['temperature']}, top-p {settings['top_p']}, seed {settings['seed']})"
    )
    return (
        f'<div class="table"><table><caption>{escape(caption)}</caption><thead><tr><th></th>'
        f'<th scope="col" class="number">generated</th><th scope="col" class="number">real</th></tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
