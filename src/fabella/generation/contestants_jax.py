"""The JAX engine among those whose telling is measured."""

from typing import Any

from fabella.engine.engine_jax import for_use
from fabella.generation.contestants import GREEDY, Contestant, InProcess, Telling
from fabella.generation.generate_jax import generate
from fabella.models.parameters import initial_weights


def fabella(telling: Telling) -> Contestant:
    """By the loop that ``fabella generate --engine jax`` uses. The first telling compiles."""
    config, prompts = telling.config, list(telling.prompts)
    model: Any = for_use(config, initial_weights(config.parameters(), seed=1), telling.device)

    def tell() -> None:
        steps = generate(
            model,
            prompts,
            GREEDY,
            rows=[0] * len(prompts),
            max_tokens=telling.tokens,
            vocabulary=config.vocabulary,
        )
        for _ in steps:
            pass

    return InProcess("fabella on jax", tell)
