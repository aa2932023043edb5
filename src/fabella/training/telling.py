"""Texts told while training, from the weights as they stand."""

import importlib
from collections.abc import Callable

import numpy as np

from fabella.config import Run
from fabella.engine.engine import Engine
from fabella.generation.sampling import Sampling
from fabella.tokenizers.tokenizer import Tokenizer


def teller_of(engine: Engine, tokenizer: Tokenizer, run: Run) -> Callable[[str], str]:
    """Prompt → how the model goes on, by ``run.samples``; the same prompt and weights give the same text."""
    loop = importlib.import_module(f"fabella.generation.generate_{engine.name}")
    section = run.samples
    sampling = Sampling(temperature=section.temperature, top_p=section.top_p, seed=run.seed)

    def tell(prompt: str) -> str:
        start = np.concatenate([[tokenizer.end], tokenizer.encode(prompt)]).astype(np.int32)
        told: list[int] = []
        with engine.evaluating() as model:
            for chosen in loop.generate(
                model,
                [start],
                sampling,
                rows=[0],
                max_tokens=section.tokens,
                vocabulary=tokenizer.vocabulary,
                opening=1,
            ):
                if chosen[0] == tokenizer.end:
                    break
                told.append(chosen[0])
        return tokenizer.decode(told)

    return tell
