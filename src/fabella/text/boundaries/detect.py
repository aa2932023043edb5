"""Detection of the document separator of one file.

A separator cuts the whole text, so it needs evidence in proportion: a marker that stands where documents end, lines of
``---`` between pieces, or pieces that begin alike, as stories do. All else is running text: a novel, a play, verse, a
diary or a transcript is one document, and packed sequences read all of it.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from fabella.text.boundaries.separator import BLANK_LINES

# Markers that end a document in common datasets.
MARKERS = (
    "<|endoftext|>", "<|end_of_text|>", "<|endofstory|>", "<|eot|>", "<|eos|>", "</s>", "<eos>", "<EOS>", "[EOS]",
)  # fmt: skip
SAMPLE_BYTES = 2**20
"""Bytes at the start of a file from which its separator is detected."""
MIN_STANDING = 0.5
"""Share of the occurrences of a marker, 0 to 1, that stand where a document ends."""
MIN_PIECES = 10
"""Pieces needed to compare how they begin."""
ALIKE = 0.5
"""Share of pieces, 0 to 1, that begin with one of COMMON_OPENINGS openings, from which on they are documents."""
COMMON_OPENINGS = 5
MIN_RULES = 4
"""Lines of dashes from which on they separate documents."""
LONGEST_RULED_PIECE = 16_384
"""Median bytes between lines of dashes up to which the pieces are documents; chapters are longer."""
WORD_LIST = 50
"""Lines of one or two words from which on they are a list, such as names."""

SENTENCE_END = re.compile(r"[.!?…。！？:;\"'”’»)\]*_]\s*$")
LINE_START = re.compile(r"\s*(?:[A-Z0-9\"'“‘«¿¡(\[<*#_—–-]|[^\x00-\x7f]|\Z)")
RULE = re.compile(r"^[ \t]*(-{3,}|={3,}|~{3,}|_{3,}|#{1,}|%{1,}|\*{3,}|(?:\*[ \t]+){2,}\*|•+|⁂)[ \t]*$", re.MULTILINE)
SCENE_BREAKS = "*•⁂#"
"""Characters of lines that separate scenes of one story as well as stories."""
HEADING = re.compile(
    r"^[ \t]*(?:chapter|kapitel|chapitre|cap[ií]tulo|capitolo|глава|part|book|act|scene|canto)[ \t]+"
    r"(?:[ivxlcdm]+|\d+|one|two|three|first|the first)\b[^\n]{0,80}$",
    re.IGNORECASE | re.MULTILINE,
)
SPEAKER = re.compile(
    r"[\u200e\u200f]?(?:[^\n:]{1,40}:(?:\s|$)|[\[(<]|(?:\w+ ){1,3}\d{1,3}:\d{1,3}\s|"
    r"\d{1,4}[/.:-]\d{1,2}|[A-Z][A-Z .'-]+$|(?i:dear)\b)",
    re.MULTILINE,
)
"""How a speech, a message with its time, a numbered verse, or an entry of a diary begins."""
JSON = re.compile(r'\ufeff?\s*(?:\[\s*)?\{\s*"[^"\n]{1,100}"\s*:')
"""An object, or a list of them, at the beginning."""
XML = re.compile(r"\ufeff?\s*(?:<\?xml\s|<(?:mediawiki|TEI|rss|feed|doc|corpus|text|body)[\s>])", re.IGNORECASE)
"""The declaration, or the outermost tag, of a file of XML."""
XML_ADVICE = "extract its text first (wikiextractor does it for a dump of Wikipedia)"
COLUMN_NAME = re.compile(r"[^\W\d][\w.-]*(?: [\w.-]+)?")
"""A name of one or two words, without signs."""
TABLE_LINES, MOST_TABLE_LINES = 20, 200
"""Lines from which on equally many tabs or commas in each are a table, and lines inspected at most."""
WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")


@dataclass(frozen=True, slots=True)
class Boundary:
    """Detected separator of a file, and what to do if it is wrong."""

    separator: str
    hint: str = ""


RUNNING_TEXT = Boundary("file")


def detect_boundary(sample: str, *, one_text: bool = False) -> Boundary:
    """Return the separator of a file from its beginning.

    ``one_text``: the file is one document unless a marker says otherwise, as Markdown and each of many files are.
    """
    boundary = _detect(sample, one_text=one_text)
    if boundary.separator in ("file", "lines") and (columns := _columns_of_table(sample)):
        return Boundary(
            boundary.separator, f"it holds a table of {columns} columns: name it .csv to read a column of it"
        )
    return boundary


def _detect(sample: str, *, one_text: bool) -> Boundary:
    if marker := _marker(sample):
        return Boundary(marker)
    if JSON.match(sample):
        return Boundary("file", "it holds JSON: name it .jsonl, so that its text is read without braces and keys")
    if XML.match(sample):
        return Boundary("file", f"it holds XML, whose tags are read as text; {XML_ADVICE}")
    if one_text or not sample.strip():
        return RUNNING_TEXT
    if boundary := _rule_line(sample):
        return boundary
    paragraphs = [part.strip() for part in BLANK_LINES.split(sample.encode()) if part.strip()]
    texts = [part.decode("utf-8", "ignore") for part in paragraphs]
    if len(texts) >= MIN_PIECES:
        if _begin_alike(texts):
            return Boundary("blank-lines", "--separator file reads the file as one running text")
        return Boundary("file", "if each paragraph is a document of its own: --separator blank-lines")
    lines = [line.strip() for line in sample.split("\n") if line.strip()]
    if len(lines) < MIN_PIECES:
        return RUNNING_TEXT
    if _is_word_list(lines) or (median(map(len, lines)) > 60 and _begin_alike(lines)):
        return Boundary("lines", "--separator file reads the file as one running text")
    return Boundary("file", "if each line is a document of its own: --separator lines")


def _columns_of_table(sample: str) -> int:
    """Return the number of columns if every line has the same number of tabs, or reads as CSV with a header; else 0."""
    complete = sample.split("\n", MOST_TABLE_LINES)[:-1]  # without what follows the last line end
    lines = [stripped for line in complete if (stripped := line.strip())]
    if len(lines) < TABLE_LINES:
        return 0
    tabs = {line.count("\t") for line in lines}
    if len(tabs) == 1 and (number := tabs.pop()):
        return number + 1
    for separator in ",;|":
        names = [name.strip(' "') for name in lines[0].split(separator)]
        if len(names) > 1 and all(COLUMN_NAME.fullmatch(name) for name in names):
            try:
                rows = list(csv.reader(lines[1:], delimiter=separator))
            except csv.Error:
                continue
            if sum(len(row) == len(names) for row in rows) >= 0.9 * len(rows):
                return len(names)
    return 0


def _marker(sample: str) -> str:
    """Return the marker that stands most often where a document ends; empty without one.

    If text also mentions the marker, only lines that consist of it count: ``\\n<|endoftext|>\\n``.
    """
    best, most = "", 0
    for marker in MARKERS:
        found = [match.span() for match in re.finditer(re.escape(marker), sample)]
        own_line = sum(_on_own_line(sample, *span) for span in found)
        standing = sum(_stands(sample, *span) for span in found)
        if standing > most and (standing >= MIN_STANDING * len(found) or own_line >= MIN_STANDING * standing):
            mentioned = standing < len(found)
            if mentioned and not own_line:
                continue
            best, most = f"\n{marker}\n" if mentioned else marker, standing
    return best


def _on_own_line(sample: str, start: int, end: int) -> bool:
    # Only the line is copied: a file may have thousands of markers.
    before, after = sample[sample.rfind("\n", 0, start) + 1 : start], sample[end : end + 200].partition("\n")[0]
    return not before.strip() and not after.strip()


def _stands(sample: str, start: int, end: int) -> bool:
    """Return True where a sentence ends before the marker, and a new one or nothing begins after it."""
    before = sample[max(start - 80, 0) : start].rstrip(" \t")
    after = sample[end : end + 80]
    if _on_own_line(sample, start, end):
        return True
    # Quoted or in code: a mention.
    if before[-1:] in ("`", "'", '"', "“", "‘") and after[:1] in ("`", "'", '"', "”", "’"):
        return False
    if before[-1:].isalnum() and after[:1].isalnum() and sample[start - 1] == before[-1]:
        return True  # glued to the text on both sides, as no mention is
    at_end = not before or before.endswith("\n") or SENTENCE_END.search(before) is not None or after[:1] in ("", "\n")
    return at_end and not after.startswith((".", ",", ";", ":", "`")) and LINE_START.match(after) is not None


def _rule_line(sample: str) -> Boundary | None:
    """Return the line of dashes, equal signs or stars that separates documents.

    Stars also separate the scenes of a novel: they count only without chapters and around short pieces.
    """
    counts = Counter(match[1].strip() for match in RULE.finditer(sample))
    if not counts:
        return None
    rule, number = counts.most_common(1)[0]
    pieces = [piece.strip() for piece in re.split(rf"(?m)^[ \t]*{re.escape(rule)}[ \t]*$", sample)]
    lengths = [len(piece.encode()) for piece in pieces if piece]
    if number < MIN_RULES or len(lengths) < MIN_RULES:
        return None
    scenes = rule[0] in SCENE_BREAKS
    if HEADING.search(sample) or median(lengths) > LONGEST_RULED_PIECE or (scenes and not _are_stories(pieces)):
        return Boundary("file", f"lines of {rule!r} are part of the text; --separator '\\n{rule}\\n' separates at them")
    return Boundary(f"\n{rule}\n", "--separator file reads the file as one running text")


def _are_stories(pieces: Sequence[str]) -> bool:
    """Return True for pieces that begin alike, or each with a title, which scenes of a novel do not."""
    titled = sum(_has_title(piece) for piece in pieces if piece)
    return titled >= 0.8 * len(pieces) or _begin_alike(pieces)


def _has_title(piece: str) -> bool:
    first, _, rest = piece.partition("\n")
    return bool(rest.strip()) and len(first) < 80 and SENTENCE_END.search(first) is None


def _begin_alike(pieces: Sequence[str]) -> bool:
    """Return True if most different pieces begin with one of a few openings, and are no speech, verse or heading."""
    pieces = list(dict.fromkeys(pieces))
    if len(pieces) < MIN_PIECES:
        return False
    prose = [piece for piece in pieces if not SPEAKER.match(piece) and not HEADING.match(piece)]
    verse = sum(_is_verse(piece) for piece in prose)
    if len(prose) < 0.8 * len(pieces) or verse > 0.2 * len(prose):
        return False
    counts = Counter(_opening(piece) for piece in prose)
    counts.pop("", None)
    return sum(count for _, count in counts.most_common(COMMON_OPENINGS)) >= ALIKE * len(pieces)


def _is_verse(piece: str) -> bool:
    lines = piece.split("\n")
    return len(lines) > 2 and max(map(len, lines)) < 60


def _opening(piece: str) -> str:
    head = piece[:80]
    if WITHOUT_SPACES.search(head[:4]):
        return head[:3]
    return " ".join(WORDS.findall(head)[:2]).casefold()


def _is_word_list(lines: Sequence[str]) -> bool:
    words = [len(line.split()) for line in lines]
    short = sum(count <= 2 for count in words)
    spoken = sum(line.endswith((".", "!", "?", ":", ",")) for line in lines)
    return len(lines) >= WORD_LIST and short >= 0.95 * len(lines) and spoken <= 0.1 * len(lines)
