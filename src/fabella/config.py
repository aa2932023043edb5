"""A run, whole: what to learn from, which model, how to train it. Sections are frozen and refuse unknown keys.

    Run ── model (its family's own Config) · tokenizer · data · optimizer · training · validation · checkpoint · samples

Alternatives are tagged unions: ``{kind: bpe, vocabulary: 4096}`` against ``{kind: bytes}``. Nothing here
builds anything, and nothing is ``None`` for "derive it": derived values are properties or are resolved
before the run is saved, so that the saved file alone reproduces the run.
"""

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, model_validator

from fabella.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from fabella.models.parameters import Parameter

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
# YAML and the command line give lists; the frozen section keeps a tuple.
Pair = Annotated[tuple[int, int], Field(strict=False)]
Pairs = Annotated[tuple[Pair, ...], Field(strict=False, min_length=1)]


class Section(BaseModel):
    """One part of a config: frozen, strict about types, closed to unknown keys and to NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


# ---------------------------------------------------------------- model


class ModelConfig(Section):
    """What every family's ``Config`` has. ``parameters()`` is the family's one table of weights."""

    family: str
    vocabulary: int = Field(ge=2, le=2**24, description="ids the embedding has rows for")
    context: int = Field(ge=1, le=2**20, description="longest text, in tokens, that the model can look back on")

    @property
    def unbounded(self) -> bool:
        """Whether a text may be longer than ``context`` without harm (true of recurrent families)."""
        return False

    @abstractmethod
    def parameters(self) -> "dict[str, Parameter]":
        """Name → shape, initialisation, decay, in the order of the network from input to output."""
        raise NotImplementedError


def families() -> list[str]:
    """Names of all families: the files of ``fabella/models`` with an engine's suffix that are not blocks (``nn*``)."""
    package = importlib.import_module("fabella.models")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    stems = {name.removesuffix("_torch").removesuffix("_jax") for name in modules if name.endswith(("_torch", "_jax"))}
    return sorted(stem for stem in stems if not stem.startswith("nn"))


def model_config(values: Any) -> ModelConfig:
    """The family's own ``Config`` from a mapping with ``family``; the family is found by its file's name."""
    if isinstance(values, ModelConfig):
        return values
    if not isinstance(values, Mapping) or not isinstance(values.get("family"), str):
        raise ConfigError("model.family is missing.", fix=f"Choose from: {', '.join(families())}.")
    name = values["family"]
    if name not in families():
        raise ConfigError(f"model.family = {name!r} is no family here.", fix=did_you_mean(name, families()))
    return family_module(name).Config.model_validate(dict(values))


def family_module(name: str) -> Any:
    """``fabella.models.NAME``, or ``NAME_torch`` where the family is a single file (law 3 of the design)."""
    package = importlib.import_module("fabella.models")
    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    return importlib.import_module(f"fabella.models.{name if name in modules else name + '_torch'}")


# ---------------------------------------------------------------- tokenizer


class Bytes(Section):
    """The 256 bytes of UTF-8; byte 0xFF, which UTF-8 never contains, ends a document."""

    kind: Literal["bytes"] = "bytes"


class BPE(Section):
    """Byte-level BPE trained on the training text with HF tokenizers."""

    kind: Literal["bpe"] = "bpe"
    vocabulary: int = Field(default=4096, ge=257, le=2**20)


class SentencePiece(Section):
    """SentencePiece BPE with byte fallback, trained on the training text."""

    kind: Literal["sentencepiece"] = "sentencepiece"
    vocabulary: int = Field(default=4096, ge=300, le=2**20)


class Pretrained(Section):
    """A ``tokenizer.json``, a folder with one or with ``vocab.json`` + ``merges.txt``, a ``.model``, or a hub name."""

    kind: Literal["pretrained"] = "pretrained"
    source: str
    end: str = "<|endoftext|>"


TokenizerSection = Annotated[Bytes | BPE | SentencePiece | Pretrained, Field(discriminator="kind")]

# ---------------------------------------------------------------- data


class Files(Section):
    """Files, folders and globs: .txt, .jsonl, .csv, .parquet, and .gz, .zst, .xz of these."""

    kind: Literal["files"] = "files"
    paths: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    separator: str = Field(default="auto", description="auto, file, blank-lines, lines, or the separator itself")
    column: str = Field(default="auto", description="the text column of .jsonl, .csv and .parquet")


class Hub(Section):
    """A data set on the Hugging Face hub (needs ``pip install 'fabella[hub]'``)."""

    kind: Literal["hub"] = "hub"
    name: str
    subset: str = ""
    split: str = "train"
    column: str = "auto"
    revision: str = ""
    streaming: bool = True


class Storybook(Section):
    """Fabella's own generator: story ``i`` of ``seed`` is always the same story."""

    kind: Literal["storybook"] = "storybook"
    stories: Positive = 20_000
    seed: int = 1


class Part(Section):
    """One source of a mixture; ``weight`` is its share of the documents, relative to the other weights."""

    weight: float = Field(gt=0.0)
    source: "Source"


class Mixture(Section):
    """Documents drawn from several sources by weight, in an order fixed by ``seed``."""

    kind: Literal["mixture"] = "mixture"
    parts: Annotated[tuple[Part, ...], Field(strict=False, min_length=1)]
    until: Literal["first", "all"] = Field(default="first", description="end with the first source, or use all up")
    seed: int = 1


Source = Annotated[Files | Hub | Storybook | Mixture, Field(discriminator="kind")]


class Held(Section):
    """Hold out a share of the documents, chosen by the hash of their text: equal texts fall on the same side."""

    kind: Literal["held"] = "held"
    fraction: float = Field(default=0.01, gt=0.0, lt=1.0)


class Given(Section):
    """Validate on a source of its own; training documents that also stand in it are dropped and counted."""

    kind: Literal["given"] = "given"
    source: Source


class Chained(Section):
    """All documents in one line, cut every ``stride`` tokens into windows of ``length``."""

    kind: Literal["chained"] = "chained"
    length: Positive
    stride: Positive

    @model_validator(mode="after")
    def _no_gaps(self) -> "Chained":
        if self.stride > self.length:
            raise ValueError(f"stride {self.stride} leaves out tokens between windows of {self.length}")
        return self


class Documents(Section):
    """One document a window, read from its first token on and cut at ``length``; padding is not learned."""

    kind: Literal["documents"] = "documents"
    length: Positive


class InAdvance(Section):
    """The whole text becomes ids on disk before training, in an order that is shuffled as a whole."""

    kind: Literal["prepared"] = "prepared"


class Streamed(Section):
    """Text is read, tokenized and shuffled while training: at once, from a source of any length.

    A buffer for each source shuffles its documents, another one all windows; both are read again after an interruption,
    so that a checkpoint keeps positions only. A source that ends begins again, with other neighbours.
    """

    kind: Literal["streamed"] = "streamed"
    row_buffer: Positive = Field(default=1000, description="documents of each source that are shuffled together")
    sequence_buffer: Positive = Field(default=256, description="windows that are shuffled together")
    head_bytes: Positive = Field(
        default=2**24, description="text at the beginning from which validation text and tokenizer are taken"
    )
    ahead: Positive = Field(default=8, description="batches read ahead of the training")
    # The hub's own library tries for 100 seconds before it gives up.
    patience_seconds: float = Field(default=120.0, gt=0.0, le=86400.0, description="a longer silence is an error")


class Data(Section):
    source: Source = Storybook()
    validation: Annotated[Held | Given, Field(discriminator="kind")] = Held()
    windows: Annotated[Chained | Documents, Field(discriminator="kind")]
    reading: Annotated[InAdvance | Streamed, Field(discriminator="kind")] = InAdvance()
    invalid_text: Literal["strict", "replace", "skip"] = "strict"
    max_bad_lines: int = Field(default=0, ge=0, description="broken .jsonl or .csv lines to skip before giving up")


# ---------------------------------------------------------------- training


class Segment(Section):
    """A stretch of the learning-rate schedule, from ``start`` to ``end`` times the peak rate."""

    shape: Literal["linear", "cosine"]
    start: float = Field(ge=0.0, le=1.0)
    end: float = Field(ge=0.0, le=1.0)
    length: str | int = Field(description="optimizer steps (50), or a share of the whole run (10%)")

    @model_validator(mode="after")
    def _length(self) -> "Segment":
        self.steps(100)
        return self

    def steps(self, total: int) -> int:
        """Length in optimizer steps, in a run of ``total``."""
        text = str(self.length)
        try:
            steps = round(total * float(text[:-1]) / 100) if text.endswith("%") else int(text)
        except (ValueError, OverflowError):
            steps = -1
        if steps < 0 or (text.endswith("%") and steps > total):
            raise ValueError(f"length {self.length!r} is neither a number of steps (50) nor a share of the run (10%)")
        return steps


# A run without a schedule keeps its peak learning rate.
Schedule = Annotated[tuple[Segment, ...], Field(strict=False)]


class AdamW(Section):
    """Adam with decoupled weight decay, on matrices only (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(gt=0.0, le=10.0)
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    clip: float = Field(default=1.0, gt=0.0, description="largest global gradient norm; 1e9 is no limit")
    schedule: Schedule = ()


class Adam(Section):
    """Adam without any weight decay (Kingma & Ba 2015, arXiv 1412.6980)."""

    kind: Literal["adam"] = "adam"
    lr: float = Field(gt=0.0, le=10.0)
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    clip: float = Field(default=1.0, gt=0.0, description="largest global gradient norm; 1e9 is no limit")
    schedule: Schedule = ()


Optimizer = Annotated[AdamW | Adam, Field(discriminator="kind")]


class Steps(Section):
    steps: Positive


class Epochs(Section):
    epochs: float = Field(gt=0.0, le=1e6)


class Float32(Section):
    kind: Literal["float32"] = "float32"


class BFloat16(Section):
    kind: Literal["bf16"] = "bf16"


class Float16(Section):
    """Half precision with a dynamic loss scale: doubled after ``growth_steps`` finite steps, halved on a bad one."""

    kind: Literal["fp16"] = "fp16"
    initial_scale: float = Field(default=65536.0, ge=1.0)
    growth_steps: Positive = 2000


class Training(Section):
    length: Steps | Epochs
    micro_batch: Positive = Field(description="windows that go through the model at once")
    accumulation: Pairs = Field(
        default=((0, 1),), description="[first optimizer step, micro-batches per step], in order of steps"
    )
    precision: Annotated[Float32 | BFloat16 | Float16, Field(discriminator="kind")] = Float32()
    recompute: Literal["none", "blocks"] = Field(
        default="none", description="blocks: less memory, as each block's activations are computed twice, not kept"
    )
    log_every: Positive = 10

    @model_validator(mode="after")
    def _accumulation_in_order(self) -> "Training":
        firsts = [first for first, _ in self.accumulation]
        if firsts[0] != 0 or firsts != sorted(set(firsts)) or min(n for _, n in self.accumulation) < 1:
            raise ValueError("accumulation must begin at step 0, rise in steps, and count at least 1 micro-batch")
        return self


class Validation(Section):
    every: Positive = 200
    windows: Positive = Field(default=256, description="windows of the fixed set looked at while training")


class Checkpoint(Section):
    every: Positive = 500
    keep: Positive = Field(default=2, description="newest checkpoints kept, beside the best")
    when_full: Literal["stop", "retry"] = Field(default="stop", description="a full disk ends the run, or is retried")


class Samples(Section):
    every: Positive = 500
    prompts: Annotated[tuple[str, ...], Field(strict=False)] = ("Once upon a time",)
    tokens: Positive = 120
    temperature: float = Field(default=0.8, ge=0.0, le=100.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)


class About(Section):
    """Where a preset comes from, and what was published of it."""

    description: str = ""
    published: str = ""


class Run(Section):
    name: str = Field(default="own", min_length=1)
    about: About = About()
    seed: int = Field(default=1, ge=0, le=2**63 - 1)
    engine: Literal["torch", "jax"] = "torch"
    model: Annotated[SerializeAsAny[ModelConfig], BeforeValidator(model_config)]
    tokenizer: TokenizerSection
    data: Data
    optimizer: Optimizer
    training: Training
    validation: Validation = Validation()
    checkpoint: Checkpoint = Checkpoint()
    samples: Samples = Samples()

    @model_validator(mode="after")
    def _window_fits_model(self) -> "Run":
        length, context = self.data.windows.length, self.model.context
        if length > context and not self.model.unbounded:
            raise ValueError(
                f"data.windows.length = {length} is longer than model.context = {context}; "
                "lower it, or raise the context"
            )
        return self

    @model_validator(mode="after")
    def _stream_has_no_epochs(self) -> "Run":
        if isinstance(self.data.reading, Streamed) and isinstance(self.training.length, Epochs):
            raise ValueError(
                "data.reading.kind = streamed: how long a stream is, is not known before it is read, so that "
                "training.length.epochs means nothing; give training.length.steps (--steps)"
            )
        return self
