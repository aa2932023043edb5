"""What everybody tells whose speed is measured, and how one is asked; neutral of the engine."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig

GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """What everybody does: read ``prompt`` random tokens in each of ``batch`` texts, and tell ``tokens`` more."""

    config: ModelConfig
    batch: int
    prompt: int
    tokens: int
    device: str = "cpu"
    llama2c: Path | None = None

    @property
    def prompts(self) -> NDArray[np.int32]:
        """[B prompt]"""
        shape = (self.batch, self.prompt)
        return np.random.default_rng(1).integers(2, self.config.vocab_size, shape).astype(np.int32)


class DecodeBaseline(Protocol):
    """Somebody who tells."""

    name: str

    def tell(self) -> float:
        """The seconds that it took."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


def from_loop(name: str, generate: Callable[..., Iterator[list[int]]], model: Any, telling: DecodeTask) -> "InProcess":
    """Fabella, by the loop of an engine (``generate_torch.py``, ``generate_jax.py``)."""
    prompts = list(telling.prompts)

    def tell() -> None:
        steps = generate(
            model,
            prompts,
            GREEDY,
            rows=[0] * len(prompts),
            max_tokens=telling.tokens,
            vocab_size=telling.config.vocab_size,
        )
        for _ in steps:
            pass

    return InProcess(name, tell)


class InProcess:
    """Somebody who tells in this process; ``tell`` ends when the last token is there."""

    def __init__(self, name: str, tell: Callable[[], None]) -> None:
        self.name, self._tell = name, tell

    def tell(self) -> float:
        """See Contestant."""
        start = time.perf_counter()
        self._tell()
        return time.perf_counter() - start

    def close(self) -> None:
        """See Contestant."""
