"""Tokens per second of generation, greedy and sampled, and of a plain loop over the same model."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_check.material_torch import free_memory, section_run, synchronize
from benchmarks.gpu_check.sections import Case, Settings, Values
from fabella.benchmark.decoders_torch import read_bandwidth
from fabella.engine.build_model_torch import load_model
from fabella.generation.decoder.backends_torch import compile_decoder
from fabella.generation.generate_torch import generate
from fabella.generation.sampling import SamplingParams
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count, initial_weights

PRESETS = ("minigpt-100m", "piny-37m", "mingru-17m")
BATCHES, TINY_BATCHES = (1, 16, 64), (1, 4)
NEW_TOKENS, TINY_NEW_TOKENS = 200, 12
PROMPT = np.arange(1, 9, dtype=np.int32)
SAMPLING = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=0.8, top_p=0.95)}
TOLERANCE = 1e-3
"""Largest difference of a generated token's logit from the largest one, relative to the largest absolute logit."""


def decode(settings: Settings) -> Iterator[Case]:
    """Yield every preset in every batch size."""
    bandwidth = read_bandwidth(settings.device, seconds=0.05 if settings.tiny else 0.3)
    for name in PRESETS:
        for batch in TINY_BATCHES if settings.tiny else BATCHES:
            yield f"{name}, batch of {batch}", partial(examine_decoding, settings, name, batch, bandwidth)


def examine_decoding(settings: Settings, name: str, batch: int, bandwidth: float) -> Values:
    """Return tokens per second; passes if every greedy token is the most likely one of a forward pass over the text."""
    config: Any = section_run(name, tiny=settings.tiny).model
    new_tokens = TINY_NEW_TOKENS if settings.tiny else NEW_TOKENS
    model: Any = load_model(config, initial_weights(config.parameters(), 1), settings.device)
    plain: Any = load_model(config, initial_weights(config.parameters(), 1), settings.device)
    compile_decoder(model, "float32")
    values: Values = {"new_tokens": new_tokens}
    ids: dict[str, np.ndarray] = {}
    for label, sampling in SAMPLING.items():
        work = partial(generated_ids, model, config, sampling, batch, new_tokens)
        ids[label] = work()
        values[f"{label}_tokens_per_second"] = batch * new_tokens / timed(settings, work)
    loop = partial(plain_loop, plain, batch, new_tokens, settings.device)
    loop()
    values["plain_tokens_per_second"] = batch * new_tokens / timed(settings, loop)
    # Each step reads all weights; a batch shares them.
    values["bandwidth_limit"] = batch * bandwidth / (4 * count(config.parameters()))
    values["logit_shortfall"] = logit_shortfall(plain, ids["greedy"], settings.device)
    free_memory(settings)
    return {"passed": values["logit_shortfall"] <= TOLERANCE, **values}


def timed(settings: Settings, work: Callable[[], Any]) -> float:
    """Return the seconds of ``work``, captures of CUDA graphs included: a user waits for them as well."""
    synchronize(settings)
    start = time.perf_counter()
    work()
    synchronize(settings)
    return time.perf_counter() - start


def generated_ids(
    model: Any, config: ModelConfig, sampling: SamplingParams, batch: int, new_tokens: int
) -> "np.ndarray[Any, Any]":
    """Return the prompts and the generated ids, [batch, T]."""
    steps = generate(
        model, [PROMPT] * batch, sampling, rows=range(batch), max_tokens=new_tokens, vocab_size=config.vocab_size
    )
    return np.concatenate([np.tile(PROMPT, (batch, 1)), np.array(list(steps)).T], axis=1)


@torch.inference_mode()
def plain_loop(model: Any, batch: int, new_tokens: int, device: str) -> None:
    """Decode greedily with the family's own ``decode``, one call per token, without CUDA graphs."""
    state = model.init_state(batch, len(PROMPT) + new_tokens)
    tokens = torch.from_numpy(np.tile(PROMPT, (batch, 1))).to(device).long()
    for _ in range(new_tokens):
        logits, state = model.decode(tokens, state)
        tokens = logits.argmax(-1, keepdim=True)


@torch.inference_mode()
def logit_shortfall(model: Any, ids: "np.ndarray[Any, Any]", device: str) -> float:
    """Return how far the logits of the generated tokens are below the largest one, see TOLERANCE."""
    tokens = torch.from_numpy(ids).to(device).long()
    logits = model(tokens[:, :-1])[:, len(PROMPT) - 1 :]
    chosen = logits.gather(2, tokens[:, len(PROMPT) :, None])[..., 0]
    return float((logits.amax(2) - chosen).max() / logits.abs().max())
