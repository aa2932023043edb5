"""Texts told while training, from the weights as they stand."""

from collections.abc import Callable

from fabella.engine.engine import Engine
from fabella.generation.generator import Teller
from fabella.generation.sampling import Sampling
from fabella.run_config.run import Run
from fabella.tokenizers.tokenizer import Tokenizer


def teller_of(engine: Engine, tokenizer: Tokenizer, run: Run) -> Callable[[str], str]:
    """Prompt → how the model goes on, by ``run.samples``; the same prompt and weights give the same text."""
    section = run.samples
    sampling = Sampling(temperature=section.temperature, top_p=section.top_p, seed=run.seed)

    def tell(prompt: str) -> str:
        with engine.evaluating() as model:
            teller = Teller(model, tokenizer, config=run.model, windows=run.data.windows, engine=run.engine)
            return teller.generate(prompt, sampling, max_tokens=section.tokens)[0].told

    return tell
