"""Training speed and memory of Fabella compared with other libraries that have the same architecture.

python -m benchmarks.peers.training
python -m benchmarks.peers.training piny-37m --rounds 9 --only "fabella compiled,nanogpt compiled" --compile
python -m benchmarks.peers.training storybook-1m --engine jax      with a step in plain JAX, and the PyTorch engine
"""

import argparse
from pathlib import Path

from benchmarks.peers.versions import peer_versions
from fabella.benchmark.training import SHAPES, BenchOptions, bench
from fabella.cli.bench import training_lines
from fabella.storage import write_json

RESULTS = Path(__file__).parents[1] / "results" / "training_speed.json"


def main() -> None:
    """Measure the presets of the command line, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7, help="measured steps of each baseline (default: 7)")
    parser.add_argument("--compile", action="store_true", help="also measure with torch.compile")
    parser.add_argument("--bf16", action="store_true", help="also measure in bf16; ratios are those to Fabella's bf16")
    parser.add_argument("--only", default="", help="baselines to measure, separated by commas")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 keeps PyTorch's default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    parser.add_argument("--engine", choices=("torch", "jax"), default="torch")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    options = BenchOptions(
        engine=arguments.engine,
        rounds=arguments.rounds,
        device=arguments.device,
        precision=arguments.precision,
        bf16=arguments.bf16,
        threads=arguments.threads,
        compile=arguments.compile,
        memory=not arguments.no_memory,
        only=tuple(name.strip() for name in arguments.only.split(",") if name.strip()),
        package="benchmarks.peers",
    )
    result = bench(arguments.presets, options, lambda name, shape: print(*training_lines(name, shape), sep="\n"))
    result["settings"] |= peer_versions()
    write_json(arguments.output, result)


if __name__ == "__main__":
    main()
