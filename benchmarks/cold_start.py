"""Time from the start of a process to the first token: `fabella generate` compared with HF's pipeline.

Both use a model of the same shape and the same tokenizer: a run of one training step, and a directory of random
weights. Runs alternate, and all files are in the page cache.

    python -m benchmarks.cold_start piny-37m
    python -m benchmarks.cold_start storybook-1m --rounds 9
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from fabella.run_config.files import preset

RESULTS = Path(__file__).parent / "results" / "cold_start.json"
PROMPT = "Once upon a time"
PIPELINE = """
import sys
from transformers import pipeline
generate = pipeline("text-generation", model=sys.argv[1], device="cpu")
print(generate(sys.argv[2], max_new_tokens=1, do_sample=False)[0]["generated_text"], flush=True)
"""


def write_run(name: str, directory: Path) -> None:
    """Train one step of the shape on 400 storybook stories; the tokenizer has fewer tokens than the model."""
    model = preset(name).model.model_dump(mode="json")
    overrides = [
        "data.source.stories=400",
        "training.micro_batch_size=1",
        "validation.num_sequences=1",
        "tokenizer.vocab_size=1000",
    ]
    settings = [f"model.{key}={json.dumps(value)}" for key, value in model.items()] + overrides
    command = [
        sys.executable,
        "-m",
        "fabella",
        "train",
        "storybook-1m",
        "--steps",
        "1",
        "--out",
        str(directory),
        *settings,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_pipeline(name: str, run: Path, directory: Path) -> None:
    """Write a model of the shape and the tokenizer of the run in the format of HF's pipeline."""
    import transformers

    from benchmarks.peers.models_torch import build_peer

    model: Any = build_peer(preset(name).model)[0]
    model.config.use_cache = True
    model.save_pretrained(directory)
    file = str(run / "tokenizer" / "tokenizer.json")
    transformers.PreTrainedTokenizerFast(tokenizer_file=file).save_pretrained(directory)


def seconds_to_first_token(command: list[str]) -> float:
    """Run a command and return the seconds until its output is longer than the prompt."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        output = process.stdout.read(len(PROMPT) + 1)
        seconds = time.perf_counter() - start
        process.stdout.read()
        errors = process.stderr.read().decode(errors="replace")
    if process.returncode or len(output) <= len(PROMPT):
        raise SystemExit(f"{command[:5]} ended with code {process.returncode}: {errors}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", help="preset whose architecture transformers has, too")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each command (default: 5)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fabella-") as temporary:
        run, directory = Path(temporary, "run"), Path(temporary, "pipeline")
        write_run(arguments.shape, run)
        write_pipeline(arguments.shape, run, directory)
        generate = [
            sys.executable,
            "-m",
            "fabella",
            "generate",
            str(run),
            PROMPT,
            "--max-tokens",
            "1",
            "--temperature",
            "0",
        ]
        commands = {"fabella": generate, "pipeline": [sys.executable, "-c", PIPELINE, str(directory), PROMPT]}
        for command in commands.values():
            seconds_to_first_token(command)  # creates byte code and the native decoder
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.turns):
            for name, command in commands.items():
                seconds[name].append(seconds_to_first_token(command))
    medians = {name: median(values) for name, values in seconds.items()}
    result = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("fabella", "torch", "transformers")},
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "seconds": seconds,
        "median_seconds": medians,
        "fabella_to_pipeline": medians["fabella"] / medians["pipeline"],
    }
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**earlier, arguments.shape: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
