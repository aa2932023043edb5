"""Validation of an untrusted ``tokenizer.json`` before the library loads it: valid, of limited size, safe patterns.

The limits are far above every published tokenizer, and far below the resources of a machine.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fabella.errors import TokenizerError
from fabella.tokenizers.vocab_bytes import token_ids

# The largest published tokenizers have 61 MB and 902,000 entries (XLM-V), and 515,000 merges (Gemma 3).
MAX_BYTES = 64 * 2**20
MAX_ENTRIES = 2**20
MAX_MERGES = 2**19
MAX_TOKEN_CHARACTERS = 4096
MAX_PATTERN_CHARACTERS = 4096
# Patterns of published tokenizers have at most two unbounded repeats per alternative, and no nested ones.
MAX_REPEATS = 3
# WordPiece needs time quadratic in this.
MAX_WORD_CHARACTERS = 1000
MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def read(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a tokenizer file. Raises TokenizerError if it is missing, unreadable or larger than ``limit`` bytes."""
    try:
        if not path.is_file():
            raise TokenizerError(
                f"{path} is not a file.", hint="Give a tokenizer.json, a .model, or a directory with one."
            )
        if path.stat().st_size > limit:
            raise TokenizerError(
                f"{path} has {path.stat().st_size:,} bytes. A tokenizer has at most {limit:,}.",
                hint="Check that this is the file of the tokenizer, not of the model.",
            )
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"Cannot read {path}: {error.strerror}.") from error


def parse(data: bytes, name: str) -> dict[str, Any]:
    """Return the object of a JSON file. Raises TokenizerError."""
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name} is damaged: not JSON ({type(error).__name__}).") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{name} is not a tokenizer: it contains a {type(values).__name__} instead of an object.")
    return values


def checked(data: bytes, name: str) -> dict[str, Any]:
    """Return the checked values of a ``tokenizer.json``. Raises TokenizerError if they are invalid or unsafe."""
    values = parse(data, name)
    check(values, name)
    return values


def check(values: dict[str, Any], name: str) -> None:
    """Raise TokenizerError if the values of a ``tokenizer.json`` are invalid or unsafe."""
    try:
        _check_model(values["model"], name)
        _check_ids(values, name)
        _check_patterns(values, name)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        message = f"{name} is not a valid tokenizer: {type(error).__name__} at {str(error)[:100]}."
        raise TokenizerError(message, hint="Save it again with the library that made it.") from error


def _check_model(model: dict[str, Any], name: str) -> None:
    # Old files have no type, and the library guesses it: guess the same.
    kind = model.get("type", "BPE" if "merges" in model else "Unigram" if isinstance(model["vocab"], list) else "")
    if kind not in MODELS:
        raise TokenizerError(f"{name}: unknown model type {kind!r}. Supported: {', '.join(MODELS)}.")
    for what, limit in (("vocab", MAX_ENTRIES), ("merges", MAX_MERGES)):
        if len(model.get(what, ())) > limit:
            raise TokenizerError(f"{name}: {len(model[what]):,} entries of {what}; the limit is {limit:,}.")
    if model.get("max_input_chars_per_word", 0) > MAX_WORD_CHARACTERS:
        raise TokenizerError(f"{name}: max_input_chars_per_word is above {MAX_WORD_CHARACTERS}.")
    vocab = token_ids(model)
    for merge in model.get("merges", ()):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        prefix = model.get("continuing_subword_prefix") or ""
        if left + right.removeprefix(prefix) not in vocab:
            raise TokenizerError(f"{name}: merging {left[:50]!r} and {right[:50]!r} gives no token of the vocabulary.")


def _check_ids(values: dict[str, Any], name: str) -> None:
    """Require integer ids in range, one token each; an added token may repeat its own id."""
    owners: dict[int, str] = {}
    added = [(token["content"], token["id"]) for token in values.get("added_tokens") or []]
    if not all(isinstance(token["special"], bool) for token in values.get("added_tokens") or []):
        raise TokenizerError(f"{name}: 'special' of an added token is not a boolean.")
    for token, number in [*token_ids(values["model"]).items(), *added]:
        if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenizerError(f"{name}: a token is not text, or longer than {MAX_TOKEN_CHARACTERS} characters.")
        if type(number) is not int or not 0 <= number < MAX_ENTRIES:
            raise TokenizerError(f"{name}: the id of {token[:50]!r} is {number!r}; ids are 0 to {MAX_ENTRIES - 1:,}.")
        if owners.setdefault(number, token) != token:
            raise TokenizerError(f"{name}: id {number} belongs to both {owners[number][:50]!r} and {token[:50]!r}.")
    if not owners:
        raise TokenizerError(f"{name}: the vocabulary is empty.")


def _check_patterns(values: dict[str, Any], name: str) -> None:
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        for pattern in _patterns(values.get(part)):
            if len(pattern) > MAX_PATTERN_CHARACTERS or is_dangerous(pattern):
                raise TokenizerError(
                    f"{name}: the pattern {pattern[:80]!r} of its {part} can take exponential time.",
                    hint="Use a tokenizer whose pattern has no nested repeats.",
                )


def _patterns(part: Any) -> Iterator[str]:
    """Yield every ``{"Regex": …}`` below a part of a ``tokenizer.json``."""
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        part = list(part.values())
    if isinstance(part, list):
        for item in part:
            yield from _patterns(item)


# Lexer of a pattern: an escape, a class, a group, a repeat, an alternative, or any other character.
STEP = re.compile(
    r"\\.(?:\{[^}]*\})?|\[(?:\\.|\[:\w+:\]|[^\]\\])*\]|\((?:\?[^)]?)?|\)|[*+?]|\{\d*,?\d*\}|\||.", re.DOTALL
)


BACK_REFERENCE = re.compile(r"\\(?:[1-9]|[kg])")


def is_dangerous(pattern: str) -> bool:
    """Return True if a pattern may take exponential or steep polynomial time: nested unbounded repeats, more than
    :data:`MAX_REPEATS` of them in one alternative, or a back reference.

    A static check, because a timeout around a first encode cannot prove a pattern safe: the text that triggers the
    worst case is chosen by its author, and comes later, in a worker or in a server request. It may refuse a harmless
    pattern, but none of the published tokenizers.
    """
    outer: list[tuple[int, int]] = []
    # Unbounded repeats in this alternative, the maximum of earlier alternatives, and those of the last closed group.
    current = maximum = closed = 0
    for step in STEP.findall(pattern):
        repeat = _repeats(step)
        if BACK_REFERENCE.match(step) or (repeat > 1 and closed):
            return True
        closed = 0
        if step.startswith("("):
            outer.append((current, maximum))
            current = maximum = 0
        elif step == ")" and outer:
            closed = max(current, maximum)
            current, maximum = outer[-1][0] + closed, outer.pop()[1]
        elif step == "|":
            current, maximum = 0, max(current, maximum)
        elif repeat == math.inf:
            current += 1
        if current > MAX_REPEATS:
            return True
    return False


def _repeats(step: str) -> float:
    """Return the maximum repeats of a step: 0 if it is not a repeat, infinity for ``*``, ``+`` and ``{n,}``."""
    if step in ("*", "+"):
        return math.inf
    numbers = re.fullmatch(r"\{(\d*)(,?)(\d*)\}", step)
    if numbers is None:
        return 0
    if numbers[2] and not numbers[3]:
        return math.inf
    return min(int((numbers[3] or numbers[1] or "0")[:6]), 10**6)
