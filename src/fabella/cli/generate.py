"""Generate text with a trained model; it is printed as it is generated.

Examples:
  fabella generate "Once upon a time"                               with the included model, the storyteller
  fabella generate runs/quickstart "Once upon a time"
  fabella generate runs/quickstart "Once upon a time" "The dragon" --n 2 --max-tokens 300
  fabella generate runs/quickstart "Once" --temperature 0           greedy: always the most likely token
  fabella generate runs/quickstart "Once" --seed 7 --json           reproducible, as JSON
  fabella generate runs/quickstart "Tom said:" --stop "." --checkpoint latest
  fabella generate runs/quickstart --interactive                    write a story in turns; /help lists the commands
"""

import importlib
import io
import os
import re
import secrets
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fabella.cli.interactive.repl import SEPARATOR, Repl, ReplIO
from fabella.cli.interactive.story_session import StorySession
from fabella.cli.output import is_terminal, print_json, print_result, print_status
from fabella.cli.run_options import AsJson, CheckpointOption, Device, RunEngine, WeightsOption
from fabella.errors import TrainingInterrupted, UsageError
from fabella.generation.completion import Completion, CompletionStream
from fabella.generation.decoder.weights import parse_weight_dtype
from fabella.generation.generator import TextGenerator, load
from fabella.generation.sampling import SamplingParams
from fabella.storyteller import NAME
from fabella.text.chat.template import Message
from fabella.tracking.terminal_escape import escape

Run = Annotated[
    Path, typer.Argument(help="Run directory; storyteller, or a prompt in its place, for the included model.")
]
Prompts = Annotated[list[str] | None, typer.Argument(help="Prompts; without one, the model starts a new document.")]
TopP = Annotated[float, typer.Option(help="Top-p: sample from the smallest set with this probability; 1 disables it.")]
MinP = Annotated[
    float, typer.Option(help="Min-p: drop tokens below this fraction of the top probability; 0 disables it.")
]
RepetitionPenalty = Annotated[float, typer.Option(help="Repetition penalty; 1 disables it.")]
FrequencyPenalty = Annotated[
    float, typer.Option(help="Subtract this from a token's logit for each time it was generated; 0 disables it.")
]
PresencePenalty = Annotated[
    float, typer.Option(help="Subtract this from the logit of a token that was generated; 0 disables it.")
]
DecodeDtype = Annotated[
    str, typer.Option(help="Storage type of the weights while decoding: float32, float16, bfloat16 or int8 (CPU).")
]
Chat = Annotated[
    bool | None,
    typer.Option(
        "--chat/--no-chat",
        help="Send the prompt as a message in the chat template of the run; by default in an interactive session.",
    ),
]
Interactive = Annotated[
    bool, typer.Option("--interactive", "-i", help="Write a story in turns, or chat with a model trained for it.")
]
NoEscape = Annotated[bool, typer.Option("--no-escape", help="Write control characters to the terminal as they are.")]
Stop = Annotated[list[str] | None, typer.Option(help="Stop sequence, not included in the output; repeatable.")]


def command(
    run: Run,
    prompts: Prompts = None,
    prompt: Annotated[list[str] | None, typer.Option(help="Prompt, like the argument; repeatable.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Number of completions for each prompt.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of new tokens.")] = 200,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Top-k: sample from the k most likely tokens; 0 disables it.")] = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    frequency_penalty: FrequencyPenalty = 0.0,
    presence_penalty: PresencePenalty = 0.0,
    seed: Annotated[int | None, typer.Option(help="Random seed; by default a new one each time.")] = None,
    checkpoint: CheckpointOption = "best",
    weights: WeightsOption = "trained",
    dtype: DecodeDtype = "float32",
    stop: Stop = None,
    device: Device = "auto",
    engine: RunEngine = "",
    no_escape: NoEscape = False,
    interactive: Interactive = False,
    chat: Chat = None,
    as_json: AsJson = False,
) -> None:
    run, prompts = _run_and_prompts(run, [*(prompts or []), *(prompt or [])])
    if interactive and (as_json or n != 1 or len(prompts) > 1):
        raise UsageError(
            "--interactive generates one story.", hint="Leave out --json and --n, and give at most one prompt."
        )
    sampling = SamplingParams(
        repetition_penalty=repetition_penalty,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=secrets.randbelow(2**31) if seed is None else seed,
    )
    generator = load(
        run, checkpoint=checkpoint, weights=weights, device=device, dtype=parse_weight_dtype(dtype), engine=engine
    )
    for warning in generator.warnings:
        print_status(warning)
    escaped = is_terminal(sys.stdout) and not no_escape
    chat = _uses_chat(chat, generator, prompts, interactive=interactive)
    if interactive:
        session = StorySession(generator, sampling, max_tokens=max_tokens, stop=tuple(stop or []), chat=chat)
        _run_session(session, prompts, escaped)
        return
    options: dict[str, Any] = {"n": n, "max_tokens": max_tokens, "stop": stop or []}
    stream = _stream(generator, prompts, sampling, options, chat=chat)
    if as_json:
        completions = [_to_json(completion) for completion in stream.completions()]
        of = {"step": generator.step, "weights": weights, "sampling": asdict(sampling)}
        print_json({**of, "completions": completions})
        return
    _print_stream(stream, escaped=escaped)
    _print_summary(stream.completions(), sampling, generator)


def _run_and_prompts(run: Path, prompts: list[str]) -> tuple[Path, list[str]]:
    """Return the included model and one more prompt if a prompt stands in the place of the run."""
    # A prompt may be longer than any file name: Path.exists would raise for it.
    is_prompt = re.search(r"\s", str(run)) is not None and not os.path.lexists(run)
    return (Path(NAME), [str(run), *prompts]) if is_prompt else (run, prompts)


def _uses_chat(chat: bool | None, generator: TextGenerator, prompts: list[str], *, interactive: bool) -> bool:
    """Return whether prompts are messages. Raise UsageError for --chat without a template or a single message."""
    if chat and generator.chat is None:
        raise UsageError("The model was not trained with a chat template.", hint="Leave out --chat.")
    if chat and not interactive and len(prompts) != 1:
        raise UsageError("--chat takes one message.", hint="Give one prompt, or use --interactive.")
    return interactive and generator.chat is not None if chat is None else chat


def _stream(
    generator: TextGenerator, prompts: list[str], sampling: SamplingParams, options: dict[str, Any], *, chat: bool
) -> CompletionStream:
    """Return the stream of the completions of the prompts, or of the answers to one message."""
    if chat:
        return generator.stream_chat([Message("user", prompts[0])], sampling, **options)
    return generator.stream_many(prompts or [""], sampling, **options)


def _run_session(session: StorySession, prompts: list[str] | None, escaped: bool) -> None:
    previous_handler = signal.signal(signal.SIGTERM, _terminate)
    try:
        Repl(session, _terminal_io(escaped=escaped, chat=session.chat)).run(*(prompts or []))
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _terminate(*_: object) -> NoReturn:
    """Handle SIGTERM in a session: it must end the process, although Ctrl-C (KeyboardInterrupt) does not."""
    raise TrainingInterrupted("interrupted.")


def _terminal_io(*, escaped: bool, chat: bool) -> ReplIO:
    """Return an editable prompt on a terminal; from a pipe, lines are read and echoed into the story."""
    on_terminal = is_terminal(sys.stdin) and is_terminal(sys.stdout)
    if on_terminal:
        with suppress(ImportError):  # readline does not exist on every system; lines are then not editable
            importlib.import_module("readline")
        what = "a message" if chat else "the beginning of a story"
        print_status(f"Write {what}. /help lists the commands, Ctrl-D exits.")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")

    def read() -> str | None:
        try:
            return input("> " if on_terminal else "")
        except EOFError:
            print_result()
            return None

    def write(text: str) -> None:
        _write(text, escaped=escaped)

    return ReplIO(read, write, print_status, echo=not on_terminal)


def _to_json(completion: Completion) -> dict[str, str | int | float]:
    return {"text": completion.text, **asdict(completion)}


def _print_stream(stream: CompletionStream, *, escaped: bool) -> None:
    """Print one completion after the other while they are generated."""
    current = -1
    for number, piece in stream.in_prompt_order():
        if number != current:
            _write(SEPARATOR if current >= 0 else "", escaped=False)
            _write(stream.prompts[number], escaped=escaped)
            current = number
        _write(piece, escaped=escaped)
    _write("\n", escaped=False)


def _write(text: str, *, escaped: bool) -> None:
    printable = escape(text) if escaped else text
    # A character that the terminal's encoding lacks must not end the output.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # None if stdout was closed at the start
    print_result(printable.encode(encoding, "backslashreplace").decode(encoding), end="")


def _print_summary(completions: list[Completion], sampling: SamplingParams, generator: TextGenerator) -> None:
    """Print to standard error what the text does not show: truncation, context shifts, the seed."""
    truncated = sum(completion.finish_reason == "length" for completion in completions)
    if truncated:
        print_status(f"{_count(truncated, 'completion')} reached --max-tokens before an end.")
    if any(completion.context_shifts for completion in completions):
        print_status(
            f"A text exceeded the context of {generator.context_length:,} tokens; "
            f"each time, generation continued from its last {max(1, generator.context_length // 2):,}."
        )
    if sampling.temperature > 0:
        print_status(f"Seed {sampling.seed}: --seed {sampling.seed} generates the same text again.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
