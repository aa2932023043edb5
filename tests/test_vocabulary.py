"""Tests that no banned word is used in names, messages, docstrings, comments, help texts or docs.

    python tests/test_vocabulary.py             print every offense as file:line, with the replacement
    python tests/test_vocabulary.py src docs    only those below these paths

docs/glossary.md has the words to use.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

NAMES = {
    "tell": "generate, log, report or broadcast",
    "teller": "TextGenerator, generator",
    "told": "generated, reported, logged, completion",
    "telling": "generation, CompletionStream",
    "aside": "temp (files), async (trackers)",
    "beside": "secondary, besides_x, worker",
    "behind": "background",
    "alone": "single_process, no_peers",
    "together": "distributed, joint, max_batch_size",
    "gone": "disconnected, exited, removed",
    "nobody": "null (NullWorker)",
    "somebody": "a noun",
    "whoever": "a noun",
    "anew": "again, restarted",
    "asked": "request, requested",
    "asking": "request parsing: schema",
    "answers": "responses",
    "hear": "on_event, receive",
    "heard": "received, signals",
    "hearing": "ResponseStream",
    "lie": "is, is_stored",
    "lay": "build, compile, place",
    "laid": "distributed, placed",
    "wish": "SamplingParams, sampler_state",
    "wishes": "SamplingParams, sampler_state",
    "course": "fit, schedule",
    "pace": "throughput, speed",
    "turn": "rotate, apply_rotary (networks); turn is fine in a dialogue",
    "turns": "rotates, rounds",
    "think": "feed_forward, mlp",
    "thought": "ffn_out",
    "ledger": "step_guard",
    "house": "code base, repository",
    "room": "memory, capacity, space; package (of code)",
    "rooms": "packages",
    "shelf": "served_models, FileSet",
    "contestant": "baseline",
    "contestants": "baselines",
    "doctor": "check_data, data_quality",
    "observer": "callback",
    "observers": "callbacks",
    "telemetry": "tracking",
    "rewind": "rollback",
    "recompute": "gradient_checkpointing",
    "vocabulary": "vocab_size, or vocab",
    "go_on": "resume, decode, continue",
    "looking_on": "trace_nonfinite",
}
"""Part of an identifier (``snake_case`` and ``CamelCase`` are split) → what to write instead."""

WORDS = {
    "tell": "generate, report, log or show", "tells": "generates, reports", "told": "generated, reported, logged",
    "telling": "generating, generation", "teller": "generator",
    "aside": "to a temporary file", "beside": "besides, next to, in addition to",
    "nobody": "no user, no process", "somebody": "a user", "whoever": "the caller, the user", "anew": "again",
    "ledger": "step guard", "rooms": "packages", "shelf": "served models", "contestant": "baseline",
    "contestants": "baselines", "observer": "callback", "observers": "callbacks", "telemetry": "tracking",
    "pace": "throughput",
}  # fmt: skip
"""Word of a text → what to write instead."""

PHRASES = {
    r"go(?:es|ing)? on\b|went on\b": "resume(s), continue(s)",
    r"look(?:s|ing)? on\b": "observe; a callback is called",
    r"(?<!there )(?:is|are) none(?: here)?(?=[.:;,\"']|$)": "is not a valid X; unknown X",
    r"is no (?:kind|family|number|amount|share|preset)\b": "is not a valid X",
    r"whole or absent": "atomic",
}
"""Regular expression for a text → what to write instead."""

PERMITTED = re.compile(
    r"of course|in turn\b|turns? (?:on|off|into)|once upon a time|410 gone|stand-?alone|thought experiment"
    r"|course of action|nav aside footer|tell me|show, don't tell",
    re.IGNORECASE,
)
"""Idioms of ordinary English and of prompts; removed before a text is searched."""

SKIPPED = ("src/fabella/text/storybook/plots", "src/fabella/text/storybook/words.py")
"""Story text."""
DIALOGUE = re.compile(r"story_session|interactive|repl|chat")
"""Files in which ``turn`` is the standard word: a turn of a dialogue."""
OLD_NAME = "# old name"
"""Ends a line that must keep an old name, as in a "Did you mean" answer."""
CODE = {".py", ".cpp", ".h", ".js", ".html"}
PROSE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs", "benchmarks/README.md")
STORIES = re.compile(
    r"(?ms)^```text\n.*?^```|^> .*?$|<!-- quickstart output: begin -->.*?<!-- quickstart output: end -->"
)
"""Output and samples that are pasted into the docs."""
CODE_SPANS = re.compile(r"`[^`\n]*`")
"""Not searched in the changelog and the log, which name what was renamed."""

_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SUSPECT = re.compile("|".join(sorted({*NAMES, *WORDS, " on", "none", "is no", "absent"})), re.IGNORECASE)


class Offense(NamedTuple):
    """A banned word at a place."""

    path: str
    line: int
    kind: str
    """``name`` or ``text``"""
    word: str
    match: str
    replacement: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.kind} {self.match!r}: write {self.replacement}"


@cache
def in_name(name: str) -> tuple[tuple[str, str], ...]:
    """Return the banned parts of an identifier, each with its replacement."""
    if not _SUSPECT.search(name):
        return ()
    parts = [part.lower() for part in _PART.findall(name)]
    joined = f"_{'_'.join(parts)}_"
    return tuple((word, NAMES[word]) for word in NAMES if word in parts or ("_" in word and f"_{word}_" in joined))


def in_text(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield offset, word and replacement of the banned words of a text; identifiers in it are checked as names."""
    if not _SUSPECT.search(text):
        return
    text = PERMITTED.sub(lambda match: " " * len(match.group()), text)
    for match in _NAME.finditer(text):
        name = match.group()
        if "_" in name or re.search(r"[a-z][A-Z]", name):
            yield from ((match.start(), word, replacement) for word, replacement in in_name(name))
        elif name.lower() in WORDS:
            yield match.start(), name.lower(), WORDS[name.lower()]
    for pattern, replacement in PHRASES.items():
        for match in re.finditer(pattern, text):
            yield match.start(), match.group(), replacement


def of_python(path: str, source: str) -> Iterator[Offense]:
    """Yield the offenses in names that a file defines, in its strings with their docstrings, and in its comments."""
    names: set[tuple[int, str]] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add((node.lineno, name))
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add((node.lineno, name))
            case ast.alias(asname=str(name)):
                names.add((node.lineno, name))
            case ast.Constant(value=str(text)):
                yield from _of_text(path, node.lineno, text)
    for line, name in sorted(names):
        yield from (Offense(path, line, "name", word, name, replacement) for word, replacement in in_name(name))
    for line, text in _comments(source):
        yield from _of_text(path, line, text)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of every comment; only files with a suspicious one are tokenized, which is slow."""
    if any(_SUSPECT.search(line.split("#", 1)[1]) for line in source.splitlines() if "#" in line):
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def _of_text(path: str, line: int, text: str) -> Iterator[Offense]:
    for offset, word, replacement in in_text(text):
        yield Offense(path, line + text.count("\n", 0, offset), "text", word, word, replacement)


def of_file(path: Path) -> Iterator[Offense]:
    """Yield the offenses of one file, those in its own name included."""
    shown = path.relative_to(ROOT).as_posix()
    source = path.read_text(encoding="utf-8")
    yield from (Offense(shown, 1, "name", word, path.name, replacement) for word, replacement in in_name(path.stem))
    if path.suffix == ".py":
        lines = source.splitlines()
        for offense in of_python(shown, source):
            is_old_name = lines[offense.line - 1].endswith(OLD_NAME)
            is_dialogue = offense.word in {"turn", "turns"} and DIALOGUE.search(shown)
            if not (is_old_name or is_dialogue):
                yield offense
        return
    for hidden in (STORIES, CODE_SPANS) if path.name in {"CHANGELOG.md", "log.md"} else (STORIES,):
        source = hidden.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), source)
    yield from _of_text(shown, 1, source)


def offenses() -> list[Offense]:
    """Return every offense of the repository, sorted by file and line."""
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in CODE]
    for name in PROSE:
        files += sorted((ROOT / name).rglob("*.md")) if (ROOT / name).is_dir() else [ROOT / name]
    checked = [p for p in sorted(files) if p.is_file() and not p.relative_to(ROOT).as_posix().startswith(SKIPPED)]
    return sorted({offense for path in checked for offense in of_file(path)})


def test_no_banned_word_is_used() -> None:
    found = offenses()
    assert not found, "Banned words (docs/glossary.md has the standard ones):\n" + "\n".join(map(str, found[:40]))


def test_ordinary_english_is_allowed() -> None:
    assert not list(in_text("Of course it returns 410 Gone; once upon a time, a turn of events. Turn off dropout."))
    assert not [*in_name("return_tensors"), *in_name("courses_jsonl"), *in_name("attention_layout")]
    assert [word for word, _ in in_name("NobodyBehind")] == ["behind", "nobody"]
    assert [word for _, word, _ in in_text("The run goes on beside others.")] == ["beside", "goes on"]


if __name__ == "__main__":
    print("\n".join(str(offense) for offense in offenses() if offense.path.startswith(tuple(sys.argv[1:]) or ("",))))
