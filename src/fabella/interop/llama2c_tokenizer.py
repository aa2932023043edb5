"""``tokenizer.bin`` of llama2.c: texts and scores of the tokens, and the algorithm by which run.c applies them.

    int32: length of the longest text · then for each id: float32 score, int32 length, bytes of the text

run.c puts token 1 and, before a prompt that is not empty, a space first. It merges the neighboring tokens whose joined
text has the highest score. Characters without a token are their bytes, with ids from 3 on.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Library

from fabella.errors import CheckpointError, TokenizerError
from fabella.interop.tokenizer_json import merges_by_score, plain_added_tokens, sentencepiece_of
from fabella.storage import storage_errors
from fabella.storage.messages import escaped_path
from fabella.tokenizers import pretrained
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import BYTE_PIECE

UNKNOWN, BOS, FIRST_BYTE = 0, 1, 3
MAX_TOKENIZER_BYTES = 64 * 2**20
MAX_TOKEN_BYTES = 4096
ENTRY = struct.Struct("<fi")
BOS_TEXT = "<s>"


@dataclass(frozen=True, slots=True)
class Llama2CTokenizer:
    """Texts and scores by id."""

    texts: list[bytes]
    scores: list[float]
    ids: dict[bytes, int] = field(repr=False)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.texts)

    @property
    def has_bytes_in_place(self) -> bool:
        """Whether the tokens of the 256 bytes have the ids that run.c assumes."""
        return self.texts[FIRST_BYTE] == b"<0x00>" and self.texts[FIRST_BYTE + 255] == b"<0xFF>"

    @classmethod
    def read(cls, path: Path) -> "Llama2CTokenizer":
        """Read a file. Raises CheckpointError if it is missing or damaged."""
        shown = escaped_path(path)
        with storage_errors(path, f"reading {path.name}"), path.open("rb") as file:
            data = file.read(MAX_TOKENIZER_BYTES + 1)
        texts, scores, position = list[bytes](), list[float](), 4
        while position < len(data) <= MAX_TOKENIZER_BYTES:
            entry = data[position : position + ENTRY.size]
            score, length = ENTRY.unpack(entry) if len(entry) == ENTRY.size else (0.0, -1)
            position += ENTRY.size + length
            if not 0 <= length <= MAX_TOKEN_BYTES or position > len(data) or score != score:
                texts.clear()
                break
            texts.append(data[position - length : position])
            scores.append(score)
        if len(texts) <= FIRST_BYTE + 256:
            raise CheckpointError(f"{shown} is not a tokenizer of llama2.c, or is damaged.", hint="Get the file again.")
        return cls(texts, scores, _first_ids(texts))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text without token 1, as ``encode`` of run.c."""
        characters = [" ", *text] if text else []
        ids: list[int] = []
        for data in (character.encode() for character in characters):
            ids += [self.ids[data]] if data in self.ids else [value + FIRST_BYTE for value in data]
        while True:
            pairs = [self.ids.get(self.texts[a] + self.texts[b], -1) for a, b in pairwise(ids)]
            known = [number for number, pair in enumerate(pairs) if pair >= 0]
            if not known:
                return ids
            best = max(known, key=lambda number: (self.scores[pairs[number]], -number))
            ids[best : best + 2] = [pairs[best]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids. run.c drops the first space of a text; this function keeps it."""
        return b"".join(self.token_bytes(number) for number in ids).decode(errors="replace")

    def token_bytes(self, number: int) -> bytes:
        """Return the bytes of one id."""
        byte = BYTE_PIECE.fullmatch(self.texts[number].decode(errors="replace"))
        return bytes([int(byte[1], 16)]) if byte else self.texts[number]


def _first_ids(texts: Sequence[bytes]) -> dict[bytes, int]:
    ids: dict[bytes, int] = {}
    for number, text in enumerate(texts):
        ids.setdefault(text, number)
    return ids


def find_tokenizer(model: Path) -> Path:
    """Return the tokenizer next to a model: ``tokenizer.bin``, or the only ``tok*.bin``. Raises CheckpointError."""
    found = [model.with_name("tokenizer.bin")]
    if not found[0].is_file():
        found = sorted(path for path in model.parent.glob("tok*.bin") if path != model)
    if len(found) != 1 or not found[0].is_file():
        raise CheckpointError(
            f"There is no tokenizer.bin next to {escaped_path(model)}.",
            hint="Copy the tokenizer of the model there, under this name.",
        )
    return found[0]


def to_tokenizer(tokenizer: Llama2CTokenizer, path: Path) -> Tokenizer:
    """Return the tokenizer of a run. Token 1 ends a document and precedes one. Raises TokenizerError."""
    try:
        texts = [text.decode() for text in tokenizer.texts]
    except UnicodeDecodeError:
        raise TokenizerError(f"{escaped_path(path)}: a token is not UTF-8.", hint="Get the file again.") from None
    while texts and not texts[-1]:  # rows of the model without a token
        texts.pop()
    ends = [number for number, text in enumerate(texts) if number > BOS and text.strip() == "</s>"]
    special = {UNKNOWN: "<unk>", BOS: BOS_TEXT} | dict.fromkeys(ends, "</s>")
    texts = [special.get(number, text) for number, text in enumerate(texts)]
    vocab = {text: number for number, text in enumerate(texts)}
    if len(vocab) != len(texts):
        raise TokenizerError(f"{escaped_path(path)}: two tokens have the same text.", hint="Get the file again.")
    plain = [n for n, text in enumerate(texts) if n not in special and not BYTE_PIECE.fullmatch(text)]
    merges = merges_by_score({texts[number]: tokenizer.scores[number] for number in plain})
    library = Library(models.BPE(vocab, merges, unk_token=special[UNKNOWN], byte_fallback=True))
    library.normalizer = normalizers.Prepend(" ")
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special.values()])
    return pretrained.from_json(library.to_str().encode(), BOS_TEXT, escaped_path(path), bos_token="")


def write_tokenizer(path: Path, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Write texts and scores. Raises TokenizerError unless token 1 ends a document and the tokens have scores."""
    scored = sentencepiece_of(tokenizer) if tokenizer.eos_id == prefix_id(tokenizer) == BOS else None
    if scored is None:
        raise TokenizerError(
            "run.c needs a SentencePiece tokenizer whose token 1 ends a document; this run has a tokenizer of kind "
            f"{tokenizer.kind}.",
            hint="Train with tokenizer.kind=sentencepiece, or use --to gguf.",
        )
    plain = plain_added_tokens(tokenizer)
    if plain:
        raise TokenizerError(f"run.c does not know the added token {plain[0]['content']!r}.", hint="Use --to gguf.")
    scored += [(b"", -1e9)] * (vocab_size - len(scored))
    with path.open("wb") as file:
        file.write(struct.pack("<i", max(len(text) for text, _ in scored)))
        for text, score in scored:
            file.write(ENTRY.pack(score, len(text)) + text)
