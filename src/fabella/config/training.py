"""Training config: length, batch, precision, parallelism, and what happens at a non-finite step."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fabella.config.base import ConfigModel, Pairs, Positive


class Stop(ConfigModel):
    """The training ends at the first such step, which is kept whole, so that it can be looked into."""

    kind: Literal["stop"] = "stop"


class SkipStep(ConfigModel):
    """Such a step is left out: its windows are passed over, and counted in the metrics."""

    kind: Literal["skip"] = "skip"
    max_consecutive: Positive = Field(
        default=10, description="left out one after the other, from which on the training ends"
    )


class RollBack(ConfigModel):
    """Back to the newest good checkpoint; from there on with the windows after those that failed.

    So did PaLM with steps whose loss leapt up (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1).
    """

    kind: Literal["rollback"] = "rollback"
    max_rollbacks: Positive = Field(default=3, description="in a whole run, after which the training ends")
    lr_factor: float = Field(default=0.5, gt=0.0, le=1.0, description="on the learning rate from there on, each time")


NonFinitePolicy = Annotated[Stop | SkipStep | RollBack, Field(discriminator="kind")]


class MaxSteps(ConfigModel):
    max_steps: Positive


class Epochs(ConfigModel):
    epochs: float = Field(gt=0.0, le=1e6)


class Float32(ConfigModel):
    kind: Literal["float32"] = "float32"
    tf32: bool = Field(default=False, description="matrix products of NVIDIA GPUs with 10 bits of mantissa: faster")


class BFloat16(ConfigModel):
    kind: Literal["bf16"] = "bf16"


class Float16(ConfigModel):
    """Half precision with a dynamic loss scale: doubled after ``loss_scale_growth_interval`` finite steps, halved on a bad one."""

    kind: Literal["fp16"] = "fp16"
    initial_loss_scale: float = Field(default=65536.0, ge=1.0)
    loss_scale_growth_interval: Positive = 2000


class AutoPrecision(ConfigModel):
    """bf16 on NVIDIA GPUs that have it, fp16 on older ones, float32 everywhere else."""

    kind: Literal["auto"] = "auto"


PrecisionConfig = Annotated[AutoPrecision | Float32 | BFloat16 | Float16, Field(discriminator="kind")]


# Long enough for what one process does while the others wait for it: preparing, sampling, writing a checkpoint.
COLLECTIVE_TIMEOUT_SECONDS = 600.0


class DDP(ConfigModel):
    """Where several processes train: the whole model on every device, each learning from its share of every batch."""

    kind: Literal["ddp"] = "ddp"
    timeout_seconds: float = Field(default=COLLECTIVE_TIMEOUT_SECONDS, gt=0.0, le=1e6, description="wait for a process")


class FSDP(ConfigModel):
    """The same, but weights, gradients and moments lie in shards, one a device: for what one device cannot hold."""

    kind: Literal["fsdp"] = "fsdp"
    timeout_seconds: float = Field(default=COLLECTIVE_TIMEOUT_SECONDS, gt=0.0, le=1e6, description="wait for a process")


class TrainingConfig(ConfigModel):
    length: MaxSteps | Epochs
    micro_batch_size: Positive = Field(description="windows that go through the model at once")
    gradient_accumulation: Pairs = Field(
        default=((0, 1),), description="[first optimizer step, micro-batches per step], in order of steps"
    )
    precision: PrecisionConfig = Float32()
    gradient_checkpointing: Literal["none", "blocks"] = Field(
        default="none", description="blocks: less memory, as each block's activations are computed twice, not kept"
    )
    compile: Literal["auto", "blocks", "none"] = Field(
        default="auto", description="torch.compile of each block; auto: where the run is long enough to take it back"
    )
    parallel: Annotated[DDP | FSDP, Field(discriminator="kind")] = DDP()
    on_nonfinite: NonFinitePolicy = Stop()
    log_every_steps: Positive = 10

    @model_validator(mode="after")
    def _accumulation_in_order(self) -> "TrainingConfig":
        firsts = [first for first, _ in self.gradient_accumulation]
        if firsts[0] != 0 or firsts != sorted(set(firsts)) or min(n for _, n in self.gradient_accumulation) < 1:
            raise ValueError("accumulation must begin at step 0, rise in steps, and count at least 1 micro-batch")
        return self
