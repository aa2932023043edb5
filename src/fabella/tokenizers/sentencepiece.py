"""SentencePiece: BPE over characters with the 256 bytes to fall back on (Kudo & Richardson 2018, arXiv 1808.06226).

Trained here it returns every text unchanged: no normalisation, no added or removed spaces, and the character ▁
(U+2581), which SentencePiece uses for the space, goes by its bytes. A model made elsewhere keeps its own settings:
one that puts a space before the text does so, and decoding shows that space.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from fabella.config.data import SentencePiece
from fabella.errors import TokenizerError
from fabella.tokenizers import metadata, vocab_bytes
from fabella.tokenizers.byte_alphabet import BYTE_PIECE, REPLACEMENT, SPACE_MARK
from fabella.tokenizers.pretoken_cache import SPACE_CHUNKS, ChunkEncoder
from fabella.tokenizers.tokenizer import Tokenizer

# The trainer skips lines of more than 4,192 bytes: lines are cut at a space before 1,000 characters.
TRAINING_LINE = re.compile(rf"[^\n{SPACE_MARK}]{{1,1000}}(?=[ \n{SPACE_MARK}]|\Z)|[^\n{SPACE_MARK}]{{1,1000}}")
# Share of the text's characters that get a piece of their own, if the vocabulary has room for them: half of it.
COVERAGE = 0.9995
# Unknown, end, and the 256 bytes.
PIECES_BEFORE = 258
LINES_COUNTED = 10_000
SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "character_coverage": 1.0,
    "hard_vocab_limit": False,
    "unk_id": 0,
    "bos_id": -1,
    "eos_id": 1,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 3,
}


class SentencePieceTokenizer(Tokenizer):
    """``model`` is the content of a ``.model`` file; ``end`` a piece of it, or empty for its end of sentence."""

    def __init__(self, kind: str, model: bytes, end: str) -> None:
        self.kind = kind
        self._model = model
        self._end_spelling = end
        self._library = _opened(model)
        self._table = _table(self._library)
        self._bytes = _byte_ids(self._library)
        self.vocab_size = len(self._table)
        self.eos_id = _end(self._library, end)
        self._table[self.eos_id] = b""
        if not self._bytes and not self._library.is_control(self.eos_id):
            raise TokenizerError(
                f"Text can spell the end {end!r} of this model.", hint="Choose another tokenizer.eos_token."
            )
        own = kind == SentencePiece().kind and not _spaces_within(self._library)
        self._chunks = ChunkEncoder(SPACE_CHUNKS, self._chunk_ids) if own else None

    def encode(self, text: str) -> NDArray[np.int32]:
        vocab_bytes.utf8(text)
        return self._chunks.encode(text) if self._chunks else self._without_end(self._library.encode(text))

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self.encode(text) for text in texts]

    def _chunk_ids(self, chunk: str) -> list[int]:
        if SPACE_MARK not in chunk:
            return self._library.encode(chunk)
        mark = [self._bytes[value] for value in SPACE_MARK.encode()]
        first, *others = [self._library.encode(part) for part in chunk.split(SPACE_MARK)]
        return first + [number for part in others for number in (*mark, *part)]

    def _without_end(self, ids: list[int]) -> NDArray[np.int32]:
        """A foreign model may have its end as a piece that text can spell: then that spelling goes by its bytes."""
        if self.eos_id not in ids:
            return vocab_bytes.as_ids(ids)
        spelled = [self._bytes[value] for value in self._library.id_to_piece(self.eos_id).encode()]
        return vocab_bytes.as_ids([n for number in ids for n in (spelled if number == self.eos_id else [number])])

    def decode(self, ids: Sequence[int]) -> str:
        return vocab_bytes.decode_bytes(self._table, ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return vocab_bytes.one(self._table, token)

    def save(self, folder: Path) -> None:
        metadata.write(
            folder,
            metadata.TokenizerMetadata(kind=self.kind, end=self._end_spelling),
            {metadata.MODEL_FILE: self._model},
        )

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._end_spelling.encode() + b"\n" + self._model).hexdigest()

    def __reduce__(self) -> tuple[type["SentencePieceTokenizer"], tuple[str, bytes, str]]:
        return SentencePieceTokenizer, (self.kind, self._model, self._end_spelling)


def train(section: SentencePiece, texts: Iterable[str]) -> SentencePieceTokenizer:
    """A SentencePiece BPE of at most ``section.vocabulary`` pieces; fewer where the text is too small for more."""
    lines = [line for text in texts for line in TRAINING_LINE.findall(text)]
    lines = _without(_rare(lines, (section.vocab_size - PIECES_BEFORE) // 2), lines)
    if not lines:
        raise TokenizerError("There is no text to train a SentencePiece tokenizer on.", hint="Give more text.")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=section.vocab_size, **SETTINGS
        )
    except RuntimeError as error:
        raise TokenizerError(f"SentencePiece cannot learn from this text: {error}.") from error
    return SentencePieceTokenizer(section.kind, model.getvalue(), "")


def _rare(lines: list[str], room: int) -> str:
    """Characters that get no piece of their own: beyond COVERAGE of the text, or beyond the ``room`` most frequent."""
    times = np.zeros(0x110000, dtype=np.int64)
    for start in range(0, len(lines), LINES_COUNTED):
        points = np.frombuffer("".join(lines[start : start + LINES_COUNTED]).encode("utf-32-le"), dtype=np.uint32)
        times += np.bincount(points, minlength=len(times))
    by_times = np.argsort(-times, kind="stable")[: np.count_nonzero(times)]
    covered = np.cumsum(times[by_times]) / max(times.sum(), 1)
    enough = int(np.searchsorted(covered, COVERAGE)) + 1
    return "".join(map(chr, by_times[min(enough, room) :].tolist()))


def _without(characters: str, lines: list[str]) -> list[str]:
    """The lines cut where they have one of ``characters``."""
    if not characters:
        return lines
    kept = re.compile(f"[^{re.escape(characters)}]+")
    return [part for line in lines for part in kept.findall(line)]


def _opened(model: bytes) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise TokenizerError("This is no SentencePiece model, or it is damaged.") from error


def _table(library: SentencePieceProcessor) -> list[bytes | None]:
    return [_bytes_of(library, number) for number in range(library.get_piece_size())]


def _bytes_of(library: SentencePieceProcessor, number: int) -> bytes:
    piece: str = library.id_to_piece(number)
    byte = BYTE_PIECE.fullmatch(piece)
    if library.is_control(number):
        return b""
    if library.is_unknown(number):
        return REPLACEMENT
    return bytes([int(byte[1], 16)]) if byte and library.is_byte(number) else piece.replace(SPACE_MARK, " ").encode()


def _byte_ids(library: SentencePieceProcessor) -> dict[int, int]:
    """Byte → id of its piece; empty where the model has none."""
    numbers = [number for number in range(library.get_piece_size()) if library.is_byte(number)]
    return {int(library.id_to_piece(number)[3:5], 16): number for number in numbers}


def _spaces_within(library: SentencePieceProcessor) -> bool:
    """Whether a piece has a space after another character, as only models made elsewhere have."""
    every = (library.id_to_piece(number) for number in range(library.get_piece_size()))
    return any(SPACE_MARK in piece.lstrip(SPACE_MARK) for piece in every)


def _end(library: SentencePieceProcessor, end: str) -> int:
    number: int = library.piece_to_id(end) if end else library.eos_id()
    if number >= 0 and (not end or library.id_to_piece(number) == end):
        return number
    raise TokenizerError(
        f"The SentencePiece model has no piece {end!r}." if end else "The SentencePiece model has no end of sentence.",
        hint="Name one of its pieces that ends a document: tokenizer.eos_token=</s>",
    )
