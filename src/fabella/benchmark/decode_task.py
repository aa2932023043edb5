"""Decoding task of the benchmark and the interface of everything that is measured on it; no engine is imported."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig

GREEDY = SamplingParams(temperature=0.0)


@dataclass(frozen=True, slots=True)
class DecodeTask:
    """Prefill ``prompt`` random tokens in each of ``batch`` sequences, then decode ``tokens`` more, greedily."""

    config: ModelConfig
    batch: int
    prompt: int
    tokens: int
    device: str = "cpu"

    @property
    def prompts(self) -> NDArray[np.int32]:
        """Token ids, [batch, prompt]; the same at every call."""
        shape = (self.batch, self.prompt)
        return np.random.default_rng(1).integers(2, self.config.vocab_size, shape).astype(np.int32)


class DecodeBaseline(Protocol):
    """Decoder whose speed is measured on one task."""

    name: str

    def decode(self) -> float:
        """Run the task once and return the seconds that it took."""
        ...

    def close(self) -> None:
        """Free memory and temporary files."""
        ...


class InProcessDecoder:
    """Decoder in this process; ``run`` returns when the last token exists."""

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self.name, self._run = name, run

    def decode(self) -> float:
        """Run the task once and return the seconds that it took."""
        start = time.perf_counter()
        self._run()
        return time.perf_counter() - start

    def close(self) -> None:
        """Do nothing: the garbage collector frees the model."""


def from_loop(
    name: str, generate: Callable[..., Iterator[list[int]]], model: Any, task: DecodeTask
) -> InProcessDecoder:
    """Return Fabella as a decoder that runs the generation loop of an engine."""
    prompts = list(task.prompts)

    def run() -> None:
        steps = generate(
            model,
            prompts,
            GREEDY,
            rows=[0] * len(prompts),
            max_tokens=task.tokens,
            vocab_size=task.config.vocab_size,
        )
        for _ in steps:
            pass

    return InProcessDecoder(name, run)
