"""Timed training steps of Fabella and of its peers in PyTorch; the interface of fabella.benchmark.step_parts_torch."""

from typing import Any

import torch

from benchmarks.peers.models_torch import build_peer, peers_of
from fabella.benchmark import step_parts_torch as fabella_parts
from fabella.benchmark.step_parts_torch import (
    COMPILED,
    Baseline,
    peak,
    set_threads,
    settings,
    split_precision,
    without_dropout,
)
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count

__all__ = ["create_baseline", "names", "peak", "set_threads", "settings"]


def names(config: ModelConfig) -> list[str]:
    """Return Fabella and the installed peers that have this family."""
    return ["fabella", *peers_of(config)]


def create_baseline(name: str, config: Any, shape: tuple[int, int], precision: str, device: str) -> Baseline:
    """Create ``fabella`` or a peer; `` compiled`` after its name compiles a peer as one graph, as its users do."""
    base, own_precision = split_precision(name, precision)
    if base == "fabella":
        return fabella_parts.create_baseline(name, config, shape, precision, device)
    torch.manual_seed(1)
    model, loss = build_peer(without_dropout(config), base)
    baseline = Baseline(name, model, loss, config, (shape, own_precision, device))
    if name.endswith(COMPILED):
        baseline.model.compile()
    if config.family != "mingru":  # the MinGRU peer has one head, ours has one per layer
        assert baseline.parameters == count(config.parameters()), f"{name} is not the same architecture"
    return baseline
