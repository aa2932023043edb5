"""Compile cache of JAX: compiled steps are stored in the user's cache directory between runs."""

import os

import jax

from fabella.storage import cache_dir

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
MIN_COMPILE_SECONDS = 1.0
"""Compile time below which a step is not stored: reading it back would take as long."""


def use_compile_cache() -> None:
    """Store compiled steps between runs, unless the user has chosen a directory (JAX_COMPILATION_CACHE_DIR).

    JAX writes each entry atomically, and skips entries that it cannot read.
    """
    if os.environ.get(CACHE_VARIABLE) or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_dir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
