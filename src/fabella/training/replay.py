"""Replay a saved non-finite step and find the module where it begins."""

from dataclasses import dataclass
from pathlib import Path

from fabella.config.optimizer import NoAverage
from fabella.config.training import Stop
from fabella.engine import engine as engines
from fabella.errors import NonFiniteStepError
from fabella.optim.registry import state_spec
from fabella.runs import failed_steps
from fabella.runs.run_dir import RunDir


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """Result of a replayed step."""

    step: int
    before: str
    """Error of the original step"""
    error: str
    """Error of the replay; empty if all values were finite"""
    module: str
    """First module with a non-finite output; empty if it begins in the loss or the backward pass"""

    def __str__(self) -> str:
        if not self.error:
            return f"Step {self.step} did not fail again: all values were finite. Original error: {self.before}"
        origin = (
            f"The first non-finite output is that of {self.module}."
            if self.module
            else "The outputs of all modules are finite: it begins in the loss or in the backward pass."
        )
        if self.error == self.before:
            return f"It failed again with the same error: {self.error} {origin}"
        return f"It failed again with another error. Before: {self.before} Now: {self.error} {origin}"


def replay(path: Path, *, device: str = "auto") -> ReplayReport:
    """Repeat the step saved in ``path`` (RUN/failures/step-…). The run is not changed.

    PyTorch repeats it, whichever engine took it, without compiling, so that the output of each module can be checked.
    Raise CheckpointError if ``path`` is not a saved step, or is damaged.
    """
    failed_steps.require_failed_step(path)
    run_dir = RunDir.open(path.absolute().parent.parent)
    run, recorded = run_dir.run, run_dir.recorded_compute()
    training = run.training.model_copy(update={"compile": "none", "on_nonfinite": Stop()})
    optimizer = run.optimizer.model_copy(update={"average": NoAverage()})
    run = run.model_copy(update={"engine": "torch", "training": training, "optimizer": optimizer})
    table = run.model.parameters()
    failed = failed_steps.read(path.absolute(), table, state_spec(run.trainable_parameters, run.optimizer))
    engine = engines.create_engine(run, device=device, recorded=recorded)
    engine.restore(failed.state)
    error = ""
    with engines.backend(run.engine, "nan_finder").trace_nonfinite(engine) as modules:
        try:
            engine.step(failed.batch, failed.lr).read()
        except NonFiniteStepError as repeated:
            error = repeated.message
    return ReplayReport(failed.step, failed.error, error, modules[0] if modules and error else "")
