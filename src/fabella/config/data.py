"""Data config: tokenizer, text sources, validation split, training sequences, mode."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from fabella.config.base import ConfigModel, Positive

# ---------------------------------------------------------------- tokenizer


MAX_SPECIAL_TOKEN_CHARACTERS = 100


def require_special_token(token: str) -> str:
    """Return ``token`` if it can be a special token. Raises ValueError."""
    if not token.strip() or not token.isprintable() or len(token) > MAX_SPECIAL_TOKEN_CHARACTERS:
        raise ValueError(
            f"{token[:20]!r} cannot be a special token; it has 1 to {MAX_SPECIAL_TOKEN_CHARACTERS} printable "
            "characters, such as <|user|>"
        )
    return token


SpecialTokens = Annotated[
    tuple[Annotated[str, AfterValidator(require_special_token)], ...],
    Field(
        strict=False,
        max_length=1000,
        exclude_if=lambda tokens: not tokens,
        description="tokens that no text is encoded to, such as <|user|>",
    ),
]


class Bytes(ConfigModel):
    """The 256 bytes of UTF-8; byte 0xFF, which UTF-8 never contains, is the EOS token."""

    kind: Literal["bytes"] = "bytes"
    special_tokens: SpecialTokens = ()


class BPE(ConfigModel):
    """Byte-level BPE, trained on the training text with Hugging Face tokenizers."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=4096, ge=257, le=2**20, description="tokens in the vocabulary, at least 257")
    special_tokens: SpecialTokens = ()


class SentencePiece(ConfigModel):
    """SentencePiece BPE with byte fallback, trained on the training text."""

    kind: Literal["sentencepiece"] = "sentencepiece"
    vocab_size: int = Field(default=4096, ge=300, le=2**20, description="tokens in the vocabulary, at least 300")
    special_tokens: SpecialTokens = ()


class Pretrained(ConfigModel):
    """Existing tokenizer: a file, a directory or a name on the Hugging Face hub."""

    kind: Literal["pretrained"] = "pretrained"
    source: str = Field(
        description="tokenizer.json, .model, hub name, or directory with tokenizer.json or vocab.json and merges.txt"
    )
    eos_token: str = Field(default="", description="token that ends a document; empty for that of its own files")
    max_lost_characters: float = Field(
        default=0.0001, ge=0.0, le=1.0, description="share of the characters that it may lose, 0 to 1"
    )


TokenizerConfig = Annotated[Bytes | BPE | SentencePiece | Pretrained, Field(discriminator="kind")]

# ---------------------------------------------------------------- sources


class FilesSource(ConfigModel):
    """Files, directories and globs: .txt, .md, .jsonl, .csv, .parquet, .html, .epub and others, and .gz, .zst, .xz."""

    kind: Literal["files"] = "files"
    paths: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        description="files, directories and globs, in this order"
    )
    separator: str = Field(
        default="auto",
        description="document separator of .txt: auto, file, blank-lines, lines, or the separator itself",
    )
    column: str = Field(
        default="auto",
        description="text column of a table: a name, a path such as doc.text, or a template; auto detects it",
    )
    encoding: str = Field(
        default="auto", description="encoding of text files, such as utf-8 or cp1252; auto detects it"
    )
    boilerplate: Literal["remove", "keep"] = Field(
        default="remove", description="header and licence of Project Gutenberg, and front matter of Markdown"
    )
    split: Literal["train", "validation", "test", "all"] = Field(
        default="train", description="files to read where names mark train, validation and test files"
    )
    limit: int = Field(default=0, ge=0, description="documents to read at most; 0 reads all")


class HubSource(ConfigModel):
    """Dataset on the Hugging Face hub (needs ``pip install 'fabella[hub]'``)."""

    kind: Literal["hub"] = "hub"
    name: str = Field(description="OWNER/NAME")
    subset: str = Field(default="", description="subset of the dataset; empty for the default one")
    split: str = Field(default="train", description="split of the dataset")
    column: str = Field(default="auto", description="text column; auto detects it")
    revision: str = Field(default="", description="git revision of the dataset; empty for the newest")
    streaming: bool = Field(
        default=True, description="read the rows over the network instead of downloading them first"
    )


class StorybookSource(ConfigModel):
    """Built-in story generator: story ``i`` of ``seed`` is always the same story."""

    kind: Literal["storybook"] = "storybook"
    stories: Positive = Field(default=20_000, description="number of stories")
    seed: int = Field(default=1, description="seed of the generator")


class WeightedSource(ConfigModel):
    """One source of a mixture and its weight."""

    weight: float = Field(gt=0.0, description="share of the training, relative to the other weights; above 0")
    source: "Source" = Field(description="a source of any kind")


PHASE_END = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?: ?(%)|([kMB]?) (tokens|sequences))")
"""``until`` of a phase: ``80%``, ``10M tokens``, ``5000 sequences``; its number, %, factor and unit are groups."""


class MixturePhase(ConfigModel):
    """Weights of the parts of a mixture up to a point of the training."""

    until: int | str = Field(description="end of the phase: a training step, 80%, '10M tokens' or '5000 sequences'")
    weights: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] = Field(
        description="one weight per part, at least 0"
    )

    @model_validator(mode="after")
    def _valid(self) -> "MixturePhase":
        if not _is_phase_end(self.until):
            raise ValueError(f"until = {self.until!r} is not a step, nor like 80%, '10M tokens' or '5000 sequences'")
        if min(self.weights) < 0 or max(self.weights) == 0:
            raise ValueError(f"weights {list(self.weights)} need to be at least 0, and one of them above 0")
        return self


class MixtureSource(ConfigModel):
    """Several sources, each with its share of the training; a source that ends starts over."""

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[
        tuple[WeightedSource, ...],
        Field(strict=False, min_length=1, examples=["[{source: {kind: files, paths: [a.txt]}, weight: 1.0}]"]),
    ]
    by: Literal["tokens", "documents"] = Field(default="tokens", description="unit of the weights")
    schedule: Annotated[tuple[MixturePhase, ...], Field(strict=False)] = Field(
        default=(),
        description="other weights at the beginning; after the last phase, those of the parts",
        examples=["[{until: 50%, weights: [0.9, 0.1]}]"],
    )
    until: Literal["first", "all"] = Field(
        default="first",
        description="end of an epoch: first: when one part was used completely; all: when every part was",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "MixtureSource":
        for phase in self.schedule:
            if len(phase.weights) != len(self.parts):
                raise ValueError(f"schedule has {len(phase.weights)} weights in a phase for {len(self.parts)} parts")
        for part in self.parts:
            if isinstance(part.source, MixtureSource) and (part.source.by != self.by or part.source.schedule):
                raise ValueError(
                    f"a mixture within a mixture needs by = {self.by} like the outer one, and has no schedule"
                )
        return self


def _is_phase_end(until: int | str) -> bool:
    return until > 0 if isinstance(until, int) else PHASE_END.fullmatch(until) is not None


Source = Annotated[FilesSource | HubSource | StorybookSource | MixtureSource, Field(discriminator="kind")]

# ---------------------------------------------------------------- validation split


class Holdout(ConfigModel):
    """Hold out a share of the documents, chosen by the hash of their text: equal texts are in the same split."""

    kind: Literal["holdout"] = "holdout"
    fraction: float = Field(default=0.01, gt=0.0, lt=1.0, description="share of the documents, between 0 and 1")


class ValidationSource(ConfigModel):
    """Validate on a separate source; training documents that are also in it are dropped and counted."""

    kind: Literal["source"] = "source"
    source: Source


# ---------------------------------------------------------------- duplicates


class KeepDuplicates(ConfigModel):
    """Train on all documents, also on equal ones."""

    kind: Literal["keep"] = "keep"


class RemoveExact(ConfigModel):
    """Leave out documents that equal an earlier one."""

    kind: Literal["exact"] = "exact"


class RemoveNear(ConfigModel):
    """Leave out documents that equal or are similar to an earlier one (needs ``pip install 'fabella[duplicates]'``)."""

    kind: Literal["near"] = "near"
    similarity: float = Field(
        default=0.8, ge=0.3, le=1.0, description="share of common runs of 5 words, 0.3 to 1, estimated by MinHash"
    )


Duplication = Annotated[KeepDuplicates | RemoveExact | RemoveNear, Field(discriminator="kind")]

# ---------------------------------------------------------------- training sequences


class Packed(ConfigModel):
    """Documents concatenated and cut into sequences of ``length`` tokens, one every ``stride`` tokens."""

    kind: Literal["packed"] = "packed"
    length: Positive = Field(description="tokens per sequence, at least 1")
    stride: Positive = Field(description="tokens between the starts of two sequences, 1 to length")
    reshuffle: bool = Field(
        default=False,
        exclude_if=lambda reshuffle: not reshuffle,
        description="in training, put the documents in another order and cut them elsewhere in every epoch",
    )

    mask_documents: bool = Field(
        default=False,
        exclude_if=lambda mask_documents: not mask_documents,
        description="predict a token from its own document only: attention and states begin again with each document",
    )

    @model_validator(mode="after")
    def _no_gaps(self) -> "Packed":
        if self.stride > self.length:
            raise ValueError(f"stride {self.stride} leaves out tokens between sequences of {self.length}")
        if self.reshuffle and self.stride != self.length:
            raise ValueError(
                f"reshuffle needs stride = length = {self.length}, without overlap; stride is {self.stride}"
            )
        return self


class Padded(ConfigModel):
    """One document per sequence, from its first token, cut at ``length`` and padded; padding is not predicted."""

    kind: Literal["padded"] = "padded"
    length: Positive = Field(description="tokens per sequence at most, at least 1")


# ---------------------------------------------------------------- mode


class Pretokenized(ConfigModel):
    """Tokenize the whole text to disk before training; sequences are shuffled over the whole dataset."""

    kind: Literal["pretokenized"] = "pretokenized"

    @property
    def prepared_bytes(self) -> int:
        """Bytes of training text that ``prepare`` reads at most; 0 means all of it."""
        return 0


class Streaming(ConfigModel):
    """Read, tokenize and shuffle text while training: no preparation, and sources of any length.

    One buffer per source shuffles its documents, another one all sequences. Both are read again on resume, so that a
    checkpoint stores positions only. A source that ends starts over in another order.
    """

    kind: Literal["streaming"] = "streaming"
    document_shuffle_buffer: Positive = Field(
        default=1000, description="documents of each source that are shuffled together, at least 1"
    )
    sequence_shuffle_buffer: Positive = Field(
        default=256, description="sequences that are shuffled together, at least 1"
    )
    tokenizer_sample_bytes: Positive = Field(
        default=2**24,
        description="bytes at the start of the text that the tokenizer and the validation split are taken from",
    )
    prefetch_batches: Positive = Field(default=8, description="batches read ahead of training, at least 1")
    # The hub's own library retries for 100 seconds before it gives up.
    timeout_seconds: float = Field(
        default=120.0, gt=0.0, le=86400.0, description="seconds without a batch after which training fails"
    )

    @property
    def prepared_bytes(self) -> int:
        """Bytes of training text that ``prepare`` reads at most; 0 means all of it."""
        return self.tokenizer_sample_bytes


LossOn = Literal["all", "answers"]
"""Tokens that are learned"""


class DataConfig(ConfigModel):
    """Where the text comes from and how it becomes training sequences."""

    source: Source = StorybookSource()
    duplicates: Duplication = KeepDuplicates()
    validation: Annotated[Holdout | ValidationSource, Field(discriminator="kind")] = Holdout()
    sequences: Annotated[Packed | Padded, Field(discriminator="kind")]
    mode: Annotated[Pretokenized | Streaming, Field(discriminator="kind")] = Pretokenized()
    decode_errors: Literal["strict", "replace", "skip"] = Field(
        default="strict",
        description="damaged text (invalid UTF-8, NUL): strict fails, replace inserts U+FFFD, skip drops the document",
    )
    max_bad_lines: int = Field(
        default=0, ge=0, description="broken .jsonl or .csv lines to skip before failing, at least 0"
    )
    loss_on: LossOn = Field(
        default="all", description="tokens that are learned: all, or answers, those of the assistant's messages"
    )
    chat_template: str = Field(
        default="auto",
        min_length=1,
        description="writes conversations: plain, chatml, alpaca, zephyr, a file, or tokenizer, which is its own; "
        "auto: its own, else plain",
    )
    special_tokens_in_text: bool = Field(
        default=False, description="encode the special tokens of the tokenizer where a text spells them out"
    )

    @model_validator(mode="after")
    def _reshuffle_is_possible(self) -> "DataConfig":
        if isinstance(self.sequences, Packed) and self.sequences.reshuffle:
            if self.mode.prepared_bytes:
                raise ValueError(
                    "mode.kind = streaming shuffles documents in every epoch by itself; leave out sequences.reshuffle"
                )
            if self.loss_on != "all":
                raise ValueError(
                    "sequences.reshuffle needs loss_on = all: other sequences have no answers in each epoch"
                )
        return self

    @model_validator(mode="after")
    def _stream_keeps_duplicates(self) -> "DataConfig":
        if self.mode.prepared_bytes and self.duplicates.kind != "keep":
            raise ValueError(
                f"duplicates.kind = {self.duplicates.kind} compares all of the text, which mode.kind = streaming does "
                "not have at once; leave one of them out"
            )
        return self
