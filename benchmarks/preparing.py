"""Speed and memory of preparing a text, compared with an earlier commit of Fabella in the same run.

The commits alternate, each in its own process, on the same generated text. Memory is the peak of the resident memory of
`fabella prepare`, above that of a process that only imports the command.

    git worktree add ../fabella-old 1c109f2
    python -m benchmarks.preparing --baseline ../fabella-old
    python -m benchmarks.preparing --gigabytes 1.5        the memory of a large text, without a baseline
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from fabella.text.storybook import generator

RESULTS = Path(__file__).parent / "results" / "preparing.json"
HERE = Path(__file__).parents[1]
SPEED_BYTES = 10_000_000
"""Bytes of each text whose preparation is timed."""
MEASURED = """
import json, resource, runpy, sys, time
start = time.monotonic()
try:
    runpy.run_module("fabella", run_name="__main__")
except SystemExit as stop:
    code = stop.code
    seconds = time.monotonic() - start
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(json.dumps({"code": code or 0, "seconds": seconds, "cpu": cpu, "peak": 1024 * own, "workers": 1024 * peak}))
"""
IMPORTS = "import fabella.cli.prepare, resource; print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def stories(size: int) -> Iterator[str]:
    """Yield generated stories of about ``size`` bytes in all; after 20 MB they repeat with their number."""
    pool: list[str] = []
    written = 0
    for story in generator.stories(10**9, seed=1):
        pool.append(story)
        written += len(story) + 2
        yield story
        if written >= min(size, 20_000_000):
            break
    number = 0
    while written < size:
        number += 1
        text = f"{pool[number % len(pool)]} This was tale number {number}."
        written += len(text) + 2
        yield text


def write_text(path: Path, size: int) -> None:
    """Write stories: one JSON object a line, one row of CSV, or paragraphs between markers."""
    with path.open("w", encoding="utf-8") as file:
        if path.suffix == ".csv":
            file.write("id,text\n")
        for number, story in enumerate(stories(size)):
            if path.suffix == ".jsonl":
                file.write(json.dumps({"id": number, "text": story}) + "\n")
            elif path.suffix == ".csv":
                quoted = story.replace('"', '""')
                file.write(f'{number},"{quoted}"\n')
            else:
                file.write(f"{story}\n<|endoftext|>\n")


def prepare(tree: Path, text: Path, out: Path, *options: str) -> dict[str, Any]:
    """Prepare ``text`` with the code of ``tree`` in a process of its own; return seconds and peak memory in bytes."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-c", MEASURED, "prepare", str(text), "--out", str(out), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    if result["code"]:
        raise SystemExit(done.stderr)
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    shutil.rmtree(out)
    return {**result, "dataset_bytes": size}


def imports(tree: Path) -> int:
    """Return the peak memory of a process that imports the command, in bytes."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    done = subprocess.run([sys.executable, "-c", IMPORTS], env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def compare_speed(baseline: Path, rounds: int, directory: Path) -> list[dict[str, Any]]:
    """Return the processor seconds of both commits for each form of text and tokenizer, and their ratio.

    Seconds of the processor: other work on the machine hardly changes them.
    """
    rows: list[dict[str, Any]] = []
    for suffix, tokenizer in ((".txt", "bytes"), (".txt", "bpe:4096"), (".jsonl", "bytes"), (".csv", "bytes")):
        text = directory / f"stories{suffix}"
        if not text.exists():
            write_text(text, SPEED_BYTES)
        options = ("--tokenizer", tokenizer, "--workers", "1")
        seconds: dict[str, list[float]] = {"now": [], "baseline": []}
        for number in range(rounds + 1):
            trees = {"now": HERE, "baseline": baseline}
            for name in sorted(trees, reverse=bool(number % 2)):
                took = prepare(trees[name], text, directory / "out", *options)["cpu"]
                seconds[name] += [took] if number else []  # the first round warms the page cache
        ratios = [now / before for now, before in zip(seconds["now"], seconds["baseline"], strict=True)]
        row = {
            "text": suffix, "tokenizer": tokenizer, "bytes": text.stat().st_size,
            "cpu_seconds": {name: round(median(times), 3) for name, times in seconds.items()},
            "ratio": round(median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios],
        }  # fmt: skip
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def large_text(gigabytes: float, directory: Path) -> list[dict[str, Any]]:
    """Return the peak memory of preparing a large text of each form, above that of the imports."""
    base = imports(HERE)
    rows: list[dict[str, Any]] = []
    for suffix in (".txt", ".jsonl"):
        text = directory / f"large{suffix}"
        write_text(text, int(gigabytes * 1e9))
        result = prepare(HERE, text, directory / "out", "--tokenizer", "bytes", "--workers", "1")
        row = {
            "text": suffix, "bytes": text.stat().st_size, "seconds": round(result["seconds"], 1),
            "megabytes_of_imports": round(base / 1e6), "peak_megabytes": round(result["peak"] / 1e6),
            "megabytes_above_imports": round((result["peak"] - base) / 1e6),
        }  # fmt: skip
        text.unlink()
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--baseline", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=0.0)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = {
        "date": datetime.date.today().isoformat(), "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "python": platform.python_version(), "tokenizers": version("tokenizers"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        if options.baseline:
            commit = ["git", "-C", str(options.baseline), "rev-parse", "--short", "HEAD"]
            results["baseline"] = subprocess.run(commit, capture_output=True, text=True, check=True).stdout.strip()
            results["speed"] = compare_speed(options.baseline.absolute(), options.rounds, Path(directory))
        if options.gigabytes:
            results["memory"] = large_text(options.gigabytes, Path(directory))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
