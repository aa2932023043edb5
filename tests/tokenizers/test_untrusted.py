"""Tests that an unsafe ``tokenizer.json`` is refused before the library loads it, and that nothing hangs."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabella.errors import TokenizerError
from fabella.tokenizers import untrusted
from tests.tokenizers import hostile
from tests.tokenizers.samples import foreign_values

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.fault("E7", cases=hostile.CASES)
def test_hostile_files_neither_hang_nor_crash() -> None:
    """Run in a child process, because the library may panic or hang."""
    command = [sys.executable, "-m", hostile.__name__]
    environment = {**os.environ, "RUST_BACKTRACE": "0"}
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    count, used = map(int, process.stdout.split())
    assert count == hostile.CASES
    assert used > 20, "some of the changed files are harmless and must load"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hostile.many_merges, "1,000,000 entries of merges; the limit is 524,288"),
        (hostile.empty_merges, "merging '' and '' gives no token of the vocabulary"),
        (hostile.same_ids, "id 7 belongs to both"),
        (hostile.huge_id, "the id of 'far' is 4294967295; ids are 0 to 1,048,575"),
        (hostile.long_words, "max_input_chars_per_word is above 1000"),
        (hostile.long_token, "a token is not text, or longer than 4096 characters"),
    ],
)
def test_a_refusal_names_its_reason(change: Callable[[dict[str, Any]], dict[str, Any]], words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        untrusted.checked(json.dumps(change(foreign_values())).encode(), "tokenizer.json")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"tokenizer.json is damaged: not JSON \(JSONDecodeError\)"),
        (b"[1]", "tokenizer.json is not a tokenizer: it contains a list instead of an object"),
        (b'{"model": {"type": "CTC", "vocab": {}}}', "unknown model type 'CTC'. Supported: BPE, Unigram, WordPiece"),
        (b'{"model": {"type": "BPE", "vocab": {}}}', "the vocabulary is empty"),
        (b'{"model": {"type": "BPE", "vocab": {"a": -1}}}', "the id of 'a' is -1"),
        (b'{"added_tokens": []}', "not a valid tokenizer: KeyError at 'model'"),
        (b'{"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "b", "special": 1}]}',
         "'special' of an added token is not a boolean"),
    ],
)  # fmt: skip
def test_damage_is_named(data: bytes, words: str) -> None:
    with pytest.raises(TokenizerError, match=words):
        untrusted.checked(data, "tokenizer.json")


PUBLISHED_PATTERNS = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",  # noqa: RUF001
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"\s?\p{L}+",
    r" {2,}",
]


@pytest.mark.parametrize("pattern", PUBLISHED_PATTERNS)
def test_patterns_of_published_tokenizers_are_accepted(pattern: str) -> None:
    assert not untrusted.is_dangerous(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a*)*",
        "(?:a+){9,}",
        "((a+))+",
        "(a+|b)+",
        "(x(a+)y)*",
        "a*b*c*d*",
        "(a)\\1",
        "(?<n>a)\\k<n>",
        "(\\w+\\s?)*",
    ],
)
def test_patterns_with_exponential_time_are_refused(pattern: str) -> None:
    assert untrusted.is_dangerous(pattern)


@pytest.mark.parametrize(
    "pattern", [r"(a\+)+", "([+*])+", "(ab)+", "(a?)+", "(a{3}|b)+", "a+|b+|c+|d+|e+", "(a+|b+)|(c+|d+)"]
)
def test_harmless_patterns_are_accepted(pattern: str) -> None:
    assert not untrusted.is_dangerous(pattern)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TokenizerError, match=r"has 1,099,511,627,776 bytes\. A tokenizer has at most 67,108,864\."):
        untrusted.read(tmp_path / "tokenizer.json")


def test_a_directory_is_refused_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError, match=r"is not a file\. Give a tokenizer\.json, a \.model, or a directory with one"
    ):
        untrusted.read(tmp_path)
