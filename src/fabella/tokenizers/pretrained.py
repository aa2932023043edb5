"""Import existing tokenizers: ``tokenizer.json``, GPT-2's ``vocab.json`` + ``merges.txt``, ``.model``, hub names."""

import re
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from fabella.config.data import Pretrained
from fabella.errors import TokenizerError
from fabella.tokenizers import metadata, untrusted
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.huggingface import HuggingFaceTokenizer
from fabella.tokenizers.sentencepiece import SentencePieceTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import BYTE_PIECE, token_ids

KIND = "pretrained"
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
USUAL_EOS_TOKENS = (
    "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>", "[SEP]", "<EOS>",
)  # fmt: skip
"""Tokens that end a document, the first that a tokenizer has, if its files name none."""
FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load(config: Pretrained) -> Tokenizer:
    """Load the tokenizer of a file, a directory or a hub name. Raises TokenizerError."""
    path = Path(config.source).expanduser()
    if path.exists():
        saved = next((folder for folder in (path, path / "tokenizer") if (folder / metadata.NAME).is_file()), None)
        return from_saved(saved, config.eos_token) if saved else _from_path(path, config.eos_token)
    if HUB_NAME.fullmatch(config.source) and path.suffix.lower() not in (".json", ".model", ".txt"):
        return _from_path(_downloaded(config.source), config.eos_token)
    raise TokenizerError(
        f"Cannot find a tokenizer at {config.source}.",
        hint="Give a tokenizer.json, a .model, a directory with one, or a name on the Hugging Face hub.",
    )


def _from_path(path: Path, eos_token: str) -> Tokenizer:
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).exists()), path)
        if path.is_dir():
            raise TokenizerError(f"{path} contains no tokenizer.", hint=f"It needs one of: {', '.join(FILES)}.")
    if path.suffix == ".model":
        return from_model(untrusted.read(path), eos_token or eos_of_files(path.parent))
    eos_token = eos_token or eos_of_files(path.parent)
    if path.name == "vocab.json":
        return from_gpt2_files(path, path.with_name("merges.txt"), eos_token)
    return from_json(untrusted.read(path), eos_token, str(path))


def from_json(data: bytes, eos_token: str, name: str, kind: str = KIND) -> HuggingFaceTokenizer:
    """Return a tokenizer from the bytes of a ``tokenizer.json``; errors name the file ``name``."""
    values = untrusted.checked(data, name)
    added = values.get("added_tokens") or []
    known = {*token_ids(values["model"]), *(token["content"] for token in added)}
    eos_token = eos_token or next((token for token in USUAL_EOS_TOKENS if token in known), "")
    if eos_token not in known:
        specials = [token["content"] for token in added if token["special"]]
        listed = ", ".join(token[:50] for token in specials if not BYTE_PIECE.fullmatch(token))[:500]
        what = f"has no EOS token {eos_token!r}" if eos_token else "does not say which token ends a document"
        raise TokenizerError(
            f"{name} {what}.",
            hint=f"Name one: --end-token TOKEN (train: tokenizer.eos_token=TOKEN). Its special tokens: {listed}."
            if listed
            else "Name one of its tokens: --end-token TOKEN (train: tokenizer.eos_token=TOKEN).",
        )
    return HuggingFaceTokenizer(kind, data.decode(), eos_token, values)


def from_saved(directory: Path, eos_token: str = "") -> Tokenizer:
    """Return a tokenizer that Fabella saved, of any kind, with its own EOS token unless another one is given."""
    record = metadata.read(directory)
    if record.kind == "bytes":
        return ByteTokenizer()
    path = directory / metadata.MODEL_FILE
    if path.exists():
        return SentencePieceTokenizer(record.kind, untrusted.read(path), eos_token or record.eos_token)
    path = directory / metadata.JSON_FILE
    return from_json(untrusted.read(path), eos_token or record.eos_token, str(path), record.kind)


def eos_of_files(directory: Path) -> str:
    """Return the EOS token that tokenizer_config.json or special_tokens_map.json names; empty without one."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        if not path.is_file():
            continue
        values = untrusted.parse(untrusted.read(path), str(path))
        for key in ("eos_token", "sep_token"):
            token = values.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token:
                return token
    return ""


def from_model(data: bytes, eos_token: str) -> SentencePieceTokenizer:
    """Return a tokenizer from the bytes of a ``.model``; without a piece ``eos_token`` its end of sentence is EOS."""
    try:
        return SentencePieceTokenizer(KIND, data, eos_token)
    except TokenizerError:
        return SentencePieceTokenizer(KIND, data, "")


def from_gpt2_files(vocab: Path, merges: Path, eos_token: str) -> HuggingFaceTokenizer:
    """Return a tokenizer from the two files of GPT-2: token → id, and the merges in training order."""
    ids = untrusted.parse(untrusted.read(vocab), str(vocab))
    try:
        lines = untrusted.read(merges).decode().split("\n")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{merges} is not text.") from error
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    values = {"model": {"type": "BPE", "vocab": ids, "merges": pairs}, "added_tokens": []}
    untrusted.check(values, str(vocab.parent))
    library = Library(models.BPE(ids, [(left, right) for left, right in pairs]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    return from_json(library.to_str().encode(), eos_token, str(vocab.parent))


def _downloaded(name: str) -> Path:
    """Return the path of the file of a hub tokenizer, downloaded or cached."""
    hint = "Give the path of a tokenizer.json or .model, or tokenizer.kind=bpe to train one."
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        message = f"{name!r} is not an existing path, and hub names need huggingface-hub."
        raise TokenizerError(message, hint=f"pip install 'fabella[hub]'. Or: {hint}") from error
    reasons: list[str] = []
    unreachable = False
    for file in ("tokenizer.json", "tokenizer.model"):
        try:
            return Path(hf_hub_download(name, file, local_files_only=unreachable))
        # The hub's library raises one of these two: unknown name, no permission, no connection.
        except (OSError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
            reasons.append(f"{file}: {reason[:300].rstrip('.')}")
            # No connection, and not in the cache: look for the other file in the cache only, because the library
            # retries the connection for half a minute.
            unreachable = isinstance(error, FileNotFoundError)
    raise TokenizerError(f"The tokenizer {name!r} cannot be downloaded from the hub ({'; '.join(reasons)}).", hint=hint)
