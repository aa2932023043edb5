"""What is done where numbers go wrong: a loss or a gradient that is not finite. It never reaches the weights."""

from typing import Annotated, Literal

from pydantic import Field

from fabella.config_data import Positive, Section


class Stop(Section):
    """The training ends at the first such step, which is kept whole, so that it can be looked into."""

    kind: Literal["stop"] = "stop"


class Skip(Section):
    """Such a step is left out: its windows are passed over, and counted in the metrics."""

    kind: Literal["skip"] = "skip"
    in_a_row: Positive = Field(default=10, description="left out one after the other, from which on the training ends")


class Rewind(Section):
    """Back to the newest good checkpoint; from there on with the windows after those that failed.

    So did PaLM with steps whose loss leapt up (Chowdhery et al. 2022, arXiv 2204.02311, section 5.1).
    """

    kind: Literal["rewind"] = "rewind"
    times: Positive = Field(default=3, description="in a whole run, after which the training ends")
    lr_factor: float = Field(default=0.5, gt=0.0, le=1.0, description="on the learning rate from there on, each time")


NonFinite = Annotated[Stop | Skip | Rewind, Field(discriminator="kind")]
