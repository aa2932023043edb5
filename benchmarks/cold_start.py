"""From the start of a process to the first token on its output: `fabella generate` beside HF's pipeline.

Both tell from a model of the same shape and with the same tokenizer, made once: a run of one training step, and a
folder of random weights. They take turns; every start reads the same files, which are in the system's cache by then.

    python -m benchmarks.cold_start piny-37m
    python -m benchmarks.cold_start storybook-1m --turns 9
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
tell = pipeline("text-generation", model=sys.argv[1], device="cpu")
print(tell(sys.argv[2], max_new_tokens=1, do_sample=False)[0]["generated_text"], flush=True)
"""


def write_run(name: str, folder: Path) -> None:
    """A run of the shape: one step on a little of the storybook. Its tokenizer has fewer ids than the model."""
    model = preset(name).model.model_dump(mode="json")
    little = [
        "data.source.stories=400",
        "training.micro_batch_size=1",
        "validation.num_sequences=1",
        "tokenizer.vocab_size=1000",
    ]
    changed = [f"model.{key}={json.dumps(value)}" for key, value in model.items()] + little
    command = [sys.executable, "-m", "fabella", "train", "storybook-1m", "--steps", "1", "--out", str(folder), *changed]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_pipeline(name: str, run: Path, folder: Path) -> None:
    """A model of the shape, and the run's tokenizer, as HF's pipeline reads them."""
    import transformers

    from benchmarks.peers.models_torch import build_peer

    model: Any = build_peer(preset(name).model)[0]
    model.config.use_cache = True
    model.save_pretrained(folder)
    file = str(run / "tokenizer" / "tokenizer.json")
    transformers.PreTrainedTokenizerFast(tokenizer_file=file).save_pretrained(folder)


def seconds_to_first_token(command: list[str]) -> float:
    """Until more than the prompt has come."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        read = process.stdout.read(len(PROMPT) + 1)
        seconds = time.perf_counter() - start
        process.stdout.read()
        said = process.stderr.read().decode(errors="replace")
    if process.returncode or len(read) <= len(PROMPT):
        raise SystemExit(f"{command[:5]} ended with code {process.returncode}: {said}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", help="a preset that transformers has, too")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fabella-") as made:
        run, folder = Path(made, "run"), Path(made, "pipeline")
        write_run(given.shape, run)
        write_pipeline(given.shape, run, folder)
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
        commands = {"fabella": generate, "pipeline": [sys.executable, "-c", PIPELINE, str(folder), PROMPT]}
        for command in commands.values():
            seconds_to_first_token(command)  # what is made once and kept: byte code, Fabella's compiled step
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(given.turns):
            for name, command in commands.items():
                taken[name].append(seconds_to_first_token(command))
    middle = {name: median(seconds) for name, seconds in taken.items()}
    result = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("fabella", "torch", "transformers")},
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "seconds": taken,
        "median_seconds": middle,
        "fabella_to_pipeline": middle["fabella"] / middle["pipeline"],
    }
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps({**kept, given.shape: result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
