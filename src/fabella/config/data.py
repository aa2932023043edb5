"""Data config: tokenizer, sources, validation split, sequences, mode."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fabella.config.base import ConfigModel, Positive

# ---------------------------------------------------------------- tokenizer


class Bytes(ConfigModel):
    """The 256 bytes of UTF-8; byte 0xFF, which UTF-8 never contains, ends a document."""

    kind: Literal["bytes"] = "bytes"


class BPE(ConfigModel):
    """Byte-level BPE trained on the training text with HF tokenizers."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: int = Field(default=4096, ge=257, le=2**20)


class SentencePiece(ConfigModel):
    """SentencePiece BPE with byte fallback, trained on the training text."""

    kind: Literal["sentencepiece"] = "sentencepiece"
    vocab_size: int = Field(default=4096, ge=300, le=2**20)


class Pretrained(ConfigModel):
    """A ``tokenizer.json``, a folder with one or with ``vocab.json`` + ``merges.txt``, a ``.model``, or a hub name."""

    kind: Literal["pretrained"] = "pretrained"
    source: str
    eos_token: str = "<|endoftext|>"


TokenizerConfig = Annotated[Bytes | BPE | SentencePiece | Pretrained, Field(discriminator="kind")]

# ---------------------------------------------------------------- data


class FilesSource(ConfigModel):
    """Files, folders and globs: .txt, .jsonl, .csv, .parquet, and .gz, .zst, .xz of these."""

    kind: Literal["files"] = "files"
    paths: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    separator: str = Field(default="auto", description="auto, file, blank-lines, lines, or the separator itself")
    column: str = Field(default="auto", description="the text column of .jsonl, .csv and .parquet")


class HubSource(ConfigModel):
    """A data set on the Hugging Face hub (needs ``pip install 'fabella[hub]'``)."""

    kind: Literal["hub"] = "hub"
    name: str
    subset: str = ""
    split: str = "train"
    column: str = "auto"
    revision: str = ""
    streaming: bool = True


class StorybookSource(ConfigModel):
    """Fabella's own generator: story ``i`` of ``seed`` is always the same story."""

    kind: Literal["storybook"] = "storybook"
    stories: Positive = 20_000
    seed: int = 1


class WeightedSource(ConfigModel):
    """One source of a mixture; ``weight`` is its share of the documents, relative to the other weights."""

    weight: float = Field(gt=0.0)
    source: "Source"


class MixtureSource(ConfigModel):
    """Documents drawn from several sources by weight, in an order fixed by ``seed``."""

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[WeightedSource, ...], Field(strict=False, min_length=1)]
    until: Literal["first", "all"] = Field(default="first", description="end with the first source, or use all up")
    seed: int = 1


Source = Annotated[FilesSource | HubSource | StorybookSource | MixtureSource, Field(discriminator="kind")]


class Holdout(ConfigModel):
    """Hold out a share of the documents, chosen by the hash of their text: equal texts fall on the same side."""

    kind: Literal["holdout"] = "holdout"
    fraction: float = Field(default=0.01, gt=0.0, lt=1.0)


class ValidationSource(ConfigModel):
    """Validate on a source of its own; training documents that also stand in it are dropped and counted."""

    kind: Literal["source"] = "source"
    source: Source


class Packed(ConfigModel):
    """All documents in one line, cut every ``stride`` tokens into windows of ``length``."""

    kind: Literal["packed"] = "packed"
    length: Positive
    stride: Positive

    @model_validator(mode="after")
    def _no_gaps(self) -> "Packed":
        if self.stride > self.length:
            raise ValueError(f"stride {self.stride} leaves out tokens between windows of {self.length}")
        return self


class Padded(ConfigModel):
    """One document a window, read from its first token on and cut at ``length``; padding is not learned."""

    kind: Literal["padded"] = "padded"
    length: Positive


class Pretokenized(ConfigModel):
    """The whole text becomes ids on disk before training, in an order that is shuffled as a whole."""

    kind: Literal["pretokenized"] = "pretokenized"


class Streaming(ConfigModel):
    """Text is read, tokenized and shuffled while training: at once, from a source of any length.

    A buffer for each source shuffles its documents, another one all windows; both are read again after an interruption,
    so that a checkpoint keeps positions only. A source that ends begins again, with other neighbours.
    """

    kind: Literal["streaming"] = "streaming"
    document_shuffle_buffer: Positive = Field(
        default=1000, description="documents of each source that are shuffled together"
    )
    sequence_shuffle_buffer: Positive = Field(default=256, description="windows that are shuffled together")
    tokenizer_sample_bytes: Positive = Field(
        default=2**24, description="text at the beginning from which validation text and tokenizer are taken"
    )
    prefetch_batches: Positive = Field(default=8, description="batches read ahead of the training")
    # The hub's own library tries for 100 seconds before it gives up.
    timeout_seconds: float = Field(default=120.0, gt=0.0, le=86400.0, description="a longer silence is an error")


class DataConfig(ConfigModel):
    source: Source = StorybookSource()
    validation: Annotated[Holdout | ValidationSource, Field(discriminator="kind")] = Holdout()
    sequences: Annotated[Packed | Padded, Field(discriminator="kind")]
    mode: Annotated[Pretokenized | Streaming, Field(discriminator="kind")] = Pretokenized()
    decode_errors: Literal["strict", "replace", "skip"] = "strict"
    max_bad_lines: int = Field(default=0, ge=0, description="broken .jsonl or .csv lines to skip before giving up")
