"""Tell stories with a trained model: the text streams as it is told.

Examples:
  fabella generate runs/quickstart "Once upon a time"
  fabella generate runs/quickstart "Once upon a time" "The dragon" --n 2 --tokens 300
  fabella generate runs/quickstart "Once" --temperature 0           always the most likely word
  fabella generate runs/quickstart "Once" --seed 7 --json           the same text every time, for programs
  fabella generate runs/quickstart "Tom said:" --stop "." --checkpoint latest
  fabella generate runs/quickstart --interactive                    tell together, line by line; /help there tells how
"""

import importlib
import io
import secrets
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fabella.cli.interactive.repl import BETWEEN, Dialogue, Place
from fabella.cli.interactive.story_session import Conversation
from fabella.cli.output import is_terminal, print_json, print_result, print_status
from fabella.errors import TrainingInterrupted, UsageError
from fabella.generation.completion import Completion, CompletionStream
from fabella.generation.decoder.weights import parse_weight_dtype
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.tracking.terminal_escape import escape


def command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(help="How each text begins; nothing: the model begins.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Stories for each prompt.")] = 1,
    tokens: Annotated[int, typer.Option(help="Most tokens a story.")] = 200,
    temperature: Annotated[float, typer.Option(help="0: the most likely token; higher: more daring.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k most likely tokens; 0: all.")] = 0,
    top_p: Annotated[float, typer.Option(help="… among those that hold this share of the probability.")] = 0.95,
    min_p: Annotated[float, typer.Option(help="… among those this many times as likely as the likeliest.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: say less again.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same text; otherwise a new one.")] = None,
    checkpoint: Annotated[str, typer.Option(help="best, latest, or the number of a step.")] = "best",
    weights: Annotated[str, typer.Option(help="float32; float16 or int8: faster on CPUs.")] = "float32",
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch or jax; usually the one of the run.")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Do not escape control characters on a terminal.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Tell on together, line by line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    if interactive and (as_json or n != 1 or len(prompts or []) > 1):
        raise UsageError("--interactive tells one story.", hint="Leave out --json, --n and all prompts but one.")
    sampling = SamplingParams(
        repetition_penalty=repetition_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=secrets.randbelow(2**31) if seed is None else seed,
    )
    teller = load(run, checkpoint=checkpoint, device=device, dtype=parse_weight_dtype(weights), engine=engine)
    for remark in teller.warnings:
        print_status(remark)
    harmless = is_terminal(sys.stdout) and not raw
    if interactive:
        conversation = Conversation(teller, sampling, tokens=tokens, stop=tuple(stop or []))
        before = signal.signal(signal.SIGTERM, _ended)
        try:
            Dialogue(conversation, _place(harmless=harmless)).run(*(prompts or []))
        finally:
            signal.signal(signal.SIGTERM, before)
        return
    telling = teller.stream_many(prompts or [""], sampling, n=n, max_tokens=tokens, stop=stop or [])
    if as_json:
        print_json(
            {
                "step": teller.step,
                "sampling": asdict(sampling),
                "completions": [_facts(story) for story in telling.completions()],
            }
        )
        return
    _show(telling, harmless=harmless)
    _report(telling.completions(), sampling, teller)


def _ended(*_: object) -> NoReturn:
    """Answer to SIGTERM in a conversation, which goes on after Ctrl-C and would go on after what looks like it."""
    raise TrainingInterrupted("interrupted.")


def _place(*, harmless: bool) -> Place:
    """At a terminal lines are asked for and can be edited; from a pipe they are read, and stand in the story."""
    people = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    if people:
        with suppress(ImportError):  # not on every system; lines are then read plainly
            importlib.import_module("readline")
        print_status("Write how the story begins; /help tells what else there is, Ctrl-D ends.")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")

    def read() -> str | None:
        try:
            return input("> " if people else "")
        except EOFError:
            print_result()
            return None

    def write(text: str) -> None:
        _write(text, harmless=harmless)

    return Place(read, write, print_status, echo=not people)


def _facts(story: Completion) -> dict[str, str | int | float]:
    return {"text": story.text, **asdict(story)}


def _show(telling: CompletionStream, *, harmless: bool) -> None:
    """Write story after story as they grow."""
    now = -1
    for number, piece in telling.in_prompt_order():
        if number != now:
            _write(BETWEEN if now >= 0 else "", harmless=False)
            _write(telling.prompts[number], harmless=harmless)
            now = number
        _write(piece, harmless=harmless)
    _write("\n", harmless=False)


def _write(text: str, *, harmless: bool) -> None:
    shown = escape(text) if harmless else text
    # A character that the terminal's encoding lacks must not end a story.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # closed when the program began, it is None
    print_result(shown.encode(encoding, "backslashreplace").decode(encoding), end="")


def _report(stories: list[Completion], sampling: SamplingParams, teller: TextGenerator) -> None:
    """What the text itself does not tell: on standard error."""
    cut = sum(story.finish_reason == "length" for story in stories)
    if cut:
        print_status(f"{_count(cut, 'story', 'stories')} reached --tokens before an end.")
    if any(story.context_shifts for story in stories):
        print_status(
            f"A text outgrew the {teller.context_length:,} tokens that the model looks back on; "
            f"each time, it went on from its last {max(1, teller.context_length // 2):,}."
        )
    if sampling.temperature > 0:
        print_status(f"Seed {sampling.seed}: --seed {sampling.seed} tells the same again.")


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
