"""Five hundred damaged or hostile ``tokenizer.json`` files. As a program, it loads and uses each of them, and fails if
one takes more than two seconds or raises anything but a TokenizerError."""

import copy
import faulthandler
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from fabella.errors import TokenizerError
from fabella.tokenizers import pretrained
from tests.tokenizers.samples import foreign_values

CASES = 500
MAX_SECONDS = 5  # of computing; one case took 2.1 on a busy machine
HANGS_AFTER_SECONDS = 120
TEXTS = ("", "once upon", "a" * 2000, " " * 2000, "\n" * 500, "1" * 500, "'" * 500, "漢" * 300, "ab" * 500 + "!")
HOSTILE_PATTERNS = [
    "(a+)+$", "(a*)*b", "(a|aa)+$", "(.*)*x", "([a-zA-Z]+)*$", "(\\s*\\s*)*z", "((a{1,99}){1,99}){1,99}z",
    "(?:a+){9,}!",
    "a*a*a*a*a*a*b", "(\\w+\\s?)*$", "(a)\\1+", "(?<x>a)\\k<x>", ".*.*.*.*x", "x" * 5000, "(", "[", "\\", "(?<=a+)b",
]  # fmt: skip
JUNK: list[Any] = [
    None, True, -1, 0, 2**20, 2**31, 2**63, 2**70, 1e308, "", "x", "\0", "\ud800", "<|endoftext|>", [], {}, [[]],
    [None],    {"type": "BPE"}, {"Regex": "(a+)+$"}, "x" * 100_000, ["a b"] * 1000, [1, 2, 3],
]  # fmt: skip


def cases() -> Iterator[bytes]:
    """Yield the contents of the hostile files, always the same."""
    source = random.Random(3)
    yield from known_faults()
    for number in range(CASES - len(list(known_faults()))):
        data = json.dumps(_damaged_values(source)).encode()
        yield _damaged_bytes(source, data) if number % 5 == 0 else data


def known_faults() -> Iterator[bytes]:
    """Yield the files with a known kind of fault."""
    yield from (b"", b"null", b"[]", b"{}", b"[" * 100_000, b'{"model":' * 5000, b"\xff\xfe", b'{"model": NaN}')
    for pattern in HOSTILE_PATTERNS:
        values = foreign_values()
        values["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern
        yield json.dumps(values).encode()
        values = foreign_values()
        values["normalizer"] = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x" * 1000}
        yield json.dumps(values).encode()
    for change in (many_merges, empty_merges, same_ids, missing_ids, huge_id, long_words, long_token):
        yield json.dumps(change(foreign_values())).encode()


def many_merges(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["merges"] = [["a", "b"]] * 10**6
    return values


def empty_merges(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["merges"] = [["", ""], ["a", ""]] * 1000
    return values


def same_ids(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["vocab"] = dict.fromkeys(values["model"]["vocab"], 7)
    return values


def missing_ids(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["vocab"] = {token: 1000 * number for token, number in values["model"]["vocab"].items()}
    return values


def huge_id(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["vocab"]["far"] = 2**32 - 1
    return values


def long_words(values: dict[str, Any]) -> dict[str, Any]:
    vocab = values["model"]["vocab"]
    values["model"] = {"type": "WordPiece", "vocab": vocab, "unk_token": "a", "max_input_chars_per_word": 10**9}
    return values


def long_token(values: dict[str, Any]) -> dict[str, Any]:
    values["model"]["vocab"]["a" * 10**6] = 5000
    return values


def _damaged_values(source: random.Random) -> dict[str, Any]:
    values = foreign_values()
    for _ in range(source.randrange(1, 4)):
        container = values
        keys: list[Any] = list(container)
        key = source.choice(keys)
        while source.random() < 0.85 and isinstance(container[key], dict | list) and container[key]:
            container = container[key]
            key = source.choice(list(container)) if isinstance(container, dict) else source.randrange(len(container))
        if source.random() < 0.3:
            del container[key]
        else:
            container[key] = copy.deepcopy(source.choice(JUNK))
        if not values:
            break
    return values


def _damaged_bytes(source: random.Random, data: bytes) -> bytes:
    """Return the data with some bytes changed, possibly truncated."""
    damaged = bytearray(data)
    for _ in range(source.randrange(1, 20)):
        damaged[source.randrange(len(damaged))] = source.randrange(256)
    return bytes(damaged[: source.randrange(len(damaged))] if source.random() < 0.5 else damaged)


def is_usable(data: bytes) -> bool:
    """Load and use a tokenizer. Return whether it can be used."""
    try:
        tokenizer = pretrained.from_json(data, "<|endoftext|>", "hostile")
        for text in TEXTS:
            tokenizer.decode(tokenizer.encode(text).tolist())
    except TokenizerError:
        return False
    return True


def main() -> None:
    used = count = 0
    for number, data in enumerate(cases()):
        print(f"case {number}: {data[:80]!r}", file=sys.stderr)
        faulthandler.dump_traceback_later(HANGS_AFTER_SECONDS, exit=True)
        start = time.process_time()  # not wall time: the machine may be busy
        used += is_usable(data)
        if time.process_time() - start > MAX_SECONDS:
            sys.exit(f"case {number} took {time.process_time() - start:.1f} s of computing")
        count += 1
        faulthandler.cancel_dump_traceback_later()
    print(count, used)


if __name__ == "__main__":
    main()
