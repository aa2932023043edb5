"""Tokens a second of training, Fabella beside the same architecture of other libraries, in one run.

One step is forward, loss, backward and fused AdamW on a batch of random tokens, in float32 on the CPU (dropout off).
Contestants take turns, step by step, so that a busy machine slows all of them; the ratio is the median over the turns
of Fabella's speed by the other's. Peak memory is that of a child process which takes three steps and nothing else.

    python benchmarks/training_speed.py                        all shapes, peers that are installed
    python benchmarks/training_speed.py --shapes piny-37m --turns 9 --threads 2
    python benchmarks/training_speed.py --alone                Fabella by itself
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from fabella.config import ModelConfig
from fabella.config_files import preset
from fabella.models.parameters import count, initial_weights

RESULTS = Path(__file__).parent / "results" / "training_speed.json"
SHAPES = {"storybook-1m": (32, 256), "tinystories-8m": (16, 256), "piny-37m": (8, 256), "mingru-17m": (8, 512)}
PACKAGES = {"gpt2": "transformers", "llama": "transformers", "mingru": "minGRU_pytorch"}
WARM_UP_STEPS = 2
MEMORY_STEPS = 3

Loss = Callable[[Tensor], Tensor]
"""From tokens [B T + 1] to the loss of predicting each from those before it."""

# ---------------------------------------------------------------- contestants


def fabella(config: ModelConfig) -> tuple[nn.Module, Loss]:
    model: Any = importlib.import_module(f"fabella.models.{config.family}_torch").Model(config)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in initial_weights(config.parameters(), seed=1).items()})
    return model, lambda tokens: model.loss(tokens[:, :-1], tokens[:, 1:])


def hf_gpt2(c: Any) -> tuple[nn.Module, Loss]:
    hf = importlib.import_module("transformers")
    activation = "gelu_new" if c.activation == "gelu_tanh" else "gelu"
    sizes = {"n_embd": c.dim, "n_layer": c.layers, "n_head": c.heads, "n_inner": c.hidden, "n_positions": c.context}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    config = hf.GPT2Config(
        vocab_size=c.vocabulary, activation_function=activation, tie_word_embeddings=c.tied, **sizes, **off
    )
    return hf_loss(hf.GPT2LMHeadModel(config))


def hf_llama(c: Any) -> tuple[nn.Module, Loss]:
    hf = importlib.import_module("transformers")
    heads = {"num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads}
    sizes = {"hidden_size": c.dim, "num_hidden_layers": c.layers, "intermediate_size": c.hidden}
    config = hf.LlamaConfig(
        vocab_size=c.vocabulary, max_position_embeddings=c.context, tie_word_embeddings=c.tied, use_cache=False,
        rms_norm_eps=c.norm_eps, **heads, **sizes,
    )  # fmt: skip
    return hf_loss(hf.LlamaForCausalLM(config))


def hf_loss(model: Any) -> tuple[nn.Module, Loss]:
    # HF shifts the labels itself: given T + 1 tokens it would compute one position more than Fabella.
    return model, lambda tokens: model(input_ids=tokens[:, :-1], labels=tokens[:, :-1]).loss


def mingru_pytorch(c: Any) -> tuple[nn.Module, Loss]:
    language_model = importlib.import_module("minGRU_pytorch.minLM").minLM
    model = language_model(
        num_tokens=c.vocabulary, dim=c.dim, depth=c.layers, ff_mult=c.hidden / c.dim, expansion=c.expansion
    )
    return model, lambda tokens: model(tokens, return_loss=True)


PEERS = {"gpt2": hf_gpt2, "llama": hf_llama, "mingru": mingru_pytorch}


class Contestant:
    """A model in training on one batch that never changes."""

    def __init__(self, name: str, shape: str, *, compiled: bool) -> None:
        torch.manual_seed(1)
        config = preset(shape).model
        if "dropout" in type(config).model_fields:
            config = config.model_copy(update={"dropout": 0.0})
        self.name = name
        self.model, self.loss = (fabella if name == "fabella" else PEERS[config.family])(config)
        if compiled:
            for part in self.model.blocks if name == "fabella" else [self.model]:
                part.compile()
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        batch, length = SHAPES[shape]
        self.tokens = torch.randint(config.vocabulary, (batch, length + 1))
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if name == "fabella" or config.family != "mingru":  # the MinGRU peer has one head, not one a layer
            assert self.parameters == count(config.parameters()), f"{name} is not the same architecture"

    def step(self) -> float:
        """Seconds of one training step."""
        start = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(self.tokens).backward()
        self.optimizer.step()
        return time.perf_counter() - start


# ---------------------------------------------------------------- measuring


def names_for(shape: str, options: argparse.Namespace) -> list[str]:
    package = PACKAGES[preset(shape).model.family]
    peer = not options.alone and importlib.util.find_spec(package) is not None
    return ["fabella", *([package] if peer else [])]


def measure(shape: str, options: argparse.Namespace) -> dict[str, Any]:
    contestants = [Contestant(name, shape, compiled=options.compile) for name in names_for(shape, options)]
    batch, length = SHAPES[shape]
    for contestant in contestants:
        for _ in range(WARM_UP_STEPS):
            contestant.step()
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for turn in range(options.turns):
        for contestant in contestants if turn % 2 else reversed(contestants):
            seconds[contestant.name].append(contestant.step())
    result: dict[str, Any] = {"batch": batch, "time": length, "contestants": {}}
    for contestant in contestants:
        own = seconds[contestant.name]
        ratios = [theirs / ours for theirs, ours in zip(own, seconds["fabella"], strict=True)]
        result["contestants"][contestant.name] = {
            "parameters": contestant.parameters,
            "tokens_per_second": batch * length / median(own),
            "seconds_per_step": own,
            "fabella_by_this": median(ratios),
            "fabella_by_this_quartiles": quantiles(ratios, n=4)[::2],
            "peak_bytes": peak_memory(shape, contestant.name, options),
        }
    return result


def peak_memory(shape: str, name: str, options: argparse.Namespace) -> int:
    """Bytes of a process of its own, above what it took before the model was built."""
    flags = ["--threads", str(options.threads), *(["--compile"] if options.compile else [])]
    command = [sys.executable, __file__, "--child", shape, name, *flags]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def child(shape: str, name: str, *, compiled: bool) -> None:
    if name != "fabella":
        importlib.import_module(name)
    before = most_memory()
    contestant = Contestant(name, shape, compiled=compiled)
    for _ in range(MEMORY_STEPS):
        contestant.step()
    print(most_memory() - before)


def most_memory() -> int:
    """The most bytes that this process ever held at once."""
    status = Path("/proc/self/status").read_text(encoding="ascii")  # not ru_maxrss, which a child inherits
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def settings(options: argparse.Namespace) -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in cpu.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    known = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile"}
    packages = ("torch", "transformers", "minGRU-pytorch", "numpy")
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions()}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": fields.get("model name", platform.processor()),
        "processor_flags": sorted(known & set(fields.get("flags", "").split())),
        "processor_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "turns": options.turns,
        "warm_up_steps": WARM_UP_STEPS,
        "compiled": options.compile,
        "load_before": os.getloadavg()[0],
        "allocator": {name: value for name, value in os.environ.items() if name.startswith(("MALLOC_", "LD_PRELOAD"))},
        "versions": {p: importlib.metadata.version(p) for p in packages if p.lower() in installed}
        | {"python": platform.python_version()},
    }


def show(shape: str, result: dict[str, Any]) -> None:
    for name, one in result["contestants"].items():
        size = f"{result['batch']} x {result['time']}"
        print(
            f"{shape:15} {size:>8}  {name:15} {one['tokens_per_second']:10,.0f} tokens/s"
            f"  {one['peak_bytes'] / 1e9:6.2f} GB  fabella by this: {one['fabella_by_this']:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--alone", action="store_true", help="no peers")
    parser.add_argument("--compile", action="store_true", help="torch.compile for all (Fabella: each block)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        child(*options.child, compiled=options.compile)
        return
    report: dict[str, Any] = {"settings": settings(options), "shapes": {}}
    for shape in options.shapes:
        report["shapes"][shape] = measure(shape, options)
        show(shape, report["shapes"][shape])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
