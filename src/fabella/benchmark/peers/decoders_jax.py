"""The JAX engine among those whose telling is measured."""

from fabella.benchmark.decode_task import Contestant, Telling, by_loop
from fabella.engine.engine_jax import for_use
from fabella.generation.generate_jax import generate
from fabella.models.parameters import initial_weights


def fabella(telling: Telling) -> Contestant:
    """By the loop that ``fabella generate --engine jax`` uses. The first telling compiles."""
    config = telling.config
    model = for_use(config, initial_weights(config.parameters(), seed=1), telling.device)
    return by_loop("fabella on jax", generate, model, telling)
