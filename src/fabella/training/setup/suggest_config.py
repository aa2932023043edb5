"""``fabella train my-stories.txt``: which tokenizer, model and length suit this text and this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fabella.config.data import BPE, Bytes, Source, TokenizerConfig
from fabella.config.training import MaxSteps
from fabella.run_config.files import preset, validate_config
from fabella.run_config.run import RunConfig
from fabella.training.schedule import batch_size_at

# On two cores storybook-1m takes about six steps a second: 6,000 are a quarter of an hour.
FEWEST, MOST_ON_CPU, MOST_ON_GPU = 400, 6_000, 40_000


@dataclass(frozen=True, slots=True)
class SuggestedConfig:
    """A run that suits, and the reasons in sentences for people: section of the run → why it is as it is."""

    run: RunConfig
    reasons: Mapping[str, str]

    def reasons_for(self, run: RunConfig) -> tuple[str, ...]:
        """The reasons that hold for ``run`` too: where a section was changed, nobody chose it for that reason."""
        changed = {section for section in self.reasons if getattr(run, section) != getattr(self.run, section)}
        if run.data != self.run.data:  # how often a text is read depends on the text, and on the windows
            changed.add("training")
        return tuple(sentence for section, sentence in self.reasons.items() if section not in changed)


def suggest_config(source: Source, name: str, text_bytes: int, *, gpu: bool) -> SuggestedConfig:
    """A run named ``name`` for a text of about ``text_bytes`` bytes.

    The model is storybook-1m: what a CPU trains in minutes and every other program can read. With a GPU and enough text
    (50 MB) it is Piny's shape.
    The tokenizer's vocabulary grows with the text, so that each id is seen often enough to be learned. The text is
    read about ten times, within 400 to 6,000 steps (40,000 on a GPU).
    """
    tokenizer = _tokenizer(text_bytes, gpu=gpu)
    ids = tokenizer.vocab_size if isinstance(tokenizer, BPE) else 256
    large = gpu and text_bytes >= 50_000_000
    template = preset("piny-37m" if large else "storybook-1m")
    tokens = text_bytes / _bytes_per_token(ids)
    batch_tokens = batch_size_at(template.training, 0) * template.data.sequences.length
    steps = int(min(max(10 * tokens / batch_tokens, FEWEST), MOST_ON_GPU if gpu else MOST_ON_CPU))
    every = max(50, steps // 10)
    values: dict[str, Any] = template.model_dump(mode="json") | {
        "name": name,
        "about": {"description": f"Chosen for {name}."},
    }
    context = template.model.context_length
    values["model"] |= {"vocab_size": ids}
    values["tokenizer"] = tokenizer.model_dump(mode="json")
    values["data"] |= {"source": source.model_dump(mode="json"), "validation": {"kind": "holdout", "fraction": 0.05}}
    values["data"] |= {"sequences": {"kind": "packed", "length": context, "stride": context}}  # however long a text is
    values["training"] |= {"length": MaxSteps(max_steps=steps).model_dump()}
    values["validation"] |= {"every_steps": every}
    values["checkpoint"] |= {"every_steps": every}
    values["samples"] |= {"every_steps": 2 * every, "prompts": [""]}
    times = steps * batch_tokens / max(tokens, 1)
    reasons = {
        "tokenizer": f"{text_bytes / 1e6:,.1f} MB of text: {_in_words(tokenizer)}.",
        "model": f"{'A GPU' if gpu else 'A CPU'}: a model of the shape of {template.name}.",
        "training": f"{steps:,} steps of {batch_tokens:,} tokens: the text about {times:.0f} times.",
    }
    return SuggestedConfig(validate_config(values), reasons)


def _tokenizer(text_bytes: int, *, gpu: bool) -> TokenizerConfig:
    if text_bytes < 100_000:
        return Bytes()
    if text_bytes < 2_000_000:
        return BPE(vocab_size=1024)
    if text_bytes < 20_000_000:
        return BPE(vocab_size=2048)
    return BPE(vocab_size=16_384 if gpu else 4096)


def _bytes_per_token(ids: int) -> float:
    """Measured on English stories with Fabella's own BPE; only an estimate of the length depends on it."""
    return {256: 1.0, 1024: 2.9, 2048: 3.4, 4096: 3.8}.get(ids, 4.2)


def _in_words(tokenizer: TokenizerConfig) -> str:
    return f"BPE with {tokenizer.vocab_size:,} ids" if isinstance(tokenizer, BPE) else "too little for BPE, so bytes"
