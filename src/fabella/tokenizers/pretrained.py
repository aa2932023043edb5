"""Import existing tokenizers: ``tokenizer.json``, GPT-2's ``vocab.json`` + ``merges.txt``, ``.model``, hub names."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from fabella.config.data import Pretrained
from fabella.errors import TokenizerError
from fabella.text.chat.template import ChatTemplate
from fabella.tokenizers import metadata, untrusted
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.chat import files
from fabella.tokenizers.chat.files import TokenizerFiles
from fabella.tokenizers.huggingface import HuggingFaceTokenizer, start_token
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
NO_FILES = TokenizerFiles()


def load(config: Pretrained, special_tokens: Sequence[str] = ()) -> Tokenizer:
    """Load the tokenizer of a file, a directory or a hub name. Raises TokenizerError.

    ``special_tokens`` that it does not have are added, where its kind can.
    """
    path = Path(config.source).expanduser()
    if path.exists():
        saved = next((folder for folder in (path, path / "tokenizer") if (folder / metadata.NAME).is_file()), None)
        tokenizer = from_saved(saved, config.eos_token) if saved else _from_path(path, config.eos_token)
    elif HUB_NAME.fullmatch(config.source) and path.suffix.lower() not in (".json", ".model", ".txt"):
        tokenizer = _from_path(_downloaded(config.source), config.eos_token)
    else:
        raise TokenizerError(
            f"Cannot find a tokenizer at {config.source}.",
            hint="Give a tokenizer.json, a .model, a directory with one, or a name on the Hugging Face hub.",
        )
    return with_special_tokens(tokenizer, special_tokens, config.source)


def added_tokens(tokenizer: Tokenizer, base: Tokenizer) -> tuple[str, ...] | None:
    """Return the special tokens that ``tokenizer`` has in addition to ``base``; None if other ids differ as well."""
    added = tuple(token for token in tokenizer.special_tokens if token not in base.special_tokens)
    try:
        grown = with_special_tokens(base, added, "the tokenizer")
    except TokenizerError:
        return None
    return added if grown.fingerprint == tokenizer.fingerprint else None


def with_special_tokens(tokenizer: Tokenizer, special_tokens: Sequence[str], name: str) -> Tokenizer:
    """Return the tokenizer with the special tokens that it lacks. Raises TokenizerError if its kind takes no more."""
    missing = [token for token in special_tokens if token not in tokenizer.special_tokens]
    if not missing:
        return tokenizer
    if isinstance(tokenizer, ByteTokenizer):
        return ByteTokenizer([*tokenizer.special_tokens, *missing])
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return tokenizer.with_special_tokens(missing)
    raise TokenizerError(
        f"{name} has no special token {missing[0]!r}, which the chat template writes, and a SentencePiece model cannot "
        "take more.",
        hint="Use a chat template without special tokens, data.chat_template=plain (prepare: --chat-template plain).",
    )


def _from_path(path: Path, eos_token: str) -> Tokenizer:
    if path.is_dir():
        path = next((path / name for name in FILES if (path / name).exists()), path)
        if path.is_dir():
            raise TokenizerError(f"{path} contains no tokenizer.", hint=f"It needs one of: {', '.join(FILES)}.")
    about = files.read(path.parent)
    eos_token = eos_token or about.eos_token
    if path.suffix == ".model":
        tokenizer: Tokenizer = from_model(untrusted.read(path), eos_token, about)
    elif path.name == "vocab.json":
        tokenizer = from_gpt2_files(path, path.with_name("merges.txt"), eos_token)
    else:
        tokenizer = from_json(untrusted.read(path), eos_token, str(path), about=about)
    if about.chat_template:
        tokenizer.chat_template = ChatTemplate("tokenizer", about.chat_template, tuple(tokenizer.special_tokens))
    return tokenizer


def from_json(
    data: bytes,
    eos_token: str,
    name: str,
    kind: str = KIND,
    *,
    about: TokenizerFiles = NO_FILES,
    bos_token: str | None = None,
) -> HuggingFaceTokenizer:
    """Return a tokenizer from the bytes of a ``tokenizer.json``; errors name the file ``name``.

    ``about``: what the files next to it say. ``bos_token``: its start token, empty for none; by default what the files
    or its post-processor say.
    """
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
    text = data.decode()
    if bos_token is None:
        said = about.bos_token if about.adds_bos and about.bos_token in known else ""
        bos_token = "" if about.adds_bos is False else said or start_token(text, eos_token)
    special = [token for token in about.special_tokens if token in known]
    return HuggingFaceTokenizer(
        kind, text, eos_token, values, bos_token="" if bos_token == eos_token else bos_token, special_tokens=special
    )


def from_saved(directory: Path, eos_token: str = "") -> Tokenizer:
    """Return a tokenizer that Fabella saved, of any kind, with its own EOS token unless another one is given."""
    record = metadata.read(directory)
    eos_token, bos_token = eos_token or record.eos_token, record.bos_token
    if record.kind == "bytes":
        tokenizer: Tokenizer = ByteTokenizer(record.special_tokens)
    elif (path := directory / metadata.MODEL_FILE).exists():
        data, special = untrusted.read(path), record.special_tokens
        tokenizer = SentencePieceTokenizer(record.kind, data, eos_token, bos_token=bos_token, special_tokens=special)
    else:
        path = directory / metadata.JSON_FILE
        tokenizer = from_json(untrusted.read(path), eos_token, str(path), record.kind, bos_token=bos_token)
    if record.chat_template:
        source = files.read(directory).chat_template
        tokenizer.chat_template = ChatTemplate(record.chat_template, source, record.template_tokens)
    return tokenizer


def from_model(data: bytes, eos_token: str, about: TokenizerFiles = NO_FILES) -> SentencePieceTokenizer:
    """Return a tokenizer from the bytes of a ``.model``; without a piece ``eos_token`` its end of sentence is EOS."""
    bos_token = about.bos_token if about.adds_bos else ""
    for name in (eos_token, ""):
        try:
            return SentencePieceTokenizer(KIND, data, name, bos_token=bos_token, special_tokens=about.special_tokens)
        except TokenizerError:
            if not name:
                raise
    raise AssertionError("the last name has returned or raised")


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
            path = Path(hf_hub_download(name, file, local_files_only=unreachable))
            for about in files.FILES:
                with suppress(OSError, ValueError):  # most tokenizers have some of these files only
                    hf_hub_download(name, about, local_files_only=unreachable)
            return path
        # The hub's library raises one of these two: unknown name, no permission, no connection.
        except (OSError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0]
            reasons.append(f"{file}: {reason[:300].rstrip('.')}")
            # No connection, and not in the cache: look for the other file in the cache only, because the library
            # retries the connection for half a minute.
            unreachable = isinstance(error, FileNotFoundError)
    raise TokenizerError(f"The tokenizer {name!r} cannot be downloaded from the hub ({'; '.join(reasons)}).", hint=hint)
