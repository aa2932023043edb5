"""A run, whole: what to learn from, which model, how to train it. Sections are frozen and refuse unknown keys.

    Run ── model (its family's own Config) · tokenizer · data · optimizer · training · validation · checkpoint ·
           samples · telemetry

Alternatives are tagged unions: ``{kind: bpe, vocabulary: 4096}`` against ``{kind: bytes}``. Nothing here
builds anything, and nothing is ``None`` for "derive it": derived values are properties or are resolved
before the run is saved, so that the saved file alone reproduces the run.
"""

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from fabella.config_data import (
    BPE,
    Bytes,
    Chained,
    Data,
    Documents,
    Files,
    Fraction,
    Given,
    Held,
    Hub,
    InAdvance,
    Mixture,
    Pair,
    Pairs,
    Part,
    Positive,
    Pretrained,
    Section,
    SentencePiece,
    Source,
    Storybook,
    Streamed,
    TokenizerSection,
)
from fabella.config_numbers import NonFinite, Rewind, Skip, Stop
from fabella.config_observing import Checkpoint, Samples, Telemetry, Validation
from fabella.config_optimizer import Adam, AdamW, Muon, Optimizer, Schedule, Segment
from fabella.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from fabella.models.parameters import Parameter

__all__ = [
    "BPE",
    "About",
    "Adam",
    "AdamW",
    "AutoPrecision",
    "BFloat16",
    "Bytes",
    "Chained",
    "Checkpoint",
    "Data",
    "Documents",
    "Epochs",
    "Files",
    "Float16",
    "Float32",
    "Fraction",
    "Given",
    "Held",
    "Hub",
    "InAdvance",
    "Mixture",
    "ModelConfig",
    "Muon",
    "NonFinite",
    "Optimizer",
    "Pair",
    "Pairs",
    "Part",
    "Positive",
    "Precision",
    "Pretrained",
    "Rewind",
    "Run",
    "Samples",
    "Schedule",
    "Section",
    "Segment",
    "SentencePiece",
    "Skip",
    "Source",
    "Steps",
    "Stop",
    "Storybook",
    "Streamed",
    "Telemetry",
    "TokenizerSection",
    "Training",
    "Validation",
    "families",
    "family_module",
    "model_config",
]  # fmt: skip


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


# ---------------------------------------------------------------- training


class Steps(Section):
    steps: Positive


class Epochs(Section):
    epochs: float = Field(gt=0.0, le=1e6)


class Float32(Section):
    kind: Literal["float32"] = "float32"
    tf32: bool = Field(default=False, description="matrix products of NVIDIA GPUs with 10 bits of mantissa: faster")


class BFloat16(Section):
    kind: Literal["bf16"] = "bf16"


class Float16(Section):
    """Half precision with a dynamic loss scale: doubled after ``growth_steps`` finite steps, halved on a bad one."""

    kind: Literal["fp16"] = "fp16"
    initial_scale: float = Field(default=65536.0, ge=1.0)
    growth_steps: Positive = 2000


class AutoPrecision(Section):
    """bf16 on NVIDIA GPUs that have it, fp16 on older ones, float32 everywhere else."""

    kind: Literal["auto"] = "auto"


Precision = Annotated[AutoPrecision | Float32 | BFloat16 | Float16, Field(discriminator="kind")]


# Long enough for what one process does while the others wait for it: preparing, sampling, writing a checkpoint.
LONGEST_WAIT_SECONDS = 600.0


class Copied(Section):
    """Where several processes train: the whole model on every device, each learning from its share of every batch."""

    kind: Literal["data"] = "data"
    timeout_seconds: float = Field(default=LONGEST_WAIT_SECONDS, gt=0.0, le=1e6, description="wait for a process")


class Sharded(Section):
    """The same, but weights, gradients and moments lie in shards, one a device: for what one device cannot hold."""

    kind: Literal["fsdp"] = "fsdp"
    timeout_seconds: float = Field(default=LONGEST_WAIT_SECONDS, gt=0.0, le=1e6, description="wait for a process")


class Training(Section):
    length: Steps | Epochs
    micro_batch: Positive = Field(description="windows that go through the model at once")
    accumulation: Pairs = Field(
        default=((0, 1),), description="[first optimizer step, micro-batches per step], in order of steps"
    )
    precision: Precision = Float32()
    recompute: Literal["none", "blocks"] = Field(
        default="none", description="blocks: less memory, as each block's activations are computed twice, not kept"
    )
    compile: Literal["auto", "blocks", "none"] = Field(
        default="auto", description="torch.compile of each block; auto: where the run is long enough to take it back"
    )
    parallel: Annotated[Copied | Sharded, Field(discriminator="kind")] = Copied()
    nonfinite: NonFinite = Stop()
    log_every: Positive = 10

    @model_validator(mode="after")
    def _accumulation_in_order(self) -> "Training":
        firsts = [first for first, _ in self.accumulation]
        if firsts[0] != 0 or firsts != sorted(set(firsts)) or min(n for _, n in self.accumulation) < 1:
            raise ValueError("accumulation must begin at step 0, rise in steps, and count at least 1 micro-batch")
        return self


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
    telemetry: Telemetry = Telemetry()

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
