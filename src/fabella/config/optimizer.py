"""Config of the optimizer: learning-rate schedule, parameter groups, and the settings that every optimizer has."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fabella.config.base import ConfigModel, Positive


class SchedulePhase(ConfigModel):
    """One phase of the learning-rate schedule, from ``start`` to ``end`` times the peak rate.

    The last step of a rising phase has the rate ``end``. A falling phase reaches ``end`` after its last step, so that
    no step is wasted at a rate of 0.
    """

    shape: Literal["linear", "cosine", "sqrt"]
    """sqrt: fast at first, the 1-sqrt decay of Hägele et al. 2024 (arXiv 2405.18392)."""
    start: float = Field(ge=0.0, le=1.0)
    end: float = Field(ge=0.0, le=1.0)
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
        text = str(self.length)
        try:
            steps = total * float(text[:-1]) / 100 if text.endswith("%") else int(text)
        except (ValueError, OverflowError):
            steps = -1
        if not 0 <= steps < 2**31 or (text.endswith("%") and steps > total):
            raise ValueError(f"length {self.length!r} is neither a number of steps (50) nor a share of the run (10%)")
        return steps


# An empty schedule keeps the peak learning rate.
Schedule = Annotated[
    tuple[SchedulePhase, ...],
    Field(strict=False, examples=["[{shape: cosine, start: 1.0, end: 0.1, length: 100%}]"]),
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


Betas = Annotated[tuple[float, float], Field(strict=False)]


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
