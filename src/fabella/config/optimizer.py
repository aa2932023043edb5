"""How the weights are moved: the optimizer, its schedule, and what differs between groups of weights."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fabella.config.base import ConfigModel


class SchedulePhase(ConfigModel):
    """A stretch of the learning-rate schedule, from ``start`` to ``end`` times the peak rate."""

    shape: Literal["linear", "cosine"]
    start: float = Field(ge=0.0, le=1.0)
    end: float = Field(ge=0.0, le=1.0)
    length: str | int = Field(description="optimizer steps (50), or a share of the whole run (10%)")

    @model_validator(mode="after")
    def _length(self) -> "SchedulePhase":
        self.steps(100)
        return self

    def steps(self, total: int) -> int:
        """Length in optimizer steps, in a run of ``total``."""
        text = str(self.length)
        try:
            steps = round(total * float(text[:-1]) / 100) if text.endswith("%") else int(text)
        except (ValueError, OverflowError):
            steps = -1
        if steps < 0 or (text.endswith("%") and steps > total):
            raise ValueError(f"length {self.length!r} is neither a number of steps (50) nor a share of the run (10%)")
        return steps


# A run without a schedule keeps its peak learning rate.
Schedule = Annotated[tuple[SchedulePhase, ...], Field(strict=False)]


class ParamGroup(ConfigModel):
    """What differs between the groups of weights where nothing of them decays."""

    lr_factor: float = Field(default=1.0, ge=0.0, le=1000.0, description="times the learning rate; 0 leaves them alone")


class ParamGroupWithDecay(ParamGroup):
    """The same, with weight decay."""

    decay_factor: float = Field(default=1.0, ge=0.0, le=1000.0, description="times the weight decay")


class ParamGroupsNoDecay(ConfigModel):
    """The groups of weights: embeddings and read-out heads, other matrices, biases and the scales of norms."""

    embeddings: ParamGroup = ParamGroup()
    matrices: ParamGroup = ParamGroup()
    vectors: ParamGroup = ParamGroup()


class ParamGroups(ConfigModel):
    """The groups of weights: embeddings and read-out heads, other matrices, biases and the scales of norms."""

    embeddings: ParamGroupWithDecay = ParamGroupWithDecay()
    matrices: ParamGroupWithDecay = ParamGroupWithDecay()
    vectors: ParamGroupWithDecay = ParamGroupWithDecay(decay_factor=0.0)


class AdamW(ConfigModel):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101); what decays, ``groups`` says."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(gt=0.0, le=10.0)
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    weight_decay: float = Field(default=0.01, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0, description="largest global gradient norm; 1e9 is no limit")
    schedule: Schedule = ()
    groups: ParamGroups = ParamGroups()


class Adam(ConfigModel):
    """Adam without any weight decay (Kingma & Ba 2015, arXiv 1412.6980)."""

    kind: Literal["adam"] = "adam"
    lr: float = Field(gt=0.0, le=10.0)
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0, description="largest global gradient norm; 1e9 is no limit")
    schedule: Schedule = ()
    groups: ParamGroupsNoDecay = ParamGroupsNoDecay()


class Muon(ConfigModel):
    """Muon for the matrices inside the blocks, AdamW for all other weights (Jordan et al. 2024).

    Muon makes each step of a matrix nearly orthogonal. Its steps are scaled to the size of AdamW's (Liu et al. 2025,
    arXiv 2502.16982), so that a learning rate and a weight decay found for AdamW are sensible here as well.
    """

    kind: Literal["muon"] = "muon"
    lr: float = Field(gt=0.0, le=10.0, description="of the matrices inside the blocks")
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0, description="of those matrices; Nesterov's")
    weight_decay: float = Field(default=0.1, ge=0.0, description="of those matrices")
    adamw_lr_factor: float = Field(default=1.0, gt=0.0, le=1000.0, description="times lr: AdamW's, of other weights")
    adamw_weight_decay: float = Field(default=0.01, ge=0.0, description="AdamW's, of the matrices outside the blocks")
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0, description="largest global gradient norm; 1e9 is no limit")
    schedule: Schedule = ()
    groups: ParamGroups = Field(
        default=ParamGroups(), description="factors on top of these; Muon has the matrices of blocks"
    )


OptimizerConfig = Annotated[AdamW | Adam | Muon, Field(discriminator="kind")]
