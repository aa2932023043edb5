"""A kind of file, and what reading it gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fabella.cli.text_options import ReadingOptions
from fabella.config.data import DataConfig, Packed
from fabella.data.prepare.corpus import Corpus, default_validation
from fabella.errors import FabellaError
from fabella.text.data_quality import DataQuality
from fabella.text.read_report import ReadReport
from fabella.text.source import documents, validation_source

MAX_HELD_OUT = 0.2
"""Share of the bytes that may be held out, 0 to 1, as in fabella.data.prepare.splitting."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Files, how they are read, and what must come out."""

    name: str
    files: Mapping[str, bytes]
    """Path below the directory of the kind → content"""
    texts: Sequence[str] = ()
    """The documents in order; empty if the text is refused"""
    source: str = "."
    """What is given to a command, relative to the directory of the kind"""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """ReadingOptions"""
    notes: Sequence[str] = ()
    """Parts of sentences that are printed"""
    warnings: Sequence[str] = ()
    """Parts of warnings about the data quality"""
    silent: bool = False
    """Whether nothing but the split is printed"""
    refused: str = ""
    """Part of the error, if the text is refused"""
    validation: Sequence[str] = ()
    """Documents of the validation files, where names mark them"""


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a kind."""

    documents: int
    bytes: int
    train: int
    """Training documents; a document that is cut counts in both splits"""
    validation: int
    notes: Sequence[str]
    problems: Sequence[str]
    """Differences from what must come out"""


def write_files(kind: Kind, directory: Path) -> None:
    """Write the files of a kind."""
    for name, content in kind.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def examine(kind: Kind, directory: Path) -> Result:
    """Read a kind that was written to ``directory`` as the commands do, and compare it with what must come out."""
    location = str(directory / kind.source) if kind.source != "." else str(directory)
    reading = ReadingOptions(**kind.options)
    try:
        source = reading.source(location)
        notes = ReadReport()
        policy, bad_lines = reading.policy(), reading.max_bad_lines
        texts = list(documents(source, decode_errors=policy, max_bad_lines=bad_lines, notes=notes))
        separate = validation_source(source)
        held = list(documents(separate)) if separate else []
        data = DataConfig(
            source=source,
            validation=default_validation(source),
            sequences=Packed(length=8, stride=8),
            decode_errors=policy,
            max_bad_lines=bad_lines,
        )
        corpus, quality = Corpus(data, None), DataQuality()
        for document in corpus.split_documents("checking"):
            quality.add(document.text, document.digest, document.held_out)
        warnings = quality.report(notes=corpus.notes).warnings
    except FabellaError as error:
        expected = bool(kind.refused) and kind.refused in str(error)
        return Result(0, 0, 0, 0, [str(error)], [] if expected else [f"refused: {error}"])
    printed = [*corpus.messages(), *warnings]
    problems = [*_differences(kind, texts, held), *_missing(kind, printed, warnings), *_split_problems(kind, quality)]
    train, validation = quality.splits
    size = sum(len(text.encode()) for text in texts)
    return Result(len(texts), size, train.documents, validation.documents, printed, problems)


def _differences(kind: Kind, texts: Sequence[str], held: Sequence[str]) -> list[str]:
    problems = ["it must be refused"] if kind.refused else []
    for what, got, expected in (("documents", texts, kind.texts), ("validation documents", held, kind.validation)):
        if list(got) == list(expected):
            continue
        first = next(
            (n for n, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), min(len(got), len(expected))
        )
        shown = repr(got[first][:60]) if first < len(got) else "none"
        wanted = repr(expected[first][:60]) if first < len(expected) else "none"
        problems.append(f"{len(got)} {what}, not {len(expected)}; number {first}: {shown}, not {wanted}")
    return problems


def _missing(kind: Kind, printed: Sequence[str], warnings: Sequence[str]) -> list[str]:
    problems = [f"not printed: {part}" for part in kind.notes if not any(part in line for line in printed)]
    problems += [f"no warning: {part}" for part in kind.warnings if not any(part in line for line in warnings)]
    if kind.silent:
        problems += [f"printed: {line}" for line in printed if "held out" not in line]
    return problems


def _split_problems(kind: Kind, quality: DataQuality) -> list[str]:
    """Return what is wrong with the split: it has both sides, and few of the bytes are held out."""
    train, validation = quality.splits
    if not train.documents or not validation.documents:
        return [f"split: {train.documents} documents to train, {validation.documents} to validate"]
    if kind.validation:
        expected = len(kind.validation)
        return (
            [] if validation.documents == expected else [f"split: {validation.documents} to validate, not {expected}"]
        )
    share = validation.bytes / (train.bytes + validation.bytes)
    few = train.documents + validation.documents < 10  # one of a few documents is a large share
    return [] if share <= MAX_HELD_OUT or few else [f"split: {share:.0%} of the bytes are held out"]
