"""Detection of the encoding of a text that is not UTF-8.

The models of chardet propose encodings; each is tried on the bytes, and only one under which they read as text is
returned: no control characters, letters of one script, capitals where words begin, no signs within words. It is sure
if there is enough text and no other encoding reads as well.
"""

import codecs
import importlib
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from fabella.text.decoding.encoding_names import canonical_name, usual_names

SAMPLE_BYTES = 2**14
"""Bytes inspected at most, of lines with bytes beyond ASCII: enough for every model, and quick for many files."""
CONTEXT_BYTES = 1000
"""Bytes of ASCII inspected before the first other byte of a line."""
FOREIGN = re.compile(rb"[\x80-\xff]|\x1b\$")
"""Bytes beyond ASCII, and the escape sequences of ISO-2022-JP."""
MIN_CONFIDENCE = 0.2
"""Confidence of chardet, 0 to 1, from which on an encoding can be sure: English quotation marks alone have 0.25."""
UNRIVALED_CONFIDENCE, UNRIVALED_MARGIN = 0.04, 0.5
"""The same without a rival: confidence of every encoding that reads otherwise, as a share of the best one's, 0 to 1."""
MARGIN = 0.9
"""Confidence of another encoding as a share of the best one's, 0 to 1, up to which it is no rival."""
MIN_CHARACTERS = 5
"""Characters beyond ASCII from which on an encoding can be sure."""
MAX_ODD = 0.03
"""Share of characters beyond ASCII, 0 to 1, that may stand in odd places, such as a sign within a word."""
ONE_SCRIPT = 0.97
"""Share of the letters beyond ASCII, 0 to 1, that belong to one script."""
MAX_ACCENTED = 0.5
"""Share of accented letters among all Latin ones, 0 to 1; Vietnamese, which has the most, has a third."""
RARE = re.compile(
    r"(?:mac|cp(?:037|273|4\d\d|500|7\d\d|8[56]\d|102\d|11\d\d)|hp_roman|koi8-t|kz1048|ptcp|johab|iso8859-1[0146])"
)
"""Encodings of old systems, which lose to a usual one that reads as well."""
SUPERSETS = (
    "cp1252",
    "cp1251",
    "cp1250",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp932",
    "cp949",
    "gb18030",
)
"""Encodings with all characters of another one, and more; the most common first."""
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "BOPOMOFO", "KATAKANA-HIRAGANA")
APOSTROPHES = "\u2018\u2019\u2010\u2011\u2013\u2014\u2015\u00b7\u00ad\u02bc\u30fb"
"""Apostrophes, hyphens, dashes and dots, which occur within words."""


@dataclass(frozen=True, slots=True)
class DetectedEncoding:
    """An encoding under which bytes read as text."""

    name: str
    """As Python spells it: ``cp1252``"""
    sure: bool
    """Whether there is enough text, and no other encoding reads as well"""
    excerpt: str
    """What a part of the bytes reads as, on one line"""
    runner_up: "DetectedEncoding | None" = None
    """The next likely encoding under which the bytes read as other text; None for a sure encoding, or without one"""

    @property
    def rare(self) -> bool:
        """Whether it is an encoding of an old system."""
        return RARE.match(self.name) is not None


@dataclass(frozen=True, slots=True)
class _Candidate:
    name: str
    confidence: float
    text: str
    odd: int
    """Characters in places where no writer puts them"""

    @property
    def rare(self) -> bool:
        return RARE.match(self.name) is not None


def detect_encoding(raw: bytes) -> DetectedEncoding | None:
    """Return the encoding under which ``raw``, which is not UTF-8, reads as text; None if there is none."""
    candidates = _candidates(_sample(raw))
    if not candidates:
        return None
    likely = max(candidate.confidence for candidate in candidates)
    if likely < MIN_CONFIDENCE:  # too little to suspect an old system
        candidates = [candidate for candidate in candidates if not candidate.rare] or candidates
        likely = max(candidate.confidence for candidate in candidates)
    near = [candidate for candidate in candidates if candidate.confidence >= MARGIN * likely]
    best, *others = sorted(near, key=lambda c: (c.odd, c.rare, -c.confidence))
    rivals = [
        c for c in others
        if c.text != best.text and c.odd <= best.odd and (best.rare or not c.rare or c.confidence > best.confidence)
    ]  # fmt: skip
    beyond = sum(not character.isascii() for character in best.text)
    certain = best.confidence >= MIN_CONFIDENCE or _is_unrivaled(best, candidates)
    sure = certain and beyond >= MIN_CHARACTERS and not rivals
    found = DetectedEncoding(_widest(best, candidates), sure, _excerpt(best.text))
    if sure:
        return found
    different = [c for c in candidates if c.text != best.text and c.rare <= best.rare]
    second = max(different, key=lambda c: (c in rivals, c.name in usual_names(), c.confidence), default=None)
    runner_up = DetectedEncoding(_widest(second, candidates), False, _excerpt(second.text)) if second else None
    return replace(found, runner_up=runner_up)


def _widest(chosen: _Candidate, candidates: list[_Candidate]) -> str:
    """Return the encoding with the most characters that reads the same: quotation marks of Windows may follow."""
    equal = [candidate.name for candidate in candidates if candidate.text == chosen.text]
    return next((name for name in (*SUPERSETS, *usual_names()) if name in equal), chosen.name)


def _is_unrivaled(best: _Candidate, candidates: list[_Candidate]) -> bool:
    """Return True for a usual encoding if all others read the same or are far less likely."""
    others = max((other.confidence for other in candidates if other.text != best.text), default=0.0)
    return best.confidence >= UNRIVALED_CONFIDENCE and others < UNRIVALED_MARGIN * best.confidence and not best.rare


def _sample(raw: bytes) -> bytes:
    """Return lines with bytes beyond ASCII or escape sequences, SAMPLE_BYTES at most."""
    lines: list[bytes] = []
    size = 0
    for line in raw.split(b"\n"):
        if size >= SAMPLE_BYTES:
            break
        if match := FOREIGN.search(line):
            # All before it is ASCII, so no character is cut.
            lines.append(line[max(match.start() - CONTEXT_BYTES, 0) :][: SAMPLE_BYTES - size])
            size += len(lines[-1]) + 1
    return b"\n".join(lines)


def _candidates(sample: bytes) -> list[_Candidate]:
    """Return the encodings under which a sample reads as text, each once."""
    found: dict[str, _Candidate] = {}
    chardet: Any = importlib.import_module("chardet")  # only text that is not UTF-8 needs it
    for guess in chardet.detect_all(sample, ignore_threshold=True, max_bytes=SAMPLE_BYTES):
        name = canonical_name(guess["encoding"] or "")
        if not name or name.startswith("utf") or name in found:
            continue
        text = _decoded(sample, name)
        odd = odd_places(text) if text else None
        if odd is not None:
            found[name] = _Candidate(name, guess["confidence"], text, odd)
    return list(found.values())


def _decoded(sample: bytes, encoding: str) -> str:
    """Return the text of a sample, which may end within a character; empty if it is invalid."""
    try:
        return codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return ""


def odd_places(text: str) -> int | None:
    """Return the number of characters of a text that stand in odd places; None if it does not read as text at all."""
    classes = text.translate(_CLASSES)
    beyond = sum(not character.isascii() for character in text)
    if "x" in classes or not beyond:
        return None
    letters = Counter(character for character in text if not character.isascii() and character.isalpha())
    script, share = _main_script(letters)
    if letters and share < ONE_SCRIPT:
        return None
    if script == "LATIN" and len(re.findall("[lU]", classes)) > MAX_ACCENTED * len(re.findall("[aAlU]", classes)):
        return None
    # A capital after a small letter, where one of them is beyond ASCII.
    odd = len(re.findall("(?=lU|aU|lA)", classes))
    # A mark of another script, such as a vowel of Thai, on a letter that has capitals.
    odd += len(re.findall("(?<=[aAlU])v", classes))
    # A sign or a quotation mark between two letters, or a sign that touches a letter.
    odd += len(re.findall("(?<=[aAlU])[qs](?=[aAlU])|(?<=[al])s|s(?=[al])", classes))
    if script not in ("LATIN", "EAST ASIAN", ""):
        odd += len(re.findall("(?=[aA][lUo]|[lUo][aA])", classes))
    return odd if odd <= MAX_ODD * beyond else None


def _main_script(letters: Counter[str]) -> tuple[str, float]:
    """Return the script of most letters, and its share of them, 0 to 1."""
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        word = unicodedata.name(letter, "").split(" ")[0]
        scripts["EAST ASIAN" if word in EAST_ASIAN else word] += count
    if not scripts:
        return "", 0.0
    script, count = scripts.most_common(1)[0]
    return script, count / scripts.total()


class _CharacterClasses(dict[int, str]):
    """Code point → class: a A small and capital ASCII, l U beyond it, o letters without case, m accents,
    v marks of other scripts than Latin, q punctuation, s signs, x none of text."""

    def __missing__(self, code: int) -> str:
        self[code] = result = _class_of(chr(code))
        return result


_CLASSES = _CharacterClasses()


def _class_of(character: str) -> str:
    category = unicodedata.category(character)
    if character.isascii():
        if category == "Cc":
            return " " if character in "\t\n\r\f\v\x1b" else "x"
        return {"Ll": "a", "Lu": "A"}.get(category, " " if character.isspace() else ".")
    if category in ("Cc", "Cn", "Co", "Cs") or character in "\ufffd\ufeff" or "\ufb50" <= character <= "\ufdff":
        return "x"
    if "\ufe70" <= character <= "\ufefc":  # forms of Arabic letters, which fonts choose and no writer types
        return "x"
    if character in APOSTROPHES:
        return "'"
    if character.isdecimal():
        return "."
    if category.startswith("M"):
        return "m" if unicodedata.name(character, "").startswith("COMBINING") else "v"
    by_category = {"Ll": "l", "Lu": "U", "Lt": "U", "Lo": "o", "Lm": "o", "Zs": " "}
    return by_category.get(category) or {"P": "q", "N": "s", "S": "s"}.get(category[0], " ")


def _excerpt(text: str) -> str:
    """Return the words around the first character beyond ASCII."""
    at = next((index for index, character in enumerate(text) if not character.isascii()), 0)
    return " ".join(text[max(at - 20, 0) : at + 20].split())
