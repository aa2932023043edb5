"""Inject all faults of the test suite and write the results to docs/faults.md. Run it with `make faults`.

A test that injects faults has a marker: `@pytest.mark.fault("A9", cases=500)`. `cases` is the number of faults over all
parameters of the test: ten sets of parameters with `cases=10` are one case each. A fault is held if its test passes.
Options: `--nightly` adds the long tests of `make test-faults`; `--all` runs the tests without a marker as well, so that
one run is that of `make test`, too; other arguments go to pytest (`-k checkpoint`).
"""

import datetime
import math
import os
import platform
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # the script is run by its path

from tests.fault_cases import PROPERTY

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"

GROUPS = {
    "A": "Checkpoints and resuming",
    "B": "Text, tokenization and data loading",
    "C": "Processes and signals",
    "D": "Numerics, environment and logging",
    "E": "Malicious model files",
    "F": "Server",
    "G": "Tokenizers, Unicode, sampling, command line",
    "H": "Supply chain",
    "I": "Records, advice and clients",
}

# Row of the fault matrix → the injected fault and the required behavior.
ROWS = {
    "A1": "SIGKILL at a random moment of a save: the latest complete checkpoint loads",
    "A2": "SIGKILL at every named point of a save: some checkpoint always loads",
    "A3": "chains of kills and resumes: the final weights equal those of an uninterrupted run bit for bit",
    "A4": "the same chains: at most one save interval of work is lost",
    "A5": "disk full at many fill levels of a save: the old checkpoint is intact, no temporary file remains",
    "A6": "file too large, quota, I/O error, read-only, no permission, in each phase of a save",
    "A7": "no disk space when a run starts: refused before the first step, with the estimate",
    "A8": "a checkpoint file truncated at every 64th byte and at its last byte",
    "A9": "one bit flipped anywhere in a checkpoint",
    "A10": "tensors missing, added, renamed, of another shape or dtype; no optimizer state",
    "A11": "resuming in a new process: the optimizer's moments and step are those of the run",
    "A12": "one part of the state omitted: the test of resuming must fail",
    "A13": "an incomplete checkpoint of the same step exists before a save",
    "A14": "the pointer to the latest checkpoint missing, dangling, outside the run, or to an incomplete checkpoint",
    "A15": "clock jumps and shuffled modification times: checkpoints are ordered by step",
    "A16": "background saving: the writer raises, dies or is slow; the error surfaces, no partial file remains",
    "A17": "pruning: never the latest, the best, the checkpoint being written or the one resumed from",
    "A18": "the order of write, fsync and rename, recorded call by call",
    "A19": "two trainings of one run directory at once: one wins, the other names the process that holds the lock",
    "A20": "resuming with a changed config: refused, with a warning, or allowed, key by key",
    "A21": "a run resumed with another world size, pretokenized or streaming: the same samples in the same order",
    "A22": "checkpoints of released versions",
    "A24": "the same seed in new processes: the same bits",
    "A25": "evaluating, sampling and saving at other intervals: the same bits",
    "B1": "SIGKILL while text is prepared: run again, the result is the same",
    "B2": "shards truncated, with flipped bits, of another dtype, with token ids beyond the vocabulary",
    "B3": "empty files, empty shards, texts shorter than a sequence, only newlines",
    "B4": "invalid UTF-8, BOMs, UTF-16, NUL, lone surrogates, CRLF, very long lines",
    "B5": "broken .jsonl and .csv lines: the error names the line, or it is skipped within the limit",
    "B6": "compression bombs: stopped early, memory bounded",
    "B7": "archives and paths that lead outside",
    "B8": "an interrupted download: continued where it stopped, or a clear error",
    "B9": "a prefetch thread or process dies, raises or hangs",
    "B10": "resuming at every position, including epoch boundaries and twice in one epoch",
    "B11": "memory over many steps",
    "B12": "file descriptors and shared memory over many starts and stops",
    "B13": "too little shared memory: none is used",
    "B14": "text changed between a run and its resume",
    "B15": "the same document in training and validation text",
    "C1": "signals in every phase of a run: one checkpoint, the documented exit code",
    "C2": "signals to every process of a job: reader processes leave them to the training",
    "C3": "a signal to one of several ranks: all stop at the same step, one checkpoint, the same bits when resumed",
    "C4": "one of several ranks killed: the others exit within the timeout and name it; the same bits when resumed",
    "C5": "one of several ranks hangs, fails, or has non-finite values: all exit and name it",
    "C6": "an error on only one of several ranks: all exit with its rank and reason",
    "C7": "torchrun restarts killed processes: they resume, the same bits",
    "C8": "the launcher of several processes killed: they save and exit",
    "C9": "a port in use: the error names the process and a free port",
    "C10": "two and four processes compared with one: the same samples, losses and weights up to rounding",
    "C11": "a slow disk while a checkpoint is written: training continues, and the checkpoint is of its step",
    "D1": "NaN and infinity in loss, gradients, weights or data",
    "D2": "non-finite weights never become the best checkpoint",
    "D3": "a gradient norm spike: its first step is reported, with the median",
    "D4": "mixed precision resumed: the loss scale and its counters are those of the run",
    "D5": "a tracker that fails: training continues, nothing is lost locally",
    "D6": "metrics after a kill: an incomplete last line is tolerated, no step occurs twice",
    "D7": "closed output, no terminal, LANG=C, read-only home, spaces and Unicode in paths",
    "D8": "the clock set back during a run",
    "D9": "out of memory during the trial steps: the command survives and reports what fits",
    "D10": "an interrupt at any moment of the training loop: every remaining file is complete",
    "D11": "SIGKILL at any file operation of a rollback: the same bits, pointers and metrics when resumed",
    "E1": "pickles in place of every file that is read: their code never runs",
    "E2": "calls that could execute file contents, searched in the source",
    "E6": "well-formed configs with absurd sizes: refused before anything is allocated",
    "E7": "malicious tokenizer files",
    "E8": "names with slashes, dots, NUL, newlines and escape sequences",
    "E12": "secrets planted in the environment: found in no output",
    "E14": "code in an exported or imported folder: executed only if Fabella itself would write it",
    "E15": "formats, precisions and directories that no export can have: refused before anything is written",
    "E16": "tensors of another model: missing, unknown, of another shape, not finite: named, nothing written",
    "E17": "damaged and hostile model folders and files: one error, no code runs, nothing is written",
    "E19": "markup in the tokens and prompts of an exported page: text, no script runs, no tag begins",
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
    "G2": "any token ids decoded one by one and all at once: the same text",
    "G3": "the spelling of special tokens inside text",
    "G4": "tokenizers trained twice, with more threads",
    "G5": "escape sequences in generated text",
    "G6": "logits that are infinite, NaN, tied, or of one token",
    "G7": "configs with unknown keys, misspelled keys, wrong types, huge numbers, aliases, duplicates",
    "G8": "every documented error names the value, the rule and the fix",
    "G9": "every command: help, no arguments, missing files, directories for files, no permission, Ctrl-C",
    "G10": "outputs that would overwrite something",
    "H5": "the trust model is documented",
    "I1": "a refused or failed command on a run, for every setting: no byte of the run changes, and it resumes",
    "I2": "an accepted change on resume, for every setting: the saved config says what was trained, to the same bits",
    "I3": "a run, its dataset, text or tokenizer moved, copied or renamed: found, or asked for once",
    "I4": "names and outputs that lead elsewhere, are too long or cannot be written: refused before any work",
    "I5": "a run trained longer, with a schedule of every shape: no silent jump of the rate; rates before and after",
    "I6": "a finite loss far above chance or its own best: reported once, with what to do; the policy applies",
    "I7": "text that is dropped, cut or guessed wrongly: the share is reported, or it is refused",
    "I8": "requests of official clients with neutral, unsupported and unknown fields: answered, or refused by name",
    "I9": "job scripts (SLURM, torchrun): every exit code is kept; a job is queued again only after a stop by signal",
    "I11": "every command that an error advises works, or leads to a different, later error",
    "I12": "fcntl, resource, os.fork or SIGUSR1 missing, or all that Windows lacks: the commands work",
    "I13": "any status with any body, or a broken stream, at the story page: explained, and nothing is left of it",
}


@dataclass
class Tally:
    """Cases of a row by the outcome of their tests: passed, failed, skipped."""

    cases: dict[str, Fraction] = field(default_factory=dict)

    def add(self, outcome: str, cases: Fraction) -> None:
        """Add cases of one outcome."""
        self.cases[outcome] = self.cases.get(outcome, Fraction(0)) + cases

    @property
    def skipped(self) -> int:
        """Number of cases that this machine cannot inject."""
        return round(self.cases.get("skipped", Fraction(0)))

    @property
    def injected(self) -> int:
        """Number of injected cases, passed or failed."""
        return round(self.cases.get("passed", Fraction(0)) + self.cases.get("failed", Fraction(0)))

    @property
    def held(self) -> int:
        """Number of cases of passed tests, rounded down."""
        return math.floor(self.cases.get("passed", Fraction(0)))


class Scoreboard:
    """Pytest plugin that counts the cases of all tests with a fault marker."""

    def __init__(self) -> None:
        self.rows: dict[str, Tally] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once, at its call or at a failed setup."""
        if report.when != "call" and report.outcome == "passed":
            return
        for name, value in report.user_properties:
            if name == PROPERTY:
                row, cases, parameter_sets = value  # pyright: ignore[reportGeneralTypeIssues] - a list of ours
                self.rows.setdefault(row, Tally()).add(report.outcome, Fraction(cases, parameter_sets))


def page(rows: dict[str, Tally], *, tier: str) -> str:
    """Return the results as a Markdown page."""
    injected, held = sum(tally.injected for tally in rows.values()), sum(tally.held for tally in rows.values())
    lines = [
        "# Fault injection",
        "",
        "<!-- Written by `make faults`; do not edit. -->",
        f"**{injected:,} faults injected, {held:,} held, {injected - held:,} lost.** Tier: {tier}.",
        "",
        f"Fabella {version('fabella')}, torch {version('torch').split('+')[0]}, Python {platform.python_version()},"
        f" {platform.system()}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}."
        " Tests inject every row; `make faults` runs them and writes this page.",
    ]
    for letter, group in GROUPS.items():
        lines += _table(group, {row: tally for row, tally in rows.items() if row.startswith(letter)})
    missing = [row for row in ROWS if row not in rows]
    if missing:
        lines += ["", "## Not injected in this run", ""]
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
    """Run the marked tests and return pytest's exit code; write the page unless arguments select only some tests."""
    nightly = "--nightly" in arguments
    marker = "" if "--all" in arguments else "fault or faults" if nightly else "fault"
    scoreboard = Scoreboard()
    others = [argument for argument in arguments if argument not in {"--nightly", "--all"}]
    parallel = ["--numprocesses", str(2 + (os.cpu_count() or 1)), "--dist", "worksteal"]  # as in the Makefile
    code = pytest.main(["-m", marker, *parallel, *others], plugins=[scoreboard])
    if unknown := sorted(set(scoreboard.rows) - set(ROWS)):
        print(f"Add to ROWS of benchmarks/faults.py: {', '.join(unknown)}")
        return int(pytest.ExitCode.USAGE_ERROR)
    text = page(scoreboard.rows, tier="N, every night" if nightly else "F, every run of CI")
    if others or code not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote docs/{PAGE.name}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
