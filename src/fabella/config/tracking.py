"""What happens beside the steps of a run, and what it is told of: none of it changes what is learned."""

from typing import Annotated, Literal

from pydantic import Field

from fabella.config.base import ConfigModel, Positive


class ValidationConfig(ConfigModel):
    every_steps: Positive = 200
    num_sequences: Positive = Field(default=256, description="windows of the fixed set looked at while training")
    early_stopping_patience: int = Field(
        default=0, ge=0, description="scores no better than the best that end the training; 0: none"
    )


class CheckpointConfig(ConfigModel):
    every_steps: Positive = 500
    keep_last: Positive = Field(default=2, description="newest checkpoints kept, beside the best")
    on_disk_full: Literal["stop", "retry"] = Field(
        default="stop", description="a full disk ends the run, or is retried"
    )


class SamplesConfig(ConfigModel):
    every_steps: Positive = 500
    prompts: Annotated[tuple[str, ...], Field(strict=False)] = ("Once upon a time",)
    max_tokens: Positive = 120
    temperature: float = Field(default=0.8, ge=0.0, le=100.0)
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)


class WeightsAndBiases(ConfigModel):
    """wandb.ai, or a server of one's own; ``offline`` keeps all in the run's folder and needs no account."""

    mode: Literal["disabled", "offline", "online"] = "disabled"
    project: str = Field(default="fabella", min_length=1)
    entity: str = Field(default="", description="user or team; empty: the account's own default")
    artifact: bool = Field(default=True, description="whether the finished model is kept there too")


class TrackingConfig(ConfigModel):
    """Where a run is told beside its own metrics.jsonl (needs ``pip install 'fabella[track]'``)."""

    tensorboard: bool = Field(default=False, description="event files in the run's folder")
    wandb: WeightsAndBiases = WeightsAndBiases()
    histogram_every_steps: Positive = Field(
        default=500, description="steps between histograms of weights and gradients"
    )
    grad_spike_factor: float = Field(default=5.0, gt=1.0, description="times the usual gradient norm: told as a spike")
