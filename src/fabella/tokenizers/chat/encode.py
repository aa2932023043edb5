"""Documents as ids: plain text, and text with the marks of a chat template (``text.chat.marks``)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fabella.errors import TokenizerError
from fabella.text.chat.marks import Piece, has_marks, parse, split_special
from fabella.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class EncodedDocument:
    """Ids of a document with the tokens that start and end it, in parts, and which parts belong to an answer."""

    parts: list[NDArray[np.int32]]
    in_answer: list[bool]
    """One for each part"""
    text: bytes
    """UTF-8 of the text without special tokens"""
    answer_bytes: int
    """Bytes of the text of answers"""

    @property
    def ids(self) -> NDArray[np.int32]:
        """All ids, [T]."""
        return np.concatenate(self.parts)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Whether each id belongs to an answer, [T]."""
        return np.repeat(self.in_answer, [len(part) for part in self.parts])


class DocumentEncoder:
    """Encoder of documents; with ``special_tokens_in_text``, a special token in plain text is its id."""

    def __init__(self, tokenizer: Tokenizer, *, special_tokens_in_text: bool = False) -> None:
        self._tokenizer = tokenizer
        self._bos = np.array([] if tokenizer.bos_id is None else [tokenizer.bos_id], np.int32)
        self._eos = np.array([tokenizer.eos_id], np.int32)
        longest_first = sorted(tokenizer.special_tokens, key=len, reverse=True) if special_tokens_in_text else []
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def encode(self, texts: Sequence[str]) -> list[EncodedDocument]:
        """Encode documents. Raises TokenizerError with the number of the text, from 0."""
        plain = self._special is None and not any(map(has_marks, texts))
        plans = [] if plain else [self._pieces(text) for text in texts]
        try:
            return self._encode_plain(texts) if plain else list(self._encoded(plans))
        except TokenizerError:
            for number, text in enumerate(texts):
                self._encode_one(text, self._pieces(text), number)  # one by one, to name the text that failed
            raise

    def _encode_plain(self, texts: Sequence[str]) -> list[EncodedDocument]:
        """Encode documents without marks, which need no pieces."""
        start = [self._bos] if len(self._bos) else []
        in_answer = [False] * (len(start) + 2)
        return [
            EncodedDocument([*start, ids, self._eos], in_answer, text.encode(), 0)
            for text, ids in zip(texts, self._tokenizer.encode_many(texts), strict=True)
        ]

    def encode_prompt(self, text: str) -> NDArray[np.int32]:
        """Return the ids of the beginning of a document, without the tokens that start and end it."""
        plan = self._pieces(text)
        plan = plan[1:] if plan and plan[0].kind == "bos" else plan
        ids = iter(self._tokenizer.encode_many([piece.text for piece in plan if piece.kind == "text"]))
        parts = [next(ids) if piece.kind == "text" else self._special_ids(piece) for piece in plan]
        return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)

    def _pieces(self, text: str) -> list[Piece]:
        pieces = list(parse(text)) if has_marks(text) else [Piece("text", text, False)]
        if self._special:
            pieces = [part for piece in pieces for part in self._with_special(piece, self._special)]
        if len(pieces) > 1 and pieces[-2].kind == "eos" and pieces[-1].text.isspace():
            pieces.pop()  # white space that a template writes after the token that ends the document
        return pieces

    def _with_special(self, piece: Piece, special: re.Pattern[str]) -> Iterator[Piece]:
        if piece.kind != "text":
            yield piece
            return
        for part, is_special in split_special(piece.text, special):
            yield Piece("special" if is_special else "text", part, piece.answer)

    def _encode_one(self, text: str, plan: list[Piece], number: int) -> None:
        try:
            list(self._encoded([plan]))
        except TokenizerError as error:
            raise TokenizerError(f"Document {number} ({text[:40]!r}): {error.message}", hint=error.hint) from error

    def _encoded(self, plans: Sequence[list[Piece]]) -> Iterator[EncodedDocument]:
        texts = [piece.text for plan in plans for piece in plan if piece.kind == "text"]
        ids = iter(self._tokenizer.encode_many(texts))
        for plan in plans:
            parts = [next(ids) if piece.kind == "text" else self._special_ids(piece) for piece in plan]
            yield self._document(plan, parts)

    def _document(self, plan: list[Piece], parts: list[NDArray[np.int32]]) -> EncodedDocument:
        in_answer = [piece.answer for piece in plan]
        if len(self._bos) and not (plan and plan[0].kind == "bos"):
            parts, in_answer = [self._bos, *parts], [False, *in_answer]
        if not (plan and plan[-1].kind == "eos"):
            learned = bool(plan) and plan[-1].answer and plan[-1].kind == "text"
            parts, in_answer = [*parts, self._eos], [*in_answer, learned]
        texts = [piece.text for piece in plan if piece.kind == "text"]
        learned_texts = [piece.text for piece in plan if piece.answer and piece.kind == "text"]
        return EncodedDocument(
            parts, in_answer, "".join(texts).encode(), sum(len(text.encode()) for text in learned_texts)
        )

    def _special_ids(self, piece: Piece) -> NDArray[np.int32]:
        if piece.kind == "eos":
            return self._eos
        if piece.kind == "bos":
            return self._bos
        number = self._tokenizer.special_tokens.get(piece.text)
        if number is None:
            raise TokenizerError(
                f"The tokenizer has no special token {piece.text!r}, which the chat template writes.",
                hint="Use the chat template of the tokenizer, or one without special tokens: data.chat_template=plain.",
            )
        return np.array([number], np.int32)


def prefix_id(tokenizer: Tokenizer) -> int:
    """Return the id that precedes the first token of a document: the start token, else the EOS of the one before."""
    return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
