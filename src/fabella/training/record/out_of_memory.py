"""What to do when the memory of a device is too small for a step."""

from collections.abc import Generator
from contextlib import contextmanager
from shlex import quote

from fabella.engine import engine as engines
from fabella.errors import FabellaError, OutOfMemoryError
from fabella.training.session import TrainingSession


@contextmanager
def explain_out_of_memory(session: TrainingSession) -> Generator[None]:
    """Raise OutOfMemoryError with a command that continues the run, if memory runs out in the block."""
    try:
        yield
    except FabellaError:
        raise
    except Exception as error:
        if not engines.backend(session.run.engine, "measure.memory").is_out_of_memory(error):
            raise
        micro = session.run.training.micro_batch_size
        length = session.run.data.sequences.length
        raise OutOfMemoryError(
            f"A forward pass of {micro} sequences with {length} tokens does not fit into the memory of the device.",
            hint=f"Continue with the same global batch in smaller parts: {_smaller_steps(session)}",
        ) from error


def _smaller_steps(session: TrainingSession) -> str:
    """Return the command that resumes a run with a smaller forward pass: fewer sequences, or blocks computed twice."""
    training = session.run.training
    command = f"fabella resume {quote(str(session.run_dir.path))}"
    micro = training.micro_batch_size
    if micro == 1:
        return f"{command} training.gradient_checkpointing=blocks"
    factor = next(factor for factor in range(2, micro + 1) if micro % factor == 0)
    schedule = [[step, factor * passes] for step, passes in training.gradient_accumulation]
    return f"{command} --batch-size {micro // factor} {quote(f'training.gradient_accumulation={schedule}')}"
