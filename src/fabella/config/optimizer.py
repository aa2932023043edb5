"""Config of the optimizer: learning-rate schedule, parameter groups, and the settings that every optimizer has."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fabella.config.base import ConfigModel, Positive


def parse_steps(name: str, value: str | int, total: int) -> float:
    """Return a number of steps, or a percentage of a run of ``total`` steps, in steps; not rounded.

    Raise ValueError, which calls it ``name``.
    """
    text = str(value)
    try:
        steps = total * float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except (ValueError, OverflowError):
        steps = -1
    if not 0 <= steps < 2**31 or (text.endswith("%") and steps > total):
        raise ValueError(f"{name} {value!r} is neither a number of steps (50) nor a share of the run (10%)")
    return steps


class SchedulePhase(ConfigModel):
    """One phase of the learning-rate schedule, from ``start`` to ``end`` times the peak rate.

    The last step of a rising phase has the rate ``end``. A falling phase reaches ``end`` after its last step, so that
    no step is wasted at a rate of 0.
    """

    shape: Literal["linear", "cosine", "sqrt"] = Field(
        description="sqrt: fast at first, the 1-sqrt decay of Hägele et al. 2024 (arXiv 2405.18392)"
    )
    start: float = Field(ge=0.0, le=1.0, description="factor on the peak rate at the beginning, 0 to 1")
    end: float = Field(ge=0.0, le=1.0, description="factor on the peak rate at the end, 0 to 1")
    length: str | int = Field(description="training steps (50), or a percentage of the run (10%)")
    cut_after: int = Field(
        default=0, ge=0, description="training steps after which the next phase begins; 0: the whole length"
    )

    @model_validator(mode="after")
    def _length(self) -> "SchedulePhase":
        self.steps(100)
        return self

    def steps(self, total: int) -> float:
        """Return the length in training steps of a run of ``total`` steps; a percentage is not rounded."""
        return parse_steps("length", self.length, total)


# An empty schedule keeps the peak learning rate.
Schedule = Annotated[
    tuple[SchedulePhase, ...],
    Field(
        strict=False,
        examples=["[{shape: cosine, start: 1.0, end: 0.1, length: 100%}]"],
        description="phases of the learning rate, one after the other; empty: the peak rate for the whole run",
    ),
]


class ParamGroup(ConfigModel):
    """Factors of one parameter group of an optimizer without weight decay."""

    lr_factor: float = Field(
        default=1.0, ge=0.0, le=1000.0, description="factor on the learning rate; 0 freezes the group"
    )


class ParamGroupWithDecay(ParamGroup):
    """Factors of one parameter group."""

    decay_factor: float = Field(default=1.0, ge=0.0, le=1000.0, description="factor on the weight decay")


class ParamGroupsNoDecay(ConfigModel):
    """Parameter groups without weight decay: embeddings and output heads, other matrices, biases and norm scales."""

    embeddings: ParamGroup = ParamGroup()
    matrices: ParamGroup = ParamGroup()
    vectors: ParamGroup = ParamGroup()


class ParamGroups(ConfigModel):
    """Parameter groups: embeddings and output heads, other matrices, biases and norm scales."""

    embeddings: ParamGroupWithDecay = ParamGroupWithDecay()
    matrices: ParamGroupWithDecay = ParamGroupWithDecay()
    vectors: ParamGroupWithDecay = ParamGroupWithDecay(decay_factor=0.0)


class NoAverage(ConfigModel):
    """Keep the trained weights only."""

    kind: Literal["none"] = "none"


class ExponentialAverage(ConfigModel):
    """Exponential moving average (EMA) of the weights after each training step; later weights count more.

    The average of n weights is multiplied by min(decay, n / (n + 9)) before the next weights are added. A constant
    decay of 0.999 would still have 74 % of the first weights in it after 300 steps.
    """

    kind: Literal["ema"] = "ema"
    decay: float = Field(
        default=0.999, ge=0.0, lt=1.0, description="factor on the average at each step, once it has enough weights"
    )


class MeanAverage(ConfigModel):
    """Mean of the weights after each training step of the last part of the run; all of them count the same.

    Stochastic weight averaging, Izmailov et al. 2018 (arXiv 1803.05407).
    """

    kind: Literal["mean"] = "mean"
    start: str | int = Field(
        default="80%",
        description="training steps (800), or a percentage of the run (80%), after which the average begins; a run "
        "saves it in steps",
    )

    @model_validator(mode="after")
    def _start(self) -> "MeanAverage":
        self.start_step(100)
        return self

    def start_step(self, total: int) -> int:
        """Return the number of steps after which the average begins in a run of ``total`` steps."""
        return round(parse_steps("start", self.start, total))


AverageConfig = Annotated[NoAverage | ExponentialAverage | MeanAverage, Field(discriminator="kind")]

Betas = Annotated[
    tuple[float, float],
    Field(strict=False, description="decay of the first and of the second moment, each from 0 to below 1"),
]


class OptimizerConfig(ConfigModel):
    """Settings that every optimizer has. Each optimizer extends them by its own ``Config`` (fabella/optim/NAME.py)."""

    kind: str
    lr: float = Field(gt=0.0, le=10.0, description="peak learning rate")
    max_grad_norm: float = Field(
        default=1.0, gt=0.0, description="clipping limit of the global gradient norm; 1e9 disables it"
    )
    schedule: Schedule = ()
    reset_after: Annotated[tuple[Positive, ...], Field(strict=False)] = Field(
        default=(),
        description="training steps after which the optimizer state starts again from zero; "
        "fabella resume --reset-optimizer adds one",
    )
    average: AverageConfig = NoAverage()
