"""Sentences in many languages, with the encodings that were usual for each before UTF-8.

The first sentence of each is article 1 of the Universal Declaration of Human Rights (United Nations, free of rights).
"""

import json
import unicodedata
from pathlib import Path

ROWS = [json.loads(line) for line in Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
LANGUAGES: dict[str, tuple[tuple[str, ...], str]] = {
    row["language"]: (tuple(row["encodings"]), row["text"]) for row in ROWS
}
"""Language → (encodings, text)."""


def encoded(language: str, encoding: str) -> bytes:
    """Return the text in an encoding, without the characters that it lacks."""
    text = LANGUAGES[language][1]
    if encoding == "cp1258":  # Vietnamese tones are separate characters there
        text = unicodedata.normalize("NFD", text)
    return f"{text}\n".encode(encoding, "ignore")
