"""The PyTorch engine as a decoder of the benchmark, with every weight type, and the memory bandwidth that limits it."""

import time
from typing import Any

import torch

from fabella.benchmark.decode_task import DecodeBaseline, DecodeTask, from_loop
from fabella.engine.build_model_torch import load_model
from fabella.engine.device_torch import pick_device
from fabella.generation.decoder.backends_torch import compile_decoder
from fabella.generation.decoder.weights import WeightDtype
from fabella.generation.generate_torch import generate
from fabella.models.parameters import initial_weights

BANDWIDTH_BYTES = 2**28
"""Bytes of the array that is read to measure memory bandwidth; more than any cache holds."""


def available_baselines(task: DecodeTask) -> list[DecodeBaseline]:
    """Return Fabella with float32 weights, and with all other types of weights where the processor supports them."""
    baselines = [fabella(task)]
    if pick_device(task.device).type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines:
        baselines += [fabella(task, "float16"), fabella(task, "bfloat16"), fabella(task, "int8")]
    return baselines


def fabella(task: DecodeTask, weights: WeightDtype = "float32") -> DecodeBaseline:
    """Return the loop of ``fabella generate`` with weights of this type."""
    model: Any = load_model(task.config, initial_weights(task.config.parameters(), seed=1), task.device)
    compile_decoder(model, weights)
    name = "fabella" if weights == "float32" else f"fabella {weights}"
    return from_loop(name, generate, model, task)


def read_bandwidth(device: str, *, seconds: float = 0.3) -> float:
    """Return the highest read bandwidth of memory within ``seconds``, in bytes per second.

    It limits decoding, because every step reads all weights.
    """
    values = torch.ones(BANDWIDTH_BYTES // 4, device=pick_device(device))
    float(values.sum())
    end, best = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        float(values.sum())
        best = min(best, time.perf_counter() - start)
    return BANDWIDTH_BYTES / best
