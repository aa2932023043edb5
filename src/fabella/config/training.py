"""Training config: length, batch, precision, parallelism and the policy for non-finite steps."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fabella.config.base import ConfigModel, Pairs, Positive


class Stop(ConfigModel):
    """End the training at the first non-finite step and save that step for ``fabella replay-step``."""

    kind: Literal["stop"] = "stop"


class SkipStep(ConfigModel):
    """Drop non-finite steps: their sequences are skipped and counted in the metrics."""

    kind: Literal["skip"] = "skip"
    max_consecutive: Positive = Field(
        default=10, description="consecutive non-finite steps after which training fails; at least 1"
    )


class RollBack(ConfigModel):
    """Return to the last valid checkpoint and continue with the sequences after the failed ones.

    PaLM did so at steps with a loss spike (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1).
    """

    kind: Literal["rollback"] = "rollback"
    max_rollbacks: Positive = Field(default=3, description="rollbacks in one run after which training fails")
    lr_factor: float = Field(
        default=0.5, gt=0.0, le=1.0, description="factor on the learning rate after each rollback; 1 disables it"
    )


NonFinitePolicy = Annotated[Stop | SkipStep | RollBack, Field(discriminator="kind")]


class MaxSteps(ConfigModel):
    """Length of the run in training steps."""

    max_steps: Positive = Field(description="training steps of the whole run")


class Epochs(ConfigModel):
    """Length of the run in passes over the training data; not for streaming, whose length is unknown."""

    epochs: float = Field(gt=0.0, le=1e6, description="passes over the training data")


class MaxTokens(ConfigModel):
    """Length of the run in tokens: full sequences times their length."""

    max_tokens: int = Field(ge=1, le=2**62, description="training tokens of the whole run, with padding")


class Float32(ConfigModel):
    """Single precision."""

    kind: Literal["float32"] = "float32"
    tf32: bool = Field(
        default=False, description="matrix products with 10 bits of mantissa on NVIDIA GPUs: faster, less exact"
    )


class BFloat16(ConfigModel):
    """bfloat16 compute with float32 weights."""

    kind: Literal["bf16"] = "bf16"


class Float16(ConfigModel):
    """float16 compute; the loss scale doubles after a number of finite steps and halves after a non-finite one."""

    kind: Literal["fp16"] = "fp16"
    initial_loss_scale: float = Field(default=65536.0, ge=1.0, description="loss scale at the first step")
    loss_scale_growth_interval: Positive = Field(
        default=2000, description="consecutive finite steps after which the loss scale is doubled"
    )


class AutoPrecision(ConfigModel):
    """bf16 on NVIDIA GPUs that support it and on CPUs that are faster at it; fp16 on older GPUs; float32 elsewhere."""

    kind: Literal["auto"] = "auto"


PrecisionConfig = Annotated[AutoPrecision | Float32 | BFloat16 | Float16, Field(discriminator="kind")]


COLLECTIVE_TIMEOUT_SECONDS = 600.0
"""Longest wait for another rank, in seconds; rank 0 prepares data, samples and saves while the others wait."""


class DDP(ConfigModel):
    """Distributed data parallel: every device holds the whole model and trains on its share of every batch."""

    kind: Literal["ddp"] = "ddp"
    timeout_seconds: float = Field(
        default=COLLECTIVE_TIMEOUT_SECONDS, gt=0.0, le=1e6, description="longest wait for another rank, in seconds"
    )


class FSDP(ConfigModel):
    """Fully sharded data parallel: weights, gradients and optimizer state are split over the devices."""

    kind: Literal["fsdp"] = "fsdp"
    timeout_seconds: float = Field(
        default=COLLECTIVE_TIMEOUT_SECONDS, gt=0.0, le=1e6, description="longest wait for another rank, in seconds"
    )


class TrainingConfig(ConfigModel):
    """Length, batch sizes, precision, parallelism and failure policy of a run."""

    length: MaxSteps | Epochs | MaxTokens
    micro_batch_size: Positive = Field(description="sequences of one forward pass")
    gradient_accumulation: Pairs = Field(
        default=((0, 1),), description="[first training step, micro-batches per step], in order of steps"
    )
    precision: PrecisionConfig = AutoPrecision()
    gradient_checkpointing: Literal["none", "blocks"] = Field(
        default="none", description="blocks: recompute each block's activations in the backward pass, to save memory"
    )
    compile: Literal["auto", "blocks", "none"] = Field(
        default="auto", description="blocks: torch.compile each block; auto: only if the run is long enough to gain"
    )
    parallel: Annotated[DDP | FSDP, Field(discriminator="kind")] = DDP()
    on_nonfinite: NonFinitePolicy = Stop()
    on_divergence: Literal["report", "stop", "rollback"] = Field(
        default="report",
        description="a finite loss far above chance or its own best: report it once, stop as well, or return to the "
        "best checkpoint with a lower learning rate",
    )
    freeze: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(),
        description="parameters that do not change, as patterns of their names: [embedding.*, 'blocks.0.*']",
    )
    deterministic: bool = Field(
        default=True,
        description="on CUDA GPUs: kernels that give the same bits in every repetition, a few percent slower",
    )
    log_every_steps: Positive = Field(default=10, description="training steps between two rows of metrics")

    @property
    def rollback(self) -> RollBack | None:
        """Limit and learning-rate factor of rollbacks, for both reasons to roll back; None if there is neither."""
        if isinstance(self.on_nonfinite, RollBack):
            return self.on_nonfinite
        return RollBack() if self.on_divergence == "rollback" else None

    @model_validator(mode="after")
    def _gradient_accumulation_in_order(self) -> "TrainingConfig":
        first_steps = [first for first, _ in self.gradient_accumulation]
        if (
            first_steps[0] != 0
            or first_steps != sorted(set(first_steps))
            or min(n for _, n in self.gradient_accumulation) < 1
        ):
            raise ValueError(
                "gradient accumulation must start at step 0, rise in steps, and have at least 1 micro-batch"
            )
        return self
