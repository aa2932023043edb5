"""Tokenizers made elsewhere: ``tokenizer.json``, GPT-2's ``vocab.json`` + ``merges.txt``, ``.model``, hub names."""

import re
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from fabella.config.data import Pretrained
from fabella.errors import TokenizerError
from fabella.tokenizers import untrusted
from fabella.tokenizers.byte_alphabet import token_ids
from fabella.tokenizers.huggingface import HuggingTokenizer
from fabella.tokenizers.sentencepiece import SentencePieceTokenizer
from fabella.tokenizers.tokenizer import Tokenizer

KIND = "pretrained"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load(section: Pretrained) -> Tokenizer:
    """The tokenizer of a file, a folder or a hub name. Raises TokenizerError."""
    path = Path(section.source).expanduser()
    if path.exists():
        return _from_path(path, section.eos_token)
    if HUB_NAME.fullmatch(section.source) and path.suffix.lower() not in (".json", ".model", ".txt"):
        return _from_path(_downloaded(section.source), section.eos_token)
    raise TokenizerError(
        f"There is no tokenizer at {section.source}.",
        hint="Give a tokenizer.json, a .model, a folder with one, or a name on the Hugging Face hub.",
    )


def _from_path(path: Path, end: str) -> Tokenizer:
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).exists()), path)
        if path.is_dir():
            raise TokenizerError(f"{path} holds no tokenizer.", hint=f"It needs one of: {', '.join(FILES)}.")
    if path.suffix == ".model":
        return from_model(untrusted.read(path), end)
    if path.name == "vocab.json":
        return from_gpt2_files(path, path.with_name("merges.txt"), end)
    return from_json(untrusted.read(path), end, str(path))


def from_json(data: bytes, end: str, name: str, kind: str = KIND) -> HuggingTokenizer:
    """A tokenizer from the bytes of a ``tokenizer.json``; ``name`` is for errors."""
    values = untrusted.checked(data, name)
    added = values.get("added_tokens") or []
    if end not in token_ids(values["model"]) and end not in [token["content"] for token in added]:
        specials = ", ".join(token["content"][:50] for token in added if token["special"])
        raise TokenizerError(
            f"{name} has no token {end!r} to end a document with.",
            hint=f"Name one of its special tokens as tokenizer.eos_token: {specials[:500]}."
            if specials
            else "Name one.",
        )
    return HuggingTokenizer(kind, data.decode(), end, values)


def from_model(data: bytes, end: str) -> SentencePieceTokenizer:
    """A tokenizer from the bytes of a ``.model``; its own end of sentence where it has no piece ``end``."""
    try:
        return SentencePieceTokenizer(KIND, data, end)
    except TokenizerError:
        return SentencePieceTokenizer(KIND, data, "")


def from_gpt2_files(vocabulary: Path, merges: Path, end: str) -> HuggingTokenizer:
    """GPT-2's pair of files: token → id, and the merges in the order they were learned."""
    ids = untrusted.parsed(untrusted.read(vocabulary), str(vocabulary))
    try:
        lines = untrusted.read(merges).decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{merges} is no text.") from error
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    values = {"model": {"type": "BPE", "vocab": ids, "merges": pairs}, "added_tokens": []}
    untrusted.check(values, str(vocabulary.parent))
    library = Library(models.BPE(ids, [(left, right) for left, right in pairs]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    return from_json(library.to_str().encode(), end, str(vocabulary.parent))


def _downloaded(name: str) -> Path:
    """The path of a hub tokenizer's file, fetched or from the cache."""
    fix = "Give the path of a tokenizer.json or .model, or tokenizer.kind=bpe to train one."
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        problem = f"{name!r} is no path here, and names on the hub need the package huggingface-hub."
        raise TokenizerError(problem, hint=f"pip install 'fabella[hub]'. Or: {fix}") from error
    reasons: list[str] = []
    unreachable = False
    for file in ("tokenizer.json", "tokenizer.model"):
        try:
            return Path(hf_hub_download(name, file, local_files_only=unreachable))
        # All errors of the hub's library are one of these two: no such name, no permission, no connection.
        except (OSError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
            reasons.append(f"{file}: {reason[:300].rstrip('.')}")
            # No connection, and nothing in the cache: the other file is looked for in the cache alone, for the library
            # tries for half a minute to reach the hub.
            unreachable = isinstance(error, FileNotFoundError)
    raise TokenizerError(f"The tokenizer {name!r} cannot be had from the hub ({'; '.join(reasons)}).", hint=fix)
