"""Measure what a run has learned: how well it predicts held-out text, how it tells stories, what it only copied.

Examples:
  fabella evaluate runs/quickstart
  fabella evaluate runs/quickstart --stories 0 --questions 0        the scores alone
  fabella evaluate runs/quickstart --text other-stories.txt         another text
  fabella evaluate runs/quickstart --checkpoint latest --json
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fabella.cli.output import print_report, print_status
from fabella.cli.text_options import Column, DecodeErrorsOption, Separator, decode_errors_of, read_source
from fabella.evaluation.confidence import ConfidenceInterval
from fabella.evaluation.evaluate import EvalConfig, Evaluation, SampleComparison, evaluate
from fabella.evaluation.scores import Scores
from fabella.tracking.terminal_escape import escape


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    text: Annotated[str | None, typer.Option(help="Another text than the held-out one: a file, folder, …")] = None,
    separator: Separator = "auto",
    column: Column = "auto",
    decode_errors: DecodeErrorsOption = "strict",
    stories: Annotated[int, typer.Option(min=0, help="Told to be measured, and as many real ones; 0: none.")] = 64,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens a story.")] = 256,
    questions: Annotated[int, typer.Option(min=0, help="Of the cloze test; 0: none.")] = 200,
    temperature: Annotated[float, typer.Option(help="0: the most likely token; higher: more daring.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Choose among tokens that hold this share of the probability.")] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed, the same stories.")] = 1,
    checkpoint: Annotated[str, typer.Option(help="best, latest, or the number of a step.")] = "best",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually the one of the run.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    asked = EvalConfig(
        checkpoint=checkpoint, device=device, engine=engine,
        text=read_source(text, separator, column) if text else None, decode_errors=decode_errors_of(decode_errors),
        num_samples=stories, max_tokens=tokens, num_cloze=questions, temperature=temperature, top_p=top_p, seed=seed,
    )  # fmt: skip
    result = evaluate(run, asked, print_status)
    print_report(result, lines, as_json=as_json)


def lines(result: Evaluation) -> list[str]:
    """The result for people."""
    shown = [
        *_scores(result.scores, result.text, result.step),
        "",
        *_positions(result.scores),
        "",
        *_calibration(result),
    ]
    if result.samples:
        shown += ["", *_samples(result.samples, result.settings)]
    if result.cloze:
        given = result.cloze
        shown += [
            "",
            f"Endings: of {given.choices}, the true one was the likeliest in {given.accuracy.value:.0%} of "
            f"{given.questions} stories ({given.accuracy.low:.0%} to {given.accuracy.high:.0%}); "
            f"by chance it would be {given.chance:.0%}.",
        ]
    return shown


def _scores(found: Scores, text: str, step: int) -> list[str]:
    return [
        f"Step {step:,} on {escape(text)}: {found.documents:,} documents, {found.tokens:,} tokens, "
        f"{found.bytes:,} bytes",
        "",
        f"  {'loss':<16} {_estimate(found.loss, 4)} nats a token",
        f"  {'perplexity':<16} {_estimate(found.perplexity, 2)}",
        f"  {'bits per byte':<16} {_estimate(found.bits_per_byte, 4)}",
        "",
        "  likeliest documents    " + _named(found.easiest),
        "  unlikeliest documents  " + _named(found.hardest),
    ]


def _estimate(found: ConfidenceInterval, digits: int) -> str:
    between = f"({found.low:,.{digits}f} to {found.high:,.{digits}f})" if found.low == found.low else "(one document)"
    return f"{found.value:>10,.{digits}f}  {between}"


def _named(found: tuple[object, ...]) -> str:
    each = [asdict(one) for one in found]  # pyright: ignore[reportArgumentType]
    return ", ".join(f"{one['document']} ({one['bits_per_byte']:.3f})" for one in each)


def _positions(found: Scores) -> list[str]:
    rows = [f"  {_range(position.first, position.last):<16} {position.loss:>10.4f}" for position in found.positions]
    return ["Loss by position in the context:", *rows]


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _calibration(result: Evaluation) -> list[str]:
    found = result.scores.calibration
    return [
        f"The likeliest token is right {found.accuracy:.1%} of the time; its probability is {found.confidence:.1%} "
        f"on average (expected calibration error {found.error:.2%})."
    ]


def _samples(found: SampleComparison, settings: dict[str, object]) -> list[str]:
    generated, real = found.generated, found.real
    rows: list[tuple[str, float, float, str]] = [
        ("words, mean", generated.words_mean, real.words_mean, ".0f"),
        ("words, median", generated.words_median, real.words_median, ".0f"),
        ("end by themselves", generated.ended, real.ended, ".0%"),
        *((f"distinct runs of {n}", generated.distinct[n], real.distinct[n], ".1%") for n in generated.distinct),
        ("repeated runs of 4", generated.repeated, real.repeated, ".1%"),
        ("names a story", generated.names_per_story, real.names_per_story, ".1f"),
        ("mentions of kept names", generated.name_consistency, real.name_consistency, ".0%"),
        ("words never learned", generated.unknown_words, real.unknown_words, ".2%"),
        *(
            (f"learned runs of {n}", generated.ngram_overlap[n], real.ngram_overlap[n], ".1%")
            for n in generated.ngram_overlap
        ),
        ("longest copy, mean", generated.copied_mean, real.copied_mean, ".1f"),
        ("longest copy, words", len(generated.copied_longest.split()), len(real.copied_longest.split()), ".0f"),
    ]
    table = [f"  {name:<24} {format(own, how):>9} {format(other, how):>8}" for name, own, other, how in rows]
    head = (
        f"{generated.stories} samples after the first {settings['prompt_words']} words of real ones "
        f"(temperature {settings['temperature']}, top-p {settings['top_p']}, seed {settings['seed']}, "
        f"at most {settings['max_tokens']} tokens):"
    )
    return [
        head,
        f"  {'':<24} {'generated':>9} {'real':>8}",
        *table,
        f"  longest copy: {escape(generated.copied_longest)[:300]}",
    ]
