"""A run, whole: what to learn from, which model, how to train it. Sections are frozen and refuse unknown keys.

    Run ── model (its family's own Config) · tokenizer · data · optimizer · training · validation · checkpoint ·
           samples · telemetry

Alternatives are tagged unions: ``{kind: bpe, vocabulary: 4096}`` against ``{kind: bytes}``. Nothing here
builds anything, and nothing is ``None`` for "derive it": derived values are properties or are resolved
before the run is saved, so that the saved file alone reproduces the run.
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from fabella.config.base import Section
from fabella.config.data import Data, Streamed, TokenizerSection
from fabella.config.optimizer import Optimizer
from fabella.config.tracking import Checkpoint, Samples, Telemetry, Validation
from fabella.config.training import Epochs, Training
from fabella.models.model_config import ModelConfig
from fabella.models.registry import model_config


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
