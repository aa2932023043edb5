"""What a ``tokenizer.json`` from elsewhere must be before the library may see it: whole, of sane size, harmless.

The limits are far above every published tokenizer, and far below what takes a machine down.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fabella.errors import TokenizerError
from fabella.tokenizers.byte_alphabet import token_ids

# The largest published ones have 61 MB and 902,000 entries (XLM-V), and 515,000 merges (Gemma 3).
MOST_BYTES = 64 * 2**20
MOST_ENTRIES = 2**20
MOST_MERGES = 2**19
LONGEST_TOKEN = 4096
LONGEST_PATTERN = 4096
# Patterns of published tokenizers repeat without bound at most twice in an alternative, and never within a repeat.
MOST_REPEATS = 3
# Of WordPiece: its time grows with the square of this.
LONGEST_WORD = 1000
MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


def read(path: Path, limit: int = MOST_BYTES) -> bytes:
    """A tokenizer's file. Raises TokenizerError where it is missing, unreadable, or larger than ``limit`` bytes."""
    try:
        if not path.is_file():
            raise TokenizerError(f"{path} is no file.", hint="Give a tokenizer.json, a .model, or a folder with one.")
        if path.stat().st_size > limit:
            raise TokenizerError(
                f"{path} has {path.stat().st_size:,} bytes; a tokenizer has at most {limit:,}.",
                hint="Check that this is the tokenizer's file and not the model's.",
            )
        return path.read_bytes()
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read: {error.strerror}.") from error


def parsed(data: bytes, name: str) -> dict[str, Any]:
    """The content of a JSON file that must be an object."""
    try:
        values = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{name} is damaged: it is no JSON ({type(error).__name__}).") from error
    if not isinstance(values, dict):
        raise TokenizerError(f"{name} is no tokenizer: it holds a {type(values).__name__} instead of an object.")
    return values


def checked(data: bytes, name: str) -> dict[str, Any]:
    """The values of a ``tokenizer.json``. Raises TokenizerError for what no honest tokenizer is."""
    values = parsed(data, name)
    check(values, name)
    return values


def check(values: dict[str, Any], name: str) -> None:
    """Raise TokenizerError where the values of a ``tokenizer.json`` are what no honest tokenizer's are."""
    try:
        _check_model(values["model"], name)
        _check_ids(values, name)
        _check_patterns(values, name)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        problem = f"{name} is no tokenizer that can be read: {type(error).__name__} at {str(error)[:100]}."
        raise TokenizerError(problem, hint="Save it anew with the library that made it.") from error


def _check_model(model: dict[str, Any], name: str) -> None:
    # Old files leave the type out; the library then guesses, and so may not we.
    kind = model.get("type", "BPE" if "merges" in model else "Unigram" if isinstance(model["vocab"], list) else "")
    if kind not in MODELS:
        raise TokenizerError(f"{name}: model type {kind!r} is none of {', '.join(MODELS)}.")
    for what, most in (("vocab", MOST_ENTRIES), ("merges", MOST_MERGES)):
        if len(model.get(what, ())) > most:
            raise TokenizerError(f"{name}: {len(model[what]):,} entries of {what}; at most {most:,} are read.")
    if model.get("max_input_chars_per_word", 0) > LONGEST_WORD:
        raise TokenizerError(f"{name}: max_input_chars_per_word is above {LONGEST_WORD}.")
    vocab_size = token_ids(model)
    for merge in model.get("merges", ()):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        prefix = model.get("continuing_subword_prefix") or ""
        if left + right.removeprefix(prefix) not in vocab_size:
            raise TokenizerError(f"{name}: merging {left[:50]!r} and {right[:50]!r} gives no token of the vocabulary.")


def _check_ids(values: dict[str, Any], name: str) -> None:
    """Ids are whole numbers in range, one token each; an added token may repeat its own id."""
    owners: dict[int, str] = {}
    added = [(token["content"], token["id"]) for token in values.get("added_tokens") or []]
    if not all(isinstance(token["special"], bool) for token in values.get("added_tokens") or []):
        raise TokenizerError(f"{name}: 'special' of an added token is neither true nor false.")
    for token, number in [*token_ids(values["model"]).items(), *added]:
        if not isinstance(token, str) or len(token) > LONGEST_TOKEN:
            raise TokenizerError(f"{name}: a token is no text, or longer than {LONGEST_TOKEN} characters.")
        if type(number) is not int or not 0 <= number < MOST_ENTRIES:
            raise TokenizerError(f"{name}: the id of {token[:50]!r} is {number!r}; ids are 0 to {MOST_ENTRIES - 1:,}.")
        if owners.setdefault(number, token) != token:
            raise TokenizerError(f"{name}: id {number} belongs to both {owners[number][:50]!r} and {token[:50]!r}.")
    if not owners:
        raise TokenizerError(f"{name}: the vocabulary is empty.")


def _check_patterns(values: dict[str, Any], name: str) -> None:
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        for pattern in _patterns(values.get(part)):
            if len(pattern) > LONGEST_PATTERN or is_dangerous(pattern):
                raise TokenizerError(
                    f"{name}: the pattern {pattern[:80]!r} of its {part} can take for ever on some texts.",
                    hint="Use a tokenizer whose pattern has no repeat within a repeat.",
                )


def _patterns(part: Any) -> Iterator[str]:
    """Every ``{"Regex": …}`` below a part of a ``tokenizer.json``."""
    if isinstance(part, dict):
        if isinstance(part.get("Regex"), str):
            yield part["Regex"]
        part = list(part.values())
    if isinstance(part, list):
        for item in part:
            yield from _patterns(item)


# One step through a pattern: an escape, a class, a bracket, a repeat, a bar, or any other character.
STEP = re.compile(
    r"\\.(?:\{[^}]*\})?|\[(?:\\.|\[:\w+:\]|[^\]\\])*\]|\((?:\?[^)]?)?|\)|[*+?]|\{\d*,?\d*\}|\||.", re.DOTALL
)


BACK_REFERENCE = re.compile(r"\\(?:[1-9]|[kg])")


def is_dangerous(pattern: str) -> bool:
    """Whether a pattern may take exponential or steep polynomial time: a repeat without bound within another,
    more than :data:`MOST_REPEATS` of them in one alternative, or a reference back to a group."""
    around: list[tuple[int, int]] = []
    # Unbounded repeats in this alternative, the most of those before it, and those of the group that just closed.
    here = most = closed = 0
    for step in STEP.findall(pattern):
        repeat = _repeats(step)
        if BACK_REFERENCE.match(step) or (repeat > 1 and closed):
            return True
        closed = 0
        if step.startswith("("):
            around.append((here, most))
            here = most = 0
        elif step == ")" and around:
            closed = max(here, most)
            here, most = around[-1][0] + closed, around.pop()[1]
        elif step == "|":
            here, most = 0, max(here, most)
        elif repeat == math.inf:
            here += 1
        if here > MOST_REPEATS:
            return True
    return False


def _repeats(step: str) -> float:
    """How often a step lets what stands before it repeat: 0 for none, infinity for ``*``, ``+`` and ``{n,}``."""
    if step in ("*", "+"):
        return math.inf
    numbers = re.fullmatch(r"\{(\d*)(,?)(\d*)\}", step)
    if numbers is None:
        return 0
    if numbers[2] and not numbers[3]:
        return math.inf
    return min(int((numbers[3] or numbers[1] or "0")[:6]), 10**6)
