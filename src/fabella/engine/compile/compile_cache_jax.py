"""Where compiled steps are kept between runs: JAX's own cache, in the user's cache folder."""

import os

import jax

from fabella.storage import cache_dir

PLACE = "JAX_COMPILATION_CACHE_DIR"
WORTH_KEEPING_SECONDS = 1.0
"""What compiles faster is not written down: looking it up would take as long."""


def use_compile_cache() -> None:
    """Keep compiled steps beyond this process; a choice of the user's (JAX_COMPILATION_CACHE_DIR) stands.

    JAX writes each entry aside and renames it, and passes over one that it cannot read.
    """
    if os.environ.get(PLACE) or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_SECONDS)
