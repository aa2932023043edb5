"""Inject every fault that the tests know and write the scoreboard, docs/faults.md. Run it with `make faults`.

A test that injects a fault says so: `@pytest.mark.fault("A9", cases=500)`, where `cases` counts what the
test injects, all of its parameters together: ten sets of parameters with `cases=10` are one case each, so that no
number here is larger than what was said. A fault counts as held only when its test passed.
Options: `--nightly` adds the long tests of `make test-faults`; anything else goes to pytest (`-k checkpoint`).
"""

import datetime
import math
import platform
import sys
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"

GROUPS = {
    "A": "Checkpoints and resuming",
    "B": "Text, tokenizing and reading",
    "C": "Processes and signals",
    "D": "Numbers, environment and logging",
    "E": "Hostile model files",
    "F": "Server",
    "G": "Tokenizers, Unicode, sampling, command line",
    "H": "Supply chain",
}

# Row of the fault matrix → what is injected, and what must happen then.
ROWS = {
    "A1": "SIGKILL at a random moment of a save: the newest complete checkpoint loads",
    "A2": "SIGKILL at every named point of a save: some checkpoint always loads",
    "A3": "chains of kills and resumes: the final weights are bit for bit those of one uninterrupted run",
    "A4": "the same chains: never more than one save interval of work is lost",
    "A5": "disk full at many fill levels of a save: the old checkpoint is intact, nothing is left behind",
    "A6": "file too large, quota, I/O error, read-only, no permission, in each phase of a save",
    "A7": "no space when a run begins: refused before the first step, with the estimate",
    "A8": "a checkpoint file cut short at every 64th and at its last byte",
    "A9": "one bit flipped anywhere in a checkpoint",
    "A10": "tensors missing, added, renamed, of another shape or type; no optimizer",
    "A11": "resuming in a new process: the optimizer's moments and step are those of the run",
    "A12": "one part of the state forgotten: the test of resuming must notice",
    "A13": "a half-written checkpoint of the same step in the way of a save",
    "A14": "the pointer to the latest checkpoint missing, dangling, outside, or to a torn one",
    "A15": "clocks that jump and modification times shuffled: checkpoints are chosen by step",
    "A16": "saving behind the loop: the writer raises, dies or is slow; the error surfaces, nothing half is left",
    "A17": "pruning: never the latest, the best, the one being written or resumed from",
    "A18": "the order of writing, flushing and renaming, recorded call by call",
    "A19": "two trainings of one run folder at once: one wins, the other is told who has it",
    "A20": "resuming with a changed config: refused, warned of or allowed, key by key",
    "A21": "a run moved to other numbers of processes, prepared or streamed: the same samples in the same order",
    "A22": "checkpoints of released versions",
    "A24": "the same seed in new processes: the same bits",
    "A25": "evaluating, sampling and saving more or less often: the same bits",
    "B1": "SIGKILL while text is prepared: done again, the result is the same",
    "B2": "prepared shards cut short, flipped, of another type, with ids beyond the vocabulary",
    "B3": "empty files, empty shards, texts shorter than a window, newlines only",
    "B4": "damaged UTF-8, BOMs, UTF-16, NUL, lone surrogates, CRLF, enormous lines",
    "B5": "broken .jsonl and .csv lines: the line is named, or skipped within the budget",
    "B6": "compression bombs: stopped early, memory bounded",
    "B7": "archives and paths that lead outside",
    "B8": "a download that breaks off: gone on with where it broke, or an error that says so",
    "B9": "a thread or process that reads ahead dies, raises or hangs",
    "B10": "resuming at every position, epoch edges and twice in one epoch among them",
    "B11": "memory over many steps",
    "B12": "file handles and shared memory over many starts and stops",
    "B13": "shared memory that is too small: none is used",
    "B14": "text changed between a run and its resuming",
    "B15": "the same document in training and validation text",
    "C1": "signals in every phase of a run: one checkpoint, the documented exit code",
    "C2": "signals for every process of a job: those that read for the training leave them to it",
    "C3": "a signal to one of several processes: all stop at the same step, one checkpoint, the same bits when resumed",
    "C4": "one of several processes killed: the others end in time and say which; the same bits when resumed",
    "C5": "one of several processes hangs, fails, or has numbers that are not finite: all end, and say which",
    "C6": "an error that only one of several processes meets: all end, and say which and why",
    "C7": "torchrun starts killed processes again: they go on, the same bits",
    "C8": "the launcher of several processes killed: they save and end",
    "C9": "a port that is in use: said plainly, with the process and a free port",
    "C10": "two and four processes against one: the same samples, losses and weights but for rounding",
    "C11": "a disk that is slow while a checkpoint is written: the training goes on, what is saved is of its step",
    "D1": "NaN and infinity in loss, gradients, weights or data",
    "D2": "weights that are not finite never become the best checkpoint",
    "D3": "a gradient norm that leaps up: the first step of it is told, with what is usual",
    "D4": "half precision resumed: the loss scale and its counts are those of the run",
    "D5": "a tracking service that fails: training goes on, nothing is lost locally",
    "D6": "metrics after a kill: a torn last line is tolerated, no step stands twice",
    "D7": "closed output, no terminal, LANG=C, read-only home, spaces and Unicode in paths",
    "D8": "the clock set back during a run",
    "D9": "memory that ends while a few steps are tried: the tool lives on and says what would fit",
    "D10": "an interruption at any moment of the training loop: every file that is left is whole",
    "E1": "pickles in every place where a file is read: their code never runs",
    "E2": "calls that could run what they read, searched for in the source",
    "E6": "well-formed configs with absurd sizes: refused before anything is allocated",
    "E7": "hostile tokenizer files",
    "E8": "names with slashes, dots, NUL, newlines and escape sequences",
    "E12": "secrets planted in the environment: found in no output",
    "F1": "requests made by hypothesis and by hand, over every route: no failure, and others are answered",
    "F2": "max_tokens that is no whole number within bounds: 400 with its name",
    "F3": "more texts, stop strings, log-probabilities or biases than the limits allow: 400 with the name",
    "F4": "sampling parameters that are infinite, NaN or out of range: 400, or exactly greedy",
    "F5": "invalid prompts and messages: 400",
    "F6": "a prompt longer than the context: 400 with both numbers, before any decoding",
    "F7": "endless, compressed or mislabeled bodies: refused while they arrive",
    "F8": "prompts that are slow to tokenize: other requests are answered meanwhile",
    "F9": "clients that never finish a request: closed, while others are answered",
    "F10": "a client that disconnects, streaming or not: its row is free within a second",
    "F11": "more requests than rows and queue: served, or 429 with Retry-After",
    "F12": "a completion in a single-sequence batch and in a mixed batch: the same",
    "F13": "a completion that takes too long: truncated, its row is free",
    "F14": "shutdown: running requests are finished",
    "F15": "a failing step: its requests fail, later ones succeed",
    "F16": "no key or a wrong one, on every route with every method: 401",
    "F17": "a bind that other machines can reach, without a key: refused",
    "F18": "hosts and origins of other sites: 403",
    "F19": "markup and scripts in generated text, model names, links and errors: shown as text, never run",
    "F20": "paths outside the page's directory: 404",
    "F22": "line ends and protocol keywords in generated text: framed so that clients can read it",
    "F23": "stop sequences across tokens and characters: no part is ever emitted",
    "F24": "line ends and escape sequences in requests: no forged log line, no logged prompt",
    "F25": "good, bad and abandoned requests for a long time: no leak of memory, threads or files",
    "F26": "a damaged checkpoint while serving: the old model keeps serving",
    "F27": "failures of every kind: a request id, and no internals",
    "G1": "any text and any bytes, encoded and decoded",
    "G2": "any ids decoded one by one and all at once: the same text",
    "G3": "the spelling of special tokens inside text",
    "G4": "tokenizers trained twice, on more threads",
    "G5": "escape sequences in told text",
    "G6": "logits that are infinite, not numbers, tied, or of one id",
    "G7": "configs with unknown keys, typing errors, wrong types, enormous numbers, aliases, duplicates",
    "G8": "every documented error says what, where and what to do",
    "G9": "every command: help, no arguments, missing files, folders for files, no permission, Ctrl-C",
    "G10": "outputs that would overwrite something",
    "H5": "the trust model is written down",
}


@dataclass
class Tally:
    """A row's cases by the outcome of their tests: passed, failed, skipped."""

    cases: dict[str, Fraction] = field(default_factory=dict)

    def add(self, outcome: str, cases: Fraction) -> None:
        """Count more cases of one outcome."""
        self.cases[outcome] = self.cases.get(outcome, Fraction(0)) + cases

    @property
    def skipped(self) -> int:
        """Cases that this machine could not inject."""
        return round(self.cases.get("skipped", Fraction(0)))

    @property
    def injected(self) -> int:
        """Cases that were injected, whatever came of them."""
        return round(self.cases.get("passed", Fraction(0)) + self.cases.get("failed", Fraction(0)))

    @property
    def held(self) -> int:
        """Cases of tests that passed; a part of a case is none."""
        return math.floor(self.cases.get("passed", Fraction(0)))


class Scoreboard:
    """A pytest plugin: keeps the tests that inject a fault, and counts."""

    def __init__(self) -> None:
        self.rows: dict[str, Tally] = {}
        self._marks: dict[str, list[tuple[str, Fraction]]] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what is marked; a row that the matrix does not have is an error."""
        items[:] = [item for item in items if item.get_closest_marker("fault")]
        runs = Counter(_function(item) for item in items)
        for item in items:
            marks = [_read(mark) for mark in item.iter_markers("fault")]
            self._marks[item.nodeid] = [(row, Fraction(cases, runs[_function(item)])) for row, cases in marks]
        unknown = {row for marks in self._marks.values() for row, _ in marks} - set(ROWS)
        if unknown:
            raise pytest.UsageError(f"no such row of the fault matrix: {', '.join(sorted(unknown))}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: when it was called, or when it could not be."""
        if report.when != "call" and report.outcome == "passed":
            return
        for row, cases in self._marks.get(report.nodeid, []):
            self.rows.setdefault(row, Tally()).add(report.outcome, cases)


def _read(mark: pytest.Mark) -> tuple[str, int]:
    arguments = dict(zip(("row", "cases"), mark.args, strict=False)) | mark.kwargs
    return str(arguments["row"]), int(arguments.get("cases", 1))


def _function(item: pytest.Item) -> str:
    """The test without its parameters."""
    return item.nodeid.split("[")[0]


def page(rows: dict[str, Tally], *, tier: str) -> str:
    """The scoreboard in Markdown."""
    injected, held = sum(tally.injected for tally in rows.values()), sum(tally.held for tally in rows.values())
    lines = [
        "# What goes wrong, and what happens then",
        "",
        "<!-- Written by `make faults`; do not edit. -->",
        f"**{injected:,} faults injected, {held:,} held, {injected - held:,} lost.** Tier: {tier}.",
        "",
        f"Fabella {version('fabella')}, torch {version('torch').split('+')[0]}, Python {platform.python_version()},"
        f" {platform.system()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}."
        " Each row is proved by tests; `make faults` runs them again and writes this page.",
    ]
    for letter, group in GROUPS.items():
        lines += _table(group, {row: tally for row, tally in rows.items() if row.startswith(letter)})
    missing = [row for row in ROWS if row not in rows]
    if missing:
        lines += ["", "## In the matrix, not injected in this run", ""]
        lines += [f"- {row}: {ROWS[row]}" for row in missing]
    return "\n".join(lines) + "\n"


def _table(group: str, rows: dict[str, Tally]) -> list[str]:
    if not rows:
        return []
    lines = ["", f"## {group}", "", "| | fault | injected | held | lost |", "|---|---|--:|--:|--:|"]
    for row, tally in sorted(rows.items(), key=lambda item: (item[0][0], int(item[0][1:]))):
        note = f" ({tally.skipped:,} skipped on this machine)" if tally.skipped else ""
        lost = tally.injected - tally.held
        lines.append(f"| {row} | {ROWS[row]}{note} | {tally.injected:,} | {tally.held:,} | {lost:,} |")
    return lines


def main(arguments: list[str]) -> int:
    """Run the marked tests and write the page; pytest's exit code. A choice of tests is run, but writes no page."""
    nightly = "--nightly" in arguments
    chosen = "fault or faults" if nightly else "fault"
    scoreboard = Scoreboard()
    others = [argument for argument in arguments if argument != "--nightly"]
    code = pytest.main(["-m", chosen, *others], plugins=[scoreboard])
    text = page(scoreboard.rows, tier="N, every night" if nightly else "F, every run of CI")
    if others or code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote docs/{PAGE.name}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
