"""SentencePiece: BPE over characters with byte fallback (Kudo & Richardson 2018, arXiv 1808.06226).

A model trained here restores every text: no normalization, no added or removed spaces, and the character ▁ (U+2581),
which SentencePiece uses for the space, is encoded as bytes. An imported model keeps its own settings: if it adds a
space before the text, decoding returns that space.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from fabella.config.data import SentencePiece
from fabella.errors import TokenizerError
from fabella.text.chat.template import ChatTemplate
from fabella.tokenizers import metadata, vocab_bytes
from fabella.tokenizers.pretoken_cache import SPACE_CHUNKS, ChunkEncoder
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.tokenizers.vocab_bytes import BYTE_PIECE, REPLACEMENT, SPACE_MARK

# The trainer skips lines of more than 4,192 bytes: lines are split at a space, at most 1,000 characters long.
TRAINING_LINE = re.compile(rf"[^\n{SPACE_MARK}]{{1,1000}}(?=[ \n{SPACE_MARK}]|\Z)|[^\n{SPACE_MARK}]{{1,1000}}")
COVERAGE = 0.9995
"""Share of the characters of the text that get their own piece, up to half of the vocabulary."""
FIXED_PIECES = 258
"""Unknown token, EOS and the 256 bytes."""
LINES_PER_COUNT = 10_000
"""Lines counted in one array operation."""
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
    """Tokenizer from the content of a ``.model`` file; ``eos_token`` is a piece, or empty for its end of sentence.

    ``special_tokens``: pieces that are special, in addition to its control symbols. Text that contains one is encoded
    as bytes.
    """

    def __init__(
        self, kind: str, model: bytes, eos_token: str, *, bos_token: str = "", special_tokens: Sequence[str] = ()
    ) -> None:
        self.kind = kind
        self._model = model
        self._eos_token, self._bos_token, self._more_special = eos_token, bos_token, tuple(special_tokens)
        self._library = _opened(model)
        self._table = _table(self._library)
        self._bytes = _byte_ids(self._library)
        self.vocab_size = len(self._table)
        self.eos_id = _eos_id(self._library, eos_token)
        if not self._bytes and not self._library.is_control(self.eos_id):
            raise TokenizerError(
                f"Text can contain the EOS token {eos_token!r} of this model.",
                hint="Choose another tokenizer.eos_token.",
            )
        self.bos_id = _id_of(self._library, bos_token) if bos_token else None
        self.special_tokens = _special_tokens(self._library, [eos_token, bos_token, *special_tokens])
        if not self._bytes:  # only bytes can spell a piece that text contains
            self.special_tokens = {t: n for t, n in self.special_tokens.items() if self._library.is_control(n)}
        self._special_ids = frozenset(self.special_tokens.values()) | {self.eos_id}
        for number in self._special_ids:
            self._table[number] = b""
        is_own = kind == SentencePiece().kind and not _has_inner_spaces(self._library)
        self._chunks = ChunkEncoder(SPACE_CHUNKS, self._chunk_ids) if is_own else None

    def encode(self, text: str) -> NDArray[np.int32]:
        vocab_bytes.utf8(text)
        return self._chunks.encode(text) if self._chunks else self._escape_special(self._library.encode(text))

    def encode_many(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        return [self.encode(text) for text in texts]

    def _chunk_ids(self, chunk: str) -> list[int]:
        if SPACE_MARK not in chunk:
            return self._library.encode(chunk)
        mark = [self._bytes[value] for value in SPACE_MARK.encode()]
        first, *others = [self._library.encode(part) for part in chunk.split(SPACE_MARK)]
        return first + [number for part in others for number in (*mark, *part)]

    def _escape_special(self, ids: list[int]) -> NDArray[np.int32]:
        """Replace special ids by bytes: in an imported model, a special token may be a piece that text can contain."""
        if self._special_ids.isdisjoint(ids):
            return vocab_bytes.as_ids(ids)
        return vocab_bytes.as_ids([n for number in ids for n in self._spelled(number)])

    def _spelled(self, number: int) -> list[int]:
        if number not in self._special_ids:
            return [number]
        return [self._bytes[value] for value in self._library.id_to_piece(number).encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return vocab_bytes.decode_bytes(self._table, ids).decode(errors="replace")

    def token_bytes(self, token: int) -> bytes:
        return vocab_bytes.token_bytes(self._table, token)

    def save(self, directory: Path) -> None:
        metadata.write(
            directory,
            metadata.TokenizerMetadata(
                kind=self.kind,
                eos_token=self._eos_token,
                bos_token=self._bos_token,
                special_tokens=self._more_special,
            ),
            {metadata.MODEL_FILE: self._model},
            self.chat_template,
        )

    @property
    def fingerprint(self) -> str:
        more = "\0".join([self._bos_token, *self._more_special]).encode()
        return hashlib.sha256(more + self._eos_token.encode() + b"\n" + self._model).hexdigest()

    def __reduce__(self) -> tuple[Callable[..., "SentencePieceTokenizer"], tuple[Any, ...]]:
        names = self._eos_token, self._bos_token, self._more_special
        return _restored, (self.kind, self._model, *names, self.chat_template)


def _restored(
    kind: str,
    model: bytes,
    eos_token: str,
    bos_token: str,
    special_tokens: Sequence[str],
    chat_template: ChatTemplate | None,
) -> SentencePieceTokenizer:
    tokenizer = SentencePieceTokenizer(kind, model, eos_token, bos_token=bos_token, special_tokens=special_tokens)
    tokenizer.chat_template = chat_template
    return tokenizer


def train(config: SentencePiece, texts: Iterable[str], special_tokens: Sequence[str] = ()) -> SentencePieceTokenizer:
    """Train a SentencePiece BPE with at most ``config.vocab_size`` pieces; fewer for a small text.

    Raises TokenizerError if there is no text.
    """
    lines = [line for text in texts for line in TRAINING_LINE.findall(text)]
    lines = _without(_rare(lines, (config.vocab_size - FIXED_PIECES - len(special_tokens)) // 2), lines)
    if not lines:
        raise TokenizerError("Cannot train a SentencePiece tokenizer without text.", hint="Give more text.")
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=config.vocab_size,
            control_symbols=list(special_tokens),
            **SETTINGS,
        )
    except RuntimeError as error:
        raise TokenizerError(f"SentencePiece cannot train on this text: {error}.") from error
    return SentencePieceTokenizer(config.kind, model.getvalue(), "")


def _rare(lines: list[str], limit: int) -> str:
    """Return the characters without their own piece: beyond COVERAGE, or beyond the ``limit`` most frequent."""
    counts = np.zeros(0x110000, dtype=np.int64)
    for start in range(0, len(lines), LINES_PER_COUNT):
        points = np.frombuffer("".join(lines[start : start + LINES_PER_COUNT]).encode("utf-32-le"), dtype=np.uint32)
        counts += np.bincount(points, minlength=len(counts))
    by_count = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    covered = np.cumsum(counts[by_count]) / max(counts.sum(), 1)
    enough = int(np.searchsorted(covered, COVERAGE)) + 1
    return "".join(map(chr, by_count[min(enough, limit) :].tolist()))


def _without(characters: str, lines: list[str]) -> list[str]:
    """Split lines at each of ``characters``."""
    if not characters:
        return lines
    allowed = re.compile(f"[^{re.escape(characters)}]+")
    return [part for line in lines for part in allowed.findall(line)]


def _opened(model: bytes) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise TokenizerError("Not a SentencePiece model, or a damaged one.") from error


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
    """Return byte → id of its piece; empty if the model has no byte pieces."""
    numbers = [number for number in range(library.get_piece_size()) if library.is_byte(number)]
    return {int(library.id_to_piece(number)[3:5], 16): number for number in numbers}


def _has_inner_spaces(library: SentencePieceProcessor) -> bool:
    """Return True if a piece has a space after another character, as only imported models have."""
    pieces = (library.id_to_piece(number) for number in range(library.get_piece_size()))
    return any(SPACE_MARK in piece.lstrip(SPACE_MARK) for piece in pieces)


def _id_of(library: SentencePieceProcessor, token: str) -> int:
    number: int = library.piece_to_id(token)
    if library.id_to_piece(number) != token:
        raise TokenizerError(f"The SentencePiece model has no piece {token!r}.")
    return number


def _special_tokens(library: SentencePieceProcessor, named: Sequence[str]) -> dict[str, int]:
    """Return text → id of the control symbols of a model, and of those of ``named`` that it has."""
    pieces = {library.id_to_piece(number): number for number in range(library.get_piece_size())}
    return {
        piece: number
        for piece, number in pieces.items()
        if (library.is_control(number) or piece in named) and not library.is_unknown(number)
    }


def _eos_id(library: SentencePieceProcessor, eos_token: str) -> int:
    number: int = library.piece_to_id(eos_token) if eos_token else library.eos_id()
    if number >= 0 and (not eos_token or library.id_to_piece(number) == eos_token):
        return number
    raise TokenizerError(
        f"The SentencePiece model has no piece {eos_token!r}."
        if eos_token
        else "The SentencePiece model has no end of sentence.",
        hint="Set tokenizer.eos_token to one of its pieces, e.g. tokenizer.eos_token=</s>",
    )
