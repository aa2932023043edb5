"""Texts told while training, from the weights as they stand."""

from collections.abc import Callable

from fabella.engine.engine import Engine
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams
from fabella.run_config.run import RunConfig
from fabella.tokenizers.tokenizer import Tokenizer


def make_sampler(engine: Engine, tokenizer: Tokenizer, run: RunConfig) -> Callable[[str], str]:
    """Prompt → how the model goes on, by ``run.samples``; the same prompt and weights give the same text."""
    section = run.samples
    sampling = SamplingParams(temperature=section.temperature, top_p=section.top_p, seed=run.seed)

    def tell(prompt: str) -> str:
        with engine.evaluating() as model:
            teller = TextGenerator(model, tokenizer, config=run.model, sequences=run.data.sequences, engine=run.engine)
            return teller.generate(prompt, sampling, max_tokens=section.max_tokens)[0].completion

    return tell
