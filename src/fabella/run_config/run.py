"""Config of a whole run. Sections are frozen and refuse unknown keys.

    RunConfig ── model (the Config of its family) · tokenizer · data · optimizer · training · validation ·
                 checkpoint · samples · tracking

Alternatives are tagged unions: ``{kind: bpe, vocab_size: 4096}`` or ``{kind: bytes}``. A config builds nothing, and no
value is ``None`` for "derive it": derived values are properties, or are resolved before the run is saved, so that
the saved file reproduces the run.
"""

import difflib
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from fabella.config.base import ConfigModel, FileName
from fabella.config.data import DataConfig, TokenizerConfig
from fabella.config.optimizer import OptimizerConfig
from fabella.config.tracking import CheckpointConfig, SamplesConfig, TrackingConfig, ValidationConfig
from fabella.config.training import Epochs, TrainingConfig
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import ParameterTable, matching_parameters, trainable_parameters
from fabella.models.registry import parse_model_config
from fabella.optim.registry import parse_optimizer_config


class PresetInfo(ConfigModel):
    """Description and published results of a preset."""

    description: str = Field(default="", description="one sentence about the preset")
    published: str = Field(default="", description="published results that it reproduces; empty for none")


class RunConfig(ConfigModel):
    """All settings of a run."""

    name: FileName = Field(default="own", description="name of the run and of its directory")
    about: PresetInfo = PresetInfo()
    seed: int = Field(
        default=1, ge=0, le=2**63 - 1, description="seed of the weights, the dropout and the order of sequences"
    )
    engine: Literal["torch", "jax"] = Field(default="torch", description="torch or jax")
    model: Annotated[SerializeAsAny[ModelConfig], BeforeValidator(parse_model_config)]
    tokenizer: TokenizerConfig
    data: DataConfig
    optimizer: Annotated[SerializeAsAny[OptimizerConfig], BeforeValidator(parse_optimizer_config)]
    training: TrainingConfig
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    samples: SamplesConfig = SamplesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _sequence_fits_context(self) -> "RunConfig":
        length, context = self.data.sequences.length, self.model.context_length
        if length > context and not self.model.unlimited_context:
            raise ValueError(
                f"data.sequences.length = {length} is longer than model.context_length = {context}; "
                "lower it, or raise model.context_length"
            )
        return self

    @property
    def trainable_parameters(self) -> ParameterTable:
        """Parameters that the optimizer updates: those that ``training.freeze`` does not match."""
        return trainable_parameters(self.model.parameters(), self.training.freeze)

    @model_validator(mode="after")
    def _freeze_matches(self) -> "RunConfig":
        if not self.training.freeze:
            return self
        table = self.model.parameters()
        for pattern in self.training.freeze:
            if not matching_parameters(table, pattern):
                nearest = difflib.get_close_matches(pattern, table, n=1, cutoff=0.0)[0]
                raise ValueError(
                    f"training.freeze: no parameter has a name like {pattern!r}; the nearest name is {nearest!r}"
                )
        if not self.trainable_parameters:
            raise ValueError("training.freeze matches every parameter, so there is nothing to train; remove a pattern")
        return self

    @model_validator(mode="after")
    def _stream_has_no_epochs(self) -> "RunConfig":
        if not self.data.mode.prepared_bytes:
            return self
        if isinstance(self.training.length, Epochs):
            raise ValueError(
                "training.length.epochs needs the length of the text, which data.mode.kind = streaming does not know; "
                "set training.length.max_steps (--steps)"
            )
        for name, section in (
            ("validation", self.validation),
            ("checkpoint", self.checkpoint),
            ("samples", self.samples),
        ):
            if section.every_epochs:
                raise ValueError(
                    f"{name}.every_epochs needs the length of the text, which data.mode.kind = streaming does not "
                    f"know; set {name}.every_steps"
                )
        if any(isinstance(text, str) and text.endswith("epochs") for text in self.checkpoint.milestones):
            raise ValueError(
                "checkpoint.milestones in epochs need the length of the text, which data.mode.kind = streaming does "
                "not know; give them in steps, tokens or words"
            )
        return self
