"""Report intermediate values of a JAX network to a callback, as PyTorch's hooks do.

A network is a plain function, so the blocks that all families share report what they compute. Without a callback this
costs nothing: a compiled function contains no trace of it.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

from jax import Array

Observe = Callable[[str, Array], None]
"""Called with the name of a value and the value: ``blocks.0.feed_forward.down``, or ``gate`` in the current block."""
_CALLBACK: ContextVar[Observe | None] = ContextVar("callback", default=None)


def is_observed() -> bool:
    """Return whether there is a callback, before a value is computed for it alone."""
    return _CALLBACK.get() is not None


def report(name: str, value: Array) -> None:
    """Pass a value to the callback, if there is one."""
    observe = _CALLBACK.get()
    if observe is not None:
        observe(name, value)


@contextmanager
def observed(observe: Observe) -> Generator[None]:
    """Call ``observe`` with all values that networks report in the block. Do not compile functions in it."""
    token = _CALLBACK.set(observe)
    try:
        yield
    finally:
        _CALLBACK.reset(token)
