"""The JAX engine among those whose telling is measured."""

from fabella.benchmark.decode_task import DecodeBaseline, DecodeTask, from_loop
from fabella.engine.engine_jax import load_model
from fabella.generation.generate_jax import generate
from fabella.models.parameters import initial_weights


def fabella(telling: DecodeTask) -> DecodeBaseline:
    """By the loop that ``fabella generate --engine jax`` uses. The first telling compiles."""
    config = telling.config
    model = load_model(config, initial_weights(config.parameters(), seed=1), telling.device)
    return from_loop("fabella on jax", generate, model, telling)
