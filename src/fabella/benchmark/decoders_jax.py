"""The JAX engine as a decoder of the benchmark."""

from fabella.benchmark.decode_task import DecodeBaseline, DecodeTask, from_loop
from fabella.engine.build_model_jax import load_model
from fabella.generation.generate_jax import generate
from fabella.models.parameters import initial_weights


def fabella(task: DecodeTask) -> DecodeBaseline:
    """Return the loop of ``fabella generate --engine jax``; its first run compiles."""
    model = load_model(task.config, initial_weights(task.config.parameters(), seed=1), task.device)
    return from_loop("fabella on jax", generate, model, task)
