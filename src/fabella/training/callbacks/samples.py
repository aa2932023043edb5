"""Generate sample completions during training."""

from collections.abc import Callable, Sequence

from fabella.engine.engine import Engine, StepResult
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams
from fabella.run_config.run import RunConfig
from fabella.tokenizers.tokenizer import Tokenizer
from fabella.training.callbacks.cadence import Due
from fabella.training.callbacks.metrics import Write
from fabella.training.loop import Progress


class GenerateSamples:
    """Generate a completion of each prompt."""

    def __init__(self, generate: Callable[[str], str], write: Write, *, prompts: Sequence[str], due: Due) -> None:
        self.generate, self.write, self.prompts, self.due = generate, write, prompts, due

    def __call__(self, progress: Progress, result: StepResult) -> None:
        if not self.due(progress):
            return
        for prompt in self.prompts:
            completion = self.generate(prompt)
            self.write({"kind": "sample", "step": progress.step, "prompt": prompt, "text": completion})


def make_sampler(engine: Engine, tokenizer: Tokenizer, run: RunConfig) -> Callable[[str], str]:
    """Return a function from a prompt to its completion. Same prompt and weights give the same completion."""
    config = run.samples
    params = SamplingParams(temperature=config.temperature, top_p=config.top_p, seed=run.seed)

    def generate(prompt: str) -> str:
        with engine.evaluating() as model:
            generator = TextGenerator(
                model, tokenizer, config=run.model, sequences=run.data.sequences, engine=run.engine
            )
            return generator.generate(prompt, params, max_tokens=config.max_tokens)[0].completion

    return generate
