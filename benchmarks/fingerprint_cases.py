"""Cases of fingerprints.py, and tables of the names that settings, options and results had before the redesign."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS, KILLED_AFTER = 30, 10

# ---------------------------------------------------------------- names before and after the redesign

# Dotted key of a setting → its former name. Keys above it are in the present names.
FORMER_KEYS = {
    "model.vocab_size": "vocabulary",
    "model.context_length": "context",
    "model.ffn_dim": "hidden",
    "model.tie_embeddings": "tied",
    "model.layer_pattern": "pattern",
    "tokenizer.vocab_size": "vocabulary",
    "tokenizer.eos_token": "end",
    "data.sequences": "windows",
    "data.mode": "reading",
    "data.mode.document_shuffle_buffer": "row_buffer",
    "data.mode.sequence_shuffle_buffer": "sequence_buffer",
    "data.mode.prefetch_batches": "ahead",
    "data.mode.timeout_seconds": "patience_seconds",
    "data.mode.tokenizer_sample_bytes": "head_bytes",
    "optimizer.max_grad_norm": "clip",
    "training.length.max_steps": "steps",
    "training.micro_batch_size": "micro_batch",
    "training.gradient_accumulation": "accumulation",
    "training.gradient_checkpointing": "recompute",
    "training.log_every_steps": "log_every",
    "validation.every_steps": "every",
    "validation.num_sequences": "windows",
    "validation.early_stopping_patience": "patience",
    "checkpoint.every_steps": "every",
    "checkpoint.keep_last": "keep",
    "samples.every_steps": "every",
    "samples.max_tokens": "tokens",
    "tracking": "telemetry",
}
FORMER_VALUES = {
    ("data.sequences.kind", "packed"): "chained",
    ("data.sequences.kind", "padded"): "documents",
    ("data.mode.kind", "pretokenized"): "prepared",
    ("data.mode.kind", "streaming"): "streamed",
    ("data.validation.kind", "holdout"): "held",
    ("data.validation.kind", "source"): "given",
}
# Command and option → its former name
FORMER_OPTIONS = {
    ("generate", "--max-tokens"): "--tokens",
    ("generate", "--dtype"): "--weights",
    ("evaluate", "--num-cloze"): "--questions",
    ("evaluate", "--num-samples"): "--stories",
    ("evaluate", "--max-tokens"): "--tokens",
}
# Names in result files, present → former. Undone when read, so that cached results of the baseline stay valid.
FORMER_RESULTS = {
    "grad_norm": "gradient_norm",
    "grad_norms": "gradient_norms",
    "sequences": "windows",
    "rollbacks": "rewinds",
    "optimizer_state": "moments",
    "scalars": "numbers",
    "consecutive_skips": "skipped_in_a_row",
    "data_wait_fraction": "waiting_share",
    "flops_utilization": "flops_utilisation",
}
# Kinds of rows in metrics.jsonl, present → former.
FORMER_KINDS = {"grad_spike": "spike", "rollback": "rewind"}
MIXED = "the next source is the one furthest behind its share of tokens, not drawn at random"
# Cases whose results changed on purpose → why. A difference in them is reported, but is no failure.
CHANGED_ON_PURPOSE = {
    "muon": "Newton-Schulz runs in float32 on CPUs instead of bfloat16",
    "falling-rate": "a falling learning rate reaches its end after the last step instead of at it",
    "streamed-mixture": MIXED,
    "killed-mixture": MIXED,
}
# The same for one part of every case.
PARTS_CHANGED_ON_PURPOSE = {"text int8": "int8 weights of the decoder include the token embeddings"}
# Entries of state.json that the baseline does not have, or has in another form (the position in a stream, for which
# the killed runs stand).
NEW_STATE = {"best_step", "latest_losses", "stream"}
# Parameter names in checkpoints: regular expression of a present name → the former one, as re.sub takes them.
# Names of moments have the parameter's name within.
FORMER_PARAMETERS: dict[str, str] = {}


def has_former_names(tree: Path) -> bool:
    """Return whether the settings and options of a tree have the names from before the redesign."""
    return (tree / "src" / "fabella" / "config.py").exists()


def former_config(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Return a config with the names from before the redesign."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else key
        inner = former_config(value, dotted) if isinstance(value, Mapping) else value
        if isinstance(value, str):
            inner = FORMER_VALUES.get((dotted, value), value)
        result[FORMER_KEYS.get(dotted, key)] = inner
    return result


def former_command(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the names from before the redesign."""
    return [FORMER_OPTIONS.get((arguments[0], argument), argument) for argument in arguments]


def former_result(value: Any) -> Any:
    """Return a JSON value with the names from before the redesign."""
    if isinstance(value, list):
        return [former_result(each) for each in value]
    if isinstance(value, dict):
        former = {FORMER_RESULTS.get(key, key): former_result(each) for key, each in value.items()}
        return former | {"kind": FORMER_KINDS[value["kind"]]} if value.get("kind") in FORMER_KINDS else former
    return value


def former_parameter(name: str) -> str:
    """Return the name of a parameter from before the redesign."""
    for pattern, former in FORMER_PARAMETERS.items():
        name = re.sub(pattern, former, name)
    return name


# ---------------------------------------------------------------- cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A run and the fingerprints to read from it."""

    name: str
    config: dict[str, Any]
    """All settings, with the present names."""
    devices: int = 1
    killed: bool = False
    """Whether the run is killed after the first checkpoint and resumed."""
    same_as: str = ""
    """Name of the case with the same weights and moments."""
    texts: bool = False
    """Whether text is generated from the finished run."""
    evaluated: bool = False
    variables: dict[str, str] = field(default_factory=dict[str, str])
    """Additional environment variables."""


XLA_FLAGS = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_multi_thread_eigen=false"
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "XLA_FLAGS": XLA_FLAGS,
    "MPLBACKEND": "agg",
    # The present default is faster and has other bits: bf16 products, and kernels with another order of sums.
    "FABELLA_MATMUL": "default",
    "FABELLA_KERNELS": "off",
}
PROMPTS = ("Once upon a time", "The dog", "One day, Tom said:", "A", "")
SEEDS = (1, 2, 3)
GENERATED = {"float32": ["--dtype", "float32"], "int8": ["--dtype", "int8"], "jax": ["--engine", "jax"]}
EVALUATE = ["--num-samples", "16", "--num-cloze", "20", "--max-tokens", "60", "--device", "cpu", "--json"]

BPE = {"kind": "bpe", "vocab_size": 320}
PACKED = {"kind": "packed", "length": 64, "stride": 64}
HOLDOUT = {"kind": "holdout", "fraction": 0.1}
STORIES = {"kind": "storybook", "stories": 300}
SHAPE = {"vocab_size": 320, "context_length": 64, "dim": 32, "layers": 2, "ffn_dim": 64}
# The rate is constant after its rise: a falling one changed on purpose, and would hide other differences.
SCHEDULE = [
    {"shape": "linear", "start": 0.1, "end": 1.0, "length": "20%"},
    {"shape": "cosine", "start": 1.0, "end": 1.0, "length": "80%"},
]
FALLING = [SCHEDULE[0], {**SCHEDULE[1], "end": 0.1}]
BASE: dict[str, Any] = {
    "name": "fingerprint",
    "seed": 3,
    "tokenizer": BPE,
    "data": {"source": STORIES, "validation": HOLDOUT, "sequences": PACKED},
    "optimizer": {"kind": "adamw", "lr": 5e-3, "weight_decay": 0.1, "max_grad_norm": 0.7, "schedule": SCHEDULE},
    "training": {"length": {"max_steps": STEPS}, "micro_batch_size": 8, "compile": "none", "log_every_steps": 5},
    "validation": {"every_steps": 10, "num_sequences": 32},
    "checkpoint": {"every_steps": KILLED_AFTER, "keep_last": 2},
    "samples": {"every_steps": 15, "max_tokens": 20},
}
# Each family has other settings, so that more of them are covered.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model": {**SHAPE, "heads": 2, "activation": "gelu_tanh", "tie_embeddings": False, "dropout": 0.1},
        "data": {**BASE["data"], "sequences": {"kind": "packed", "length": 64, "stride": 32}},
        "optimizer": {"kind": "adam", "lr": 5e-3, "betas": [0.9, 0.95]},
    },
    "llama": {
        "model": {**SHAPE, "context_length": 256, "heads": 2, "kv_heads": 1, "init_std": 0.07},
    },
    "minigpt": {
        "model": {**SHAPE, "embedding": 24, "heads": 2},
        "training": {**BASE["training"], "gradient_accumulation": [[0, 1], [15, 2]]},
    },
    "mingru": {
        "model": {**SHAPE, "vocab_size": 256},
        "tokenizer": {"kind": "bytes"},
        "data": {
            "source": STORIES,
            "validation": {"kind": "source", "source": {"kind": "storybook", "stories": 40, "seed": 9}},
            "sequences": PACKED,
        },
    },
    "hybrid": {
        "model": {**SHAPE, "layer_pattern": "ma", "heads": 2, "init_std": 0.08},
        "tokenizer": {"kind": "sentencepiece", "vocab_size": 320},
        "training": {**BASE["training"], "gradient_checkpointing": "blocks"},
    },
}
STREAMED = {
    "source": {"kind": "files", "paths": ["stories.txt"], "separator": "lines"},
    "validation": HOLDOUT,
    "sequences": PACKED,
    "mode": {
        "kind": "streaming",
        "document_shuffle_buffer": 40,
        "sequence_shuffle_buffer": 32,
        "tokenizer_sample_bytes": 40_000,
        "prefetch_batches": 3,
    },
}
MIXTURE = {
    "kind": "mixture",
    "parts": [
        {"weight": 3.0, "source": {"kind": "storybook", "stories": 90, "seed": 1}},
        {"weight": 1.0, "source": STREAMED["source"]},
    ],
}


def settings(family: str, engine: str = "torch", **sections: Any) -> dict[str, Any]:
    """Return the settings of a small run of a family; ``sections`` replace complete sections."""
    config = {**BASE, **FAMILIES[family], "engine": engine, **sections}
    return {**config, "model": {"family": family, **config["model"]}}


def cases() -> list[Case]:
    """Return all cases, slow ones first, so that parallel jobs end at about the same time."""
    muon = {"kind": "muon", "lr": 5e-3, "max_grad_norm": 0.7, "schedule": SCHEDULE}
    mixed = settings("llama", data={**STREAMED, "source": MIXTURE})
    two_devices = {"XLA_FLAGS": f"{XLA_FLAGS} --xla_force_host_platform_device_count=2"}
    return [
        *(Case(name=f"{f}-torch", config=settings(f), texts=True, evaluated=f == "llama") for f in FAMILIES),
        Case(name="killed-torch", config=settings("llama"), killed=True, same_as="llama-torch"),
        Case(name="killed-jax", config=settings("hybrid", "jax"), killed=True, same_as="hybrid-jax"),
        Case(name="killed-streamed", config=settings("llama", data=STREAMED), killed=True, same_as="streamed-torch"),
        Case(name="killed-two-processes", config=settings("gpt2"), devices=2, killed=True, same_as="two-processes"),
        *(Case(name=f"{f}-jax", config=settings(f, "jax")) for f in FAMILIES),
        Case(name="two-processes", config=settings("gpt2"), devices=2),
        Case(name="two-devices-jax", config=settings("llama", "jax"), devices=2, variables=two_devices),
        Case(name="two-processes-streamed", config=settings("llama", data=STREAMED), devices=2),
        Case(name="streamed-torch", config=settings("llama", data=STREAMED)),
        Case(name="streamed-jax", config=settings("llama", "jax", data=STREAMED)),
        Case(name="muon", config=settings("hybrid", optimizer=muon)),
        Case(name="streamed-mixture", config=mixed),
        Case(name="killed-mixture", config=mixed, killed=True, same_as="streamed-mixture"),
        Case(name="falling-rate", config=settings("llama", optimizer={**BASE["optimizer"], "schedule": FALLING})),
    ]


def select_cases(pattern: str) -> list[Case]:
    """Return the cases whose name matches, and those that they are compared with."""
    all_cases = cases()
    names = {case.name for case in all_cases if re.search(pattern, case.name)}
    names |= {case.same_as for case in all_cases if case.name in names}
    return [case for case in all_cases if case.name in names]
