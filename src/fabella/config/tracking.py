"""Config of validation, checkpoints, samples and trackers; none of it changes the weights."""

from typing import Annotated, Literal

from pydantic import Field

from fabella.config.base import ConfigModel, Positive


class ValidationConfig(ConfigModel):
    """Validation while training, on a fixed set of held-out sequences."""

    every_steps: Positive = Field(default=200, description="training steps between two validations")
    num_sequences: Positive = Field(default=256, description="sequences of the fixed validation set")
    early_stopping_patience: int = Field(
        default=0, ge=0, description="validations in a row without a new best loss that end the training; 0 disables it"
    )


class CheckpointConfig(ConfigModel):
    """Cadence and retention of checkpoints."""

    every_steps: Positive = Field(default=500, description="training steps between two checkpoints")
    keep_last: Positive = Field(default=2, description="newest checkpoints to keep, in addition to the best one")
    on_disk_full: Literal["stop", "retry"] = Field(
        default="stop", description="stop: a full disk ends the run; retry: save again after the next step"
    )


class SamplesConfig(ConfigModel):
    """Completions generated while training."""

    every_steps: Positive = Field(default=500, description="training steps between two rounds of samples")
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

    mode: Literal["disabled", "offline", "online"] = "disabled"
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
