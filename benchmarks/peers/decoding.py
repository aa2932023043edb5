"""Decoding speed of Fabella compared with other libraries and programs that have the same architecture.

python -m benchmarks.peers.decoding
python -m benchmarks.peers.decoding piny-37m --llama2c ~/llama2.c --rounds 3 --max-tokens 120
"""

import argparse
from functools import partial
from pathlib import Path

from benchmarks.peers.decoders_torch import available_baselines
from benchmarks.peers.versions import peer_versions
from fabella.benchmark.decoding import MAX_TOKENS, SHAPES, DecodeBenchOptions, bench
from fabella.cli.bench import decoding_lines
from fabella.storage import write_json

RESULTS = Path(__file__).parents[1] / "results" / "decoding_speed.json"


def main() -> None:
    """Measure the presets of the command line, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7, help="measured runs of each baseline (default: 7)")
    parser.add_argument("--max-tokens", type=int, default=MAX_TOKENS, help="new tokens per sequence (default: 240)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 keeps PyTorch's default")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, … (default: auto)")
    parser.add_argument("--engine", choices=("torch", "jax"), default="torch", help="jax: measure the JAX engine, too")
    parser.add_argument("--llama2c", type=Path, help="directory of llama2.c's compiled programs run and runq")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    options = DecodeBenchOptions(
        rounds=arguments.rounds,
        max_tokens=arguments.max_tokens,
        device=arguments.device,
        threads=arguments.threads,
        engine=arguments.engine,
    )
    result = bench(
        arguments.presets,
        options,
        lambda name, shape: print(*decoding_lines(name, shape), sep="\n"),
        available_baselines=partial(available_baselines, llama2c=arguments.llama2c),
    )
    result["settings"] |= peer_versions()
    write_json(arguments.output, result)


if __name__ == "__main__":
    main()
