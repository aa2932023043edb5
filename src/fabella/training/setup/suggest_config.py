"""Suggest tokenizer, model and training length for a text and a machine: ``fabella train my-stories.txt``."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fabella.config.data import BPE, Bytes, Source, TokenizerConfig
from fabella.config.training import MaxSteps
from fabella.run_config.files import preset, validate_config
from fabella.run_config.run import RunConfig
from fabella.storage import format_share
from fabella.training.schedule import batch_size_at

MIN_STEPS, MAX_STEPS_CPU, MAX_STEPS_GPU = 400, 6_000, 40_000
"""On two cores storybook-1m runs about six steps per second: 6,000 take a quarter of an hour."""

DROPOUT, MANY_EPOCHS = 0.2, 12.0
"""Dropout of a model that reads its text MANY_EPOCHS times or more. Alice in Wonderland, read 18 times: 3.14 bits per
byte without, 2.13 with it; at ten epochs it does not matter yet (docs/log.md)."""

HOLDOUT = 0.05
"""Share of the documents of a text that is held out for validation."""


@dataclass(frozen=True, slots=True)
class SuggestedConfig:
    """Suggested config and the reason for each section, as a sentence."""

    run: RunConfig
    reasons: Mapping[str, str]

    def reasons_for(self, run: RunConfig) -> tuple[str, ...]:
        """Return the reasons for the sections that ``run`` has not changed."""
        changed = {section for section in self.reasons if getattr(run, section) != getattr(self.run, section)}
        if run.data != self.run.data:  # the number of epochs depends on the text and on the sequences
            changed.add("training")
        return tuple(sentence for section, sentence in self.reasons.items() if section not in changed)


def suggest_config(source: Source, name: str, text_bytes: int, *, gpu: bool) -> SuggestedConfig:
    """Return a config named ``name`` for a text of about ``text_bytes`` bytes.

    The model is storybook-1m, which a CPU trains in minutes and other programs can load; on a GPU with at least 50 MB
    of text it is piny-37m. The vocabulary grows with the text, so that each token occurs often enough to be learned.
    The length is about ten epochs, between 400 and 6,000 steps (40,000 on a GPU). A text that is read many times is
    learned with dropout.
    """
    tokenizer = _tokenizer(text_bytes, gpu=gpu)
    vocab_size = tokenizer.vocab_size if isinstance(tokenizer, BPE) else 256
    large = gpu and text_bytes >= 50_000_000
    template = preset("piny-37m" if large else "storybook-1m")
    tokens = text_bytes / bytes_per_token(tokenizer)
    batch_tokens = batch_size_at(template.training, 0) * template.data.sequences.length
    steps = int(min(max(10 * tokens / batch_tokens, MIN_STEPS), MAX_STEPS_GPU if gpu else MAX_STEPS_CPU))
    every = max(50, math.ceil(steps / 10))  # ten validations, the last one after the last step
    values: dict[str, Any] = template.model_dump(mode="json") | {
        "name": name,
        "about": {"description": f"Chosen for {name}."},
    }
    context = template.model.context_length
    epochs = steps * batch_tokens / max(tokens, 1)
    dropout = DROPOUT if epochs >= MANY_EPOCHS else 0.0
    values["model"] |= {"vocab_size": vocab_size, "dropout": dropout}
    values["tokenizer"] = tokenizer.model_dump(mode="json")
    validation = {"kind": "holdout", "fraction": HOLDOUT}
    values["data"] |= {"source": source.model_dump(mode="json"), "validation": validation}
    values["data"] |= {"sequences": {"kind": "packed", "length": context, "stride": context}}  # any document length
    values["training"] |= {"length": MaxSteps(max_steps=steps).model_dump()}
    values["validation"] |= {"every_steps": every}
    values["checkpoint"] |= {"every_steps": every}
    values["samples"] |= {"every_steps": 2 * every, "prompts": [""]}
    regularized = f", with a dropout of {dropout:g} because the text is read many times" if dropout else ""
    reasons = {
        "tokenizer": f"{text_bytes / 1e6:,.1f} MB of text: {_format_tokenizer(tokenizer)}.",
        "model": f"{'GPU' if gpu else 'CPU'}: a model with the shape of {template.name}{regularized}.",
        "training": f"{steps:,} steps of {batch_tokens:,} tokens: {_format_epochs(epochs)}.",
    }
    return SuggestedConfig(validate_config(values), reasons)


def advise(source: Source, text_bytes: int) -> list[str]:
    """Return what ``fabella train`` would choose for a text, in sentences; with the model on a GPU if it is another."""
    cpu = suggest_config(source, "text", text_bytes, gpu=False)
    gpu = suggest_config(source, "text", text_bytes, gpu=True)
    other = [gpu.reasons["model"]] if gpu.reasons["model"].split(": ")[1] != cpu.reasons["model"].split(": ")[1] else []
    return [*cpu.reasons.values(), *other]


def _tokenizer(text_bytes: int, *, gpu: bool) -> TokenizerConfig:
    if text_bytes < 100_000:
        return Bytes()
    if text_bytes < 2_000_000:
        return BPE(vocab_size=1024)
    if text_bytes < 20_000_000:
        return BPE(vocab_size=2048)
    return BPE(vocab_size=16_384 if gpu else 4096)


def bytes_per_token(tokenizer: TokenizerConfig) -> float:
    """Return the mean bytes per token, measured on English stories with our own BPE; used for estimates only."""
    vocab_size = 256 if isinstance(tokenizer, Bytes) else getattr(tokenizer, "vocab_size", 0)
    return {256: 1.0, 1024: 2.9, 2048: 3.4, 4096: 3.8}.get(vocab_size, 4.2)


def _format_epochs(epochs: float) -> str:
    return f"about {epochs:.0f} epochs" if epochs >= 1.5 else f"about {format_share(min(epochs, 1.0))} of the text"


def _format_tokenizer(tokenizer: TokenizerConfig) -> str:
    return f"BPE with {tokenizer.vocab_size:,} tokens" if isinstance(tokenizer, BPE) else "too little for BPE, so bytes"
