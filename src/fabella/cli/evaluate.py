"""Evaluate a run: loss on held-out text, quality of generated text, cloze accuracy and memorization.

Examples:
  fabella evaluate runs/quickstart
  fabella evaluate runs/quickstart --num-samples 0 --num-cloze 0    only the loss on held-out text
  fabella evaluate runs/quickstart --rule line --length 256         in sequences of 256 tokens, as training scores
  fabella evaluate runs/quickstart --text other-stories.txt         on another text
  fabella evaluate runs/quickstart --suite small                    an exam of stories with known truth
  fabella evaluate runs/quickstart --suite small --blimp blimp/data --against runs/other
  fabella evaluate runs/quickstart --checkpoint latest --json
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from fabella.cli.output import print_json, print_report, print_result, print_status
from fabella.cli.run_options import AsJson, CheckpointOption, Device, RunEngine, WeightsOption
from fabella.cli.text_options import ReadingOptions, expand_options
from fabella.errors import UsageError
from fabella.evaluation.confidence import ConfidenceInterval
from fabella.evaluation.evaluate import EvalConfig, Evaluation, SampleComparison, evaluate
from fabella.evaluation.exam.exam import Exam, TaskDifference, compare_exams, hold_exam, read_exam
from fabella.evaluation.scoring.scores import DocumentScore, Scores
from fabella.runs.checkpoint import of_average
from fabella.storage import format_exp
from fabella.tracking.terminal_escape import escape


@expand_options
def command(
    reading: ReadingOptions,
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    text: Annotated[
        str | None, typer.Option(help="Text to evaluate on, as for train; by default the held-out text.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="New path of the run's dataset, if it was moved.")] = None,
    rule: Annotated[
        Literal["line", "story"] | None,
        typer.Option(help="Scoring rule: line (packed sequences) or story (each document from its start); or both."),
    ] = None,
    length: Annotated[
        int, typer.Option(min=0, help="Tokens of a sequence and of the context; by default those of the training.")
    ] = 0,
    suite: Annotated[
        Literal["small"] | None, typer.Option(help="Hold this exam instead, which needs no text and no network.")
    ] = None,
    blimp: Annotated[Path | None, typer.Option(help="Directory with BLiMP's .jsonl files, for --suite.")] = None,
    against: Annotated[Path | None, typer.Option(help="Run whose exam is compared, for --suite.")] = None,
    num_samples: Annotated[
        int, typer.Option(min=0, help="Number of generated samples to compare with real texts; 0 disables it.")
    ] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens per sample.")] = 256,
    num_cloze: Annotated[int, typer.Option(min=0, help="Number of cloze questions; 0 disables the test.")] = 200,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.8,
    top_p: Annotated[float, typer.Option(help="Top-p; 1 disables it.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 1,
    checkpoint: CheckpointOption = "best",
    weights: WeightsOption = "trained",
    device: Device = "auto",
    engine: RunEngine = "",
    as_json: AsJson = False,
) -> None:
    if not text and reading != ReadingOptions():
        raise UsageError("Options for reading are only for --text.", hint="Leave them out, or give --text.")
    if suite:
        if text or data or rule or length:
            raise UsageError("An exam has texts of its own.", hint="Leave out --suite, or --text, --data and --rule.")
        other = read_exam(against) if against else None
        exam = hold_exam(
            run, suite=suite, blimp=blimp, checkpoint=checkpoint, weights=weights, device=device, engine=engine,
            report=print_status,
        )  # fmt: skip
        _print_exam(exam, compare_exams(exam, other) if other else [], as_json=as_json)
        return
    if blimp or against:
        raise UsageError("--blimp and --against are only for --suite.", hint="Add --suite small.")
    config = EvalConfig(
        checkpoint=checkpoint, weights=weights, device=device, engine=engine, data=data,
        text=reading.source(text) if text else None, decode_errors=reading.policy(),
        max_bad_lines=reading.max_bad_lines, rule=rule or "", length=length,
        num_samples=num_samples, max_tokens=max_tokens, num_cloze=num_cloze,
        temperature=temperature, top_p=top_p, seed=seed,
    )  # fmt: skip
    result = evaluate(run, config, print_status)
    print_report(result, lines, as_json=as_json)


def _print_exam(exam: Exam, differences: list[TaskDifference], *, as_json: bool) -> None:
    if as_json:
        print_json({**exam.as_json(), "against": [asdict(difference) for difference in differences]})
        return
    for warning in exam.warnings:
        print_status(warning)
    print_result("\n".join(exam_lines(exam, differences)))


def exam_lines(exam: Exam, differences: list[TaskDifference]) -> list[str]:
    """Format an exam as text."""
    text = [
        f"Exam {exam.suite}, step {exam.step:,}{of_average(exam.weights)}: {exam.seconds:.0f} s",
        "",
        f"  {'task':<24} {'questions':>9} {'accuracy':>9}  {'95 %':<16} {'chance':>7} {'separable':>10}",
    ]
    for task in exam.tasks:
        bounds = f"{task.accuracy.low:.1%} to {task.accuracy.high:.1%}"
        text.append(
            f"  {task.name:<24} {task.questions:>9,} {task.accuracy.value:>9.1%}  {bounds:<16} {task.chance:>7.0%} "
            f"{task.separable:>10.1%}"
        )
    text += ["", "'separable' is the difference of two runs that so many questions show."]
    if copies := exam.copies:
        text += [
            f"Longest copy of the training text: {_words(copies.generated)} in {copies.samples} samples, "
            f"{_words(copies.real)} in real text: {escape(copies.longest)[:200]}"
        ]
    for each in differences:
        interval, needed = each.difference, each.questions_to_separate
        more = "no difference" if needed is None else f"a difference of this size needs {needed:,} questions"
        text.append(f"  {each.name:<24} {interval.value:+.1%} ({interval.low:+.1%} to {interval.high:+.1%}): {more}")
    return text


def _words(interval: ConfidenceInterval) -> str:
    bounds = "" if math.isnan(interval.low) else f" ({interval.low:.1f} to {interval.high:.1f})"
    return f"{interval.value:.1f} words{bounds}"


def lines(result: Evaluation) -> list[str]:
    """Format the result as text."""
    first = result.scores[0]
    text = [
        f"Step {result.step:,}{of_average(result.settings['weights'])} on {escape(result.text)}:",
        *(row for each in result.scores for row in _scores(each)),
    ]
    text += ["", *_positions(first), "", *_calibration(first)]
    if result.samples:
        text += ["", *_samples(result.samples, result.settings)]
    if result.cloze:
        cloze = result.cloze
        text += [
            "",
            f"Cloze accuracy: {cloze.accuracy.value:.0%} of {cloze.questions} stories with {cloze.choices} endings "
            f"each ({cloze.accuracy.low:.0%} to {cloze.accuracy.high:.0%}); by chance it would be {cloze.chance:.0%}.",
        ]
    return text


def _scores(scores: Scores) -> list[str]:
    return [
        "",
        f"Rule {scores.rule}: {scores.documents:,} documents, {scores.tokens:,} tokens, {scores.bytes:,} bytes",
        "",
        f"  {'loss':<16} {_estimate(scores.loss, 4)} nats per token",
        f"  {'perplexity':<16} {_perplexity(scores.loss)}",
        f"  {'bits per byte':<16} {_estimate(scores.bits_per_byte, 4)}",
        "",
        "  lowest-loss documents   " + _list_documents(scores.easiest),
        "  highest-loss documents  " + _list_documents(scores.hardest),
    ]


def _estimate(interval: ConfidenceInterval, digits: int) -> str:
    low, high = interval.low, interval.high
    bounds = "(one document)" if math.isnan(low) else f"({low:,.{digits}f} to {high:,.{digits}f})"
    return f"{interval.value:>10,.{digits}f}  {bounds}"


def _perplexity(loss: ConfidenceInterval) -> str:
    bounds = "(one document)" if math.isnan(loss.low) else f"({format_exp(loss.low)} to {format_exp(loss.high)})"
    return f"{format_exp(loss.value):>10}  {bounds}"


def _list_documents(documents: tuple[DocumentScore, ...]) -> str:
    return ", ".join(f"{score.document} ({score.bits_per_byte:.3f})" for score in documents)


def _positions(scores: Scores) -> list[str]:
    rows = [f"  {_range(position.first, position.last):<16} {position.loss:>10.4f}" for position in scores.positions]
    return [f"Loss by position in the context ({scores.rule}):", *rows]


def _range(first: int, last: int) -> str:
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def _calibration(scores: Scores) -> list[str]:
    calibration = scores.calibration
    return [
        f"The most likely token is correct {calibration.accuracy:.1%} of the time; its probability is "
        f"{calibration.confidence:.1%} on average (expected calibration error {calibration.error:.2%})."
    ]


def _samples(samples: SampleComparison, settings: dict[str, object]) -> list[str]:
    generated, real = samples.generated, samples.real
    rows: list[tuple[str, float, float, str]] = [
        ("words, mean", generated.words_mean, real.words_mean, ".0f"),
        ("words, median", generated.words_median, real.words_median, ".0f"),
        ("completed with EOS", generated.ended, real.ended, ".0%"),
        *((f"distinct {n}-grams", generated.distinct[n], real.distinct[n], ".1%") for n in generated.distinct),
        ("repeated 4-grams", generated.repeated, real.repeated, ".1%"),
        ("names per story", generated.names_per_story, real.names_per_story, ".1f"),
        ("entity consistency", generated.name_consistency, real.name_consistency, ".0%"),
        ("unknown words", generated.unknown_words, real.unknown_words, ".2%"),
        *(
            (f"{n}-grams found in the training text", generated.ngram_overlap[n], real.ngram_overlap[n], ".1%")
            for n in generated.ngram_overlap
        ),
        ("longest verbatim copy, words, mean", generated.copied_mean, real.copied_mean, ".1f"),
        (
            "longest verbatim copy, words, max",
            len(generated.copied_longest.split()),
            len(real.copied_longest.split()),
            ".0f",
        ),
    ]
    table = [
        f"  {label:<34} {format(generated_value, spec):>9} {format(real_value, spec):>8}"
        for label, generated_value, real_value, spec in rows
    ]
    title = (
        f"{generated.stories} samples after the first {settings['prompt_words']} words of real ones "
        f"(temperature {settings['temperature']}, top-p {settings['top_p']}, seed {settings['seed']}, "
        f"at most {settings['max_tokens']} tokens):"
    )
    return [
        title,
        f"  {'':<34} {'generated':>9} {'real':>8}",
        *table,
        f"  longest verbatim copy: {escape(generated.copied_longest)[:300]}",
    ]
