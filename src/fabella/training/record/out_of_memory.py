"""What to do when the memory of a device is too small for a model or for a step."""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from shlex import quote
from types import MappingProxyType

from fabella.engine import engine as engines
from fabella.engine.distributed.process_group import ProcessGroup
from fabella.errors import FabellaError, OutOfMemoryError
from fabella.models.parameters import count
from fabella.run_config.run import RunConfig
from fabella.training.session import TrainingSession


def create_engine_for_training(
    run: RunConfig, device: str, group: ProcessGroup, recorded: Mapping[str, str] = MappingProxyType({})
) -> engines.Engine:
    """Return a new engine as ``create_engine`` does. Raises OutOfMemoryError if its model does not fit."""
    with explain_model_too_large(run):
        return engines.create_engine(run, device=device, group=group, recorded=recorded)


def explain_model_too_large(run: RunConfig) -> AbstractContextManager[None]:
    """Raise OutOfMemoryError with the size of the model, if memory runs out while it is built or loaded."""

    def explain() -> OutOfMemoryError:
        return OutOfMemoryError(
            f"A model with {count(run.model.parameters()):,} parameters and its optimizer state do not fit into the "
            "memory of the device.",
            hint="Train a smaller model, or use more memory: --device cpu uses that of the machine.",
        )

    return _replace_out_of_memory(run, explain)


def explain_out_of_memory(session: TrainingSession) -> AbstractContextManager[None]:
    """Raise OutOfMemoryError with a command that continues the run, if memory runs out in the block."""

    def explain() -> OutOfMemoryError:
        micro = session.run.training.micro_batch_size
        length = session.run.data.sequences.length
        return OutOfMemoryError(
            f"A forward pass of {micro} sequences with {length} tokens does not fit into the memory of the device.",
            hint=f"Continue with the same global batch in smaller parts: {_smaller_steps(session)}",
        )

    return _replace_out_of_memory(session.run, explain)


@contextmanager
def _replace_out_of_memory(run: RunConfig, explain: Callable[[], OutOfMemoryError]) -> Generator[None]:
    """Raise the error of ``explain`` in place of the engine's own error, if memory runs out in the block."""
    try:
        yield
    except FabellaError:
        raise
    except Exception as error:
        if not engines.backend(run.engine, "measure.memory").is_out_of_memory(error):
            raise
        raise explain() from error


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
