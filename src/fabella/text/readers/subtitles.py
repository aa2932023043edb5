"""Reader of subtitles: a file is one document of the spoken lines, without numbers, times and tags."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

from fabella.text.decode import read_utf8
from fabella.text.decode_policy import DecodePolicy, ReadOptions

SUFFIXES = frozenset({".srt", ".vtt"})

TIMES = re.compile(r"\s*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->")
TAGS = re.compile(r"</?[a-zA-Z][^<>\n]*>|<\d[\d:.]*>|\{\\[^{}\n]*\}")
"""<i>, <v Anna>, the times of words in WebVTT, and {\\an8}."""


def read(path: Path, options: ReadOptions, policy: DecodePolicy) -> Iterator[str]:
    """Yield the lines of all cues as one document. Raises TextError for a binary or damaged file."""
    name = str(path)
    text = b"".join(read_utf8(path, options, policy.notes)).decode("utf-8", "surrogateescape")
    spoken = "\n".join(_spoken(text))
    return policy.text(spoken.encode("utf-8", "surrogateescape"), lambda _raw, at: f"{name}, byte {at} of the speech")


def _spoken(text: str) -> Iterator[str]:
    """Yield the lines of every cue; a line that repeats the one before, as rolling captions do, comes once."""
    previous = ""
    for cue in re.split(r"\n[ \t]*\n", text):
        lines = cue.strip().split("\n")
        times = next((number for number, line in enumerate(lines) if TIMES.match(line)), None)
        if times is None:  # WEBVTT, NOTE, STYLE
            continue
        for line in lines[times + 1 :]:
            spoken = html.unescape(TAGS.sub("", line)).strip()
            if spoken and spoken != previous:
                yield spoken
                previous = spoken
