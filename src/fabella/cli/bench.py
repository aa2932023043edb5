"""Measure training speed on this machine, part by part, or decoding speed with --decode.

`make bench-peers` in the repository compares Fabella with other libraries.

Examples:
  fabella bench                                   the four presets of docs/benchmarks.md
  fabella bench piny-37m --rounds 9 --compile     eager and with torch.compile
  fabella bench storybook-1m --no-memory --json
  fabella bench --decode --max-tokens 60          tokens per second, one sequence at a time and sixteen at once
  fabella bench storybook-1m --engine jax         the JAX engine and the PyTorch engine
  fabella bench minigpt-100m --device cuda --precision bf16 --output results.json
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.benchmark import decoding
from fabella.benchmark.decoding import MAX_TOKENS, DecodeBenchOptions
from fabella.benchmark.training import SHAPES, BenchOptions, bench
from fabella.cli.output import print_json, print_result, print_status
from fabella.cli.run_options import AsJson, Device, writable
from fabella.errors import UsageError
from fabella.storage import format_bytes, write_json

PRECISIONS = ("float32", "bf16")


def command(
    presets: Annotated[list[str] | None, typer.Argument(help="Presets; by default those of the docs.")] = None,
    rounds: Annotated[int, typer.Option(help="Measured steps of each variant.", min=1)] = 7,
    compile_: Annotated[bool, typer.Option("--compile", help="Also measure with torch.compile.")] = False,
    only: Annotated[str, typer.Option(help="Variants to measure, separated by commas, e.g. 'fabella compiled'.")] = "",
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory, in child processes.")
    ] = True,
    precision: Annotated[str, typer.Option(help="Compute precision: float32 or bf16.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 keeps PyTorch's default.", min=0)] = 0,
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="Engine: torch, or jax to measure both.")] = "torch",
    decode: Annotated[bool, typer.Option("--decode", help="Measure decoding instead of training.")] = False,
    max_tokens: Annotated[
        int, typer.Option(help="Number of new tokens per sequence with --decode, after a prompt of 8.", min=2)
    ] = MAX_TOKENS,
    output: Annotated[Path | None, typer.Option(help="JSON file for the results.", callback=writable)] = None,
    as_json: AsJson = False,
) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"Unknown --precision '{precision}'.", hint=f"Choose from: {', '.join(PRECISIONS)}.")
    names = presets or list(decoding.SHAPES if decode else SHAPES)
    report = print_status if as_json else print_result
    if decode:
        decode_options = DecodeBenchOptions(
            rounds=rounds, max_tokens=max_tokens, device=device, threads=threads, engine=engine
        )
        result = decoding.bench(
            names, decode_options, lambda name, shape: report("\n".join(decoding_lines(name, shape)))
        )
    else:
        options = BenchOptions(
            engine=engine,
            rounds=rounds,
            device=device,
            precision=precision,
            threads=threads,
            compile=compile_,
            memory=memory,
            only=tuple(name.strip() for name in only.split(",") if name.strip()),
        )
        result = bench(names, options, lambda name, shape: report("\n".join(training_lines(name, shape))))
    if output:
        write_json(output, result)
        print_status(f"Results written to {output}.")
    if as_json:
        print_json(result)


def training_lines(name: str, result: dict[str, Any]) -> list[str]:
    """Format the result of a preset: speed, MFU, memory and parts of a step, two lines per baseline."""
    lines = [
        f"{name} ({result['batch']} x {result['time']}), "
        f"machine's peak {result['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s"
    ]
    for baseline, summary in result["baselines"].items():
        parts = ", ".join(f"{part} {1000 * seconds:,.1f}" for part, seconds in summary["seconds"].items())
        memory = f"  {format_bytes(summary['peak_bytes'])}" if summary["peak_bytes"] is not None else ""
        is_reference = baseline == result["reference"]
        speedup = "" if is_reference else f"  Fabella is {summary['fabella_speedup']:.2f} times as fast"
        speed = f"{summary['tokens_per_second']:>10,.0f} tokens/s  {summary['mfu']:>4.0%} MFU"
        lines.append(f"  {baseline:<24} {speed}{memory}{speedup}")
        first = f"; first step with compilation {summary['first_step_seconds']:.1f} s"
        lines.append(f"  {'':<24} {1000 * summary['seconds_per_step']:,.1f} ms per step: {parts}{first}")
    return lines


def decoding_lines(name: str, result: dict[str, Any]) -> list[str]:
    """Format the result of a preset: speed and share of the memory bandwidth, one line per baseline."""
    bandwidth, size = result["read_bytes_per_second"], format_bytes(result["weight_bytes"])
    lines = [f"{name}, {size} of float32 weights, memory bandwidth {bandwidth / 1e9:,.1f} GB/s"]
    for baseline, summary in result["baselines"].items():
        speedup = "" if baseline == "fabella" else f"  Fabella is {summary['fabella_speedup']:.2f} times as fast"
        speed = f"{summary['tokens_per_second']:>10,.0f} tokens/s  {summary['bandwidth_share']:>4.0%} of the bandwidth"
        lines.append(f"  {baseline:<24} {speed}{speedup}")
    return lines
