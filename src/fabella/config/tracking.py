"""Config of validation, checkpoints, samples and trackers; none of it changes the weights."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fabella.config.base import ConfigModel, Positive

NumEpochs = Annotated[float, Field(ge=0.0, le=1e6)]
MILESTONE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMB]?) (tokens|words|epochs)")
DOUBLING = "doubling"
FACTORS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


class ValidationConfig(ConfigModel):
    """Validation while training, on a fixed set of held-out sequences."""

    every_steps: int = Field(
        default=200,
        ge=0,
        le=2**31 - 1,
        description="training steps between two validations; the last step of a run is validated in any case; 0, with "
        "every_epochs=0, disables validation while training",
    )
    every_epochs: NumEpochs = Field(default=0.0, description="epochs between two validations; 0: every_steps decides")
    num_sequences: Positive = Field(default=256, description="sequences of the fixed validation set")
    batch_size: int = Field(
        default=0, ge=0, le=2**31 - 1, description="sequences of one forward pass; 0: training.micro_batch_size"
    )
    early_stopping_patience: int = Field(
        default=0, ge=0, description="validations in a row without a new best loss that end the training; 0 disables it"
    )
    also: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="runs or prepared datasets whose validation text is scored as well, to see what is forgotten",
    )

    @property
    def is_enabled(self) -> bool:
        """Whether a run validates while it trains."""
        return self.every_steps > 0 or self.every_epochs > 0

    @model_validator(mode="after")
    def _early_stopping_validates(self) -> "ValidationConfig":
        if self.early_stopping_patience and not self.is_enabled:
            raise ValueError(
                f"early_stopping_patience = {self.early_stopping_patience} counts validations, and every_steps = 0 "
                "disables them; set validation.early_stopping_patience=0 or validation.every_steps=200"
            )
        return self


class CheckpointConfig(ConfigModel):
    """Cadence and retention of checkpoints."""

    every_steps: Positive = Field(default=500, description="training steps between two checkpoints")
    every_epochs: NumEpochs = Field(default=0.0, description="epochs between two checkpoints; 0: every_steps decides")
    keep_last: Positive = Field(default=2, description="newest checkpoints to keep, in addition to the best one")
    keep_every_steps: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="training steps between two checkpoints that are saved and never removed; 0 disables it",
    )
    milestones: Annotated[tuple[int | str, ...], Field(strict=False)] = Field(
        default=(),
        description="steps whose checkpoints are saved and never removed: 1000, '10M tokens', '1M words', '0.5 "
        "epochs', or doubling for the steps 1, 2, 4, 8 …",
    )
    on_disk_full: Literal["stop", "retry"] = Field(
        default="stop", description="stop: a full disk ends the run; retry: save again after the next step"
    )

    @field_validator("milestones")
    @classmethod
    def _known(cls, milestones: tuple[int | str, ...]) -> tuple[int | str, ...]:
        for milestone in milestones:
            valid = milestone >= 1 if isinstance(milestone, int) else is_milestone(milestone)
            if not valid:
                raise ValueError(
                    f"{milestone!r} is not a milestone: use a number of steps, '10M tokens', '1M words', '0.5 epochs' "
                    "or doubling"
                )
        return milestones

    def keeps(self, step: int) -> bool:
        """Return whether the checkpoint of ``step`` is never removed. Milestones must be resolved to steps."""
        every = self.keep_every_steps
        doubling = DOUBLING in self.milestones and step & (step - 1) == 0
        return (every > 0 and step % every == 0) or step in self.milestones or doubling

    def max_kept(self, steps: int) -> int:
        """Return an upper bound of the checkpoints that a run of ``steps`` steps never removes."""
        every = steps // self.keep_every_steps if self.keep_every_steps else 0
        doubling = steps.bit_length() if DOUBLING in self.milestones else 0
        return every + doubling + sum(milestone != DOUBLING for milestone in self.milestones)


def is_milestone(text: str) -> bool:
    """Return whether ``text`` is a milestone of ``checkpoint.milestones``."""
    return text == DOUBLING or MILESTONE.fullmatch(text) is not None


def parse_milestone(text: str) -> tuple[float, str]:
    """Return number and unit of a milestone other than ``doubling``: ``10M tokens`` → 1e7, ``tokens``."""
    match = MILESTONE.fullmatch(text)
    assert match, "a valid milestone"
    return float(match[1]) * FACTORS[match[2]], match[3]


class SamplesConfig(ConfigModel):
    """Completions generated while training."""

    every_steps: Positive = Field(default=500, description="training steps between two rounds of samples")
    every_epochs: NumEpochs = Field(
        default=0.0, description="epochs between two rounds of samples; 0: every_steps decides"
    )
    prompts: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=("Once upon a time",),
        description="prompts to complete, one sample each; an empty list disables samples",
    )
    max_tokens: Positive = Field(default=120, description="maximum number of new tokens per sample")
    temperature: float = Field(default=0.8, ge=0.0, le=100.0, description="sampling temperature; 0 is greedy")
    top_p: float = Field(
        default=0.95, gt=0.0, le=1.0, description="probability mass of the tokens to sample from; 1 disables it"
    )


class WeightsAndBiases(ConfigModel):
    """Weights & Biases (wandb.ai or self-hosted). ``offline`` writes to the run directory and needs no account."""

    mode: Literal["disabled", "offline", "online"] = Field(
        default="disabled", description="offline: keep the data on the disk, for wandb sync; online: send it"
    )
    project: str = Field(default="fabella", min_length=1, description="name of the project")
    entity: str = Field(default="", description="user or team; empty for the default of the account")
    artifact: bool = Field(default=True, description="upload the trained model as an artifact")


class TrackingConfig(ConfigModel):
    """Trackers in addition to metrics.jsonl (need ``pip install 'fabella[track]'``)."""

    tensorboard: bool = Field(default=False, description="write TensorBoard event files to the run directory")
    wandb: WeightsAndBiases = WeightsAndBiases()
    histogram_every_steps: Positive = Field(
        default=500, description="training steps between two histograms of weights and gradients"
    )
    grad_spike_factor: float = Field(
        default=5.0, gt=1.0, description="multiple of the median gradient norm that is reported as a spike"
    )
