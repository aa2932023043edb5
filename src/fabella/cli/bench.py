"""Measure how fast training is here, part by part, or telling (--decode); beside other programs where at hand.

Examples:
  fabella bench                                   the four shapes that Fabella's speed is told for
  fabella bench piny-37m --turns 9 --compiled     each contestant eager and with torch.compile
  fabella bench storybook-1m --alone --json
  fabella bench --decode --llama2c ~/llama2.c     tokens a second, told one text at a time and sixteen at once
  fabella bench storybook-1m --engine jax         the JAX engine, beside a step written by hand and beside PyTorch
  fabella bench minigpt-100m --device cuda --precision bf16 --output results.json
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from fabella.benchmark import decoding
from fabella.benchmark.decoding import TOLD_TOKENS
from fabella.benchmark.training import SHAPES, BenchOptions, bench, shape_of
from fabella.cli.output import print_json, print_result, print_status
from fabella.errors import UsageError
from fabella.storage import format_bytes, write_json

PRECISIONS = ("float32", "bf16")


def command(
    presets: Annotated[list[str] | None, typer.Argument(help="Presets; nothing: the four told of in the docs.")] = None,
    turns: Annotated[int, typer.Option(help="Steps of each contestant, in turns.", min=1)] = 7,
    alone: Annotated[bool, typer.Option("--alone", help="Fabella by itself.")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="With torch.compile as well.")] = False,
    only: Annotated[str, typer.Option(help="Contestants, between commas: 'fabella compiled,nanogpt compiled'.")] = "",
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Peak memory, in processes of their own.")
    ] = True,
    precision: Annotated[str, typer.Option(help="float32 or bf16.")] = "float32",
    threads: Annotated[int, typer.Option(help="Of the CPU; 0: as many as PyTorch likes.", min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    engine: Annotated[str, typer.Option(help="torch, or jax beside torch and a step written by hand.")] = "torch",
    decode: Annotated[bool, typer.Option("--decode", help="Measure telling instead of training.")] = False,
    tokens: Annotated[int, typer.Option(help="With --decode: told after a prompt of 8.", min=2)] = TOLD_TOKENS,
    llama2c: Annotated[
        Path | None, typer.Option(help="With --decode: the folder of llama2.c's compiled run and runq.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="A .json file for the results.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON object.")] = False,
) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"--precision {precision} is none here.", hint=f"Choose from: {', '.join(PRECISIONS)}.")
    names = presets or list(decoding.SHAPES if decode else SHAPES)
    for name in names:
        shape_of(name)  # a misspelt one is told before an hour is spent on the others
    tell = print_status if as_json else print_result
    if decode:
        telling = decoding.Conditions(
            turns=turns, tokens=tokens, device=device, threads=threads, alone=alone, llama2c=llama2c, engine=engine
        )
        result = decoding.bench(names, telling, lambda name, measured: tell("\n".join(decoding_lines(name, measured))))
    else:
        given = BenchOptions(
            engine=engine,
            turns=turns,
            device=device,
            precision=precision,
            threads=threads,
            compiled=compiled,
            alone=alone,
            memory=memory,
            only=tuple(name.strip() for name in only.split(",") if name.strip()),
        )
        result = bench(names, given, lambda name, measured: tell("\n".join(lines(name, measured))))
    if output:
        write_json(output, result)
        print_status(f"Written to {output}.")
    if as_json:
        print_json(result)


def lines(name: str, result: dict[str, Any]) -> list[str]:
    """A line a contestant: speed, share of the machine's peak, parts, memory, and Fabella's speed by its."""
    shown = [
        f"{name} ({result['batch']} x {result['time']}), "
        f"machine's peak {result['peak_flops_per_second'] / 1e9:,.0f} GFLOP/s"
    ]
    for who, told in result["contestants"].items():
        parts = ", ".join(f"{part} {1000 * seconds:,.1f}" for part, seconds in told["seconds"].items())
        memory = f"  {format_bytes(told['peak_bytes'])}" if told["peak_bytes"] is not None else ""
        ours = who == result["compared_with"]
        ratio = "" if ours else f"  fabella by this {told['fabella_by_this']:.2f}"
        speed = f"{told['tokens_per_second']:>10,.0f} tokens/s  {told['utilisation']:>4.0%} of the peak"
        shown.append(f"  {who:<24} {speed}{memory}{ratio}")
        first = f"; the first, with what it compiles, {told['first_step_seconds']:.1f} s"
        shown.append(f"  {'':<24} {1000 * told['seconds_per_step']:,.1f} ms a step: {parts}{first}")
    return shown


def decoding_lines(name: str, result: dict[str, Any]) -> list[str]:
    """A line a contestant: speed, share of what memory could give it, and Fabella's speed by its."""
    bandwidth, size = result["read_bytes_per_second"], format_bytes(result["weight_bytes"])
    shown = [f"{name}, {size} of float32 weights, memory read at {bandwidth / 1e9:,.1f} GB/s"]
    for who, told in result["contestants"].items():
        ratio = "" if who == "fabella" else f"  fabella by this {told['fabella_by_this']:.2f}"
        speed = f"{told['tokens_per_second']:>10,.0f} tokens/s  {told['bandwidth_share']:>4.0%} of the memory's speed"
        shown.append(f"  {who:<24} {speed}{ratio}")
    return shown
