"""Whether ``fabella train TEXT`` with its defaults learns running text: two novels, and a play.

    python -m benchmarks.own_text --novels alice.txt peter-pan.txt --play shakespeare.txt

Each text is trained on with the default settings; then the run continues a beginning three times for 200 tokens. The
figures say whether the continuations are running prose, or a play: their length, sentences, speakers, and the share of
their words that the text has. The texts themselves are not written to the results.
"""

import argparse
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fabella
from fabella.generation.sampling import SamplingParams
from fabella.run_config.files import load_config

NUM_COMPLETIONS, MAX_TOKENS = 3, 200
SAMPLING = SamplingParams(seed=1)
MIN_CHARACTERS = 400
"""Characters of a continuation of 200 tokens that did not end early."""
MIN_KNOWN_WORDS = 0.7
"""Share of the words that the text has, 0 to 1, from which on a continuation reads as its language."""
WORD = re.compile(r"[a-z']+")
SENTENCE_END = re.compile("[.!?][\"'\u201d\u2019]?(?:\\s|$)")
SPEAKER = re.compile(r"(?:^|\n\n)[A-Z][A-Za-z' ]+:\n")


def figures(text: str, known: set[str]) -> dict[str, Any]:
    """Return the measures of one continuation."""
    words = WORD.findall(text.lower())
    return {
        "characters": len(text),
        "lines": text.count("\n") + 1,
        "sentences": len(SENTENCE_END.findall(text)),
        "speakers": len(SPEAKER.findall(text)),
        "known_words": round(sum(word in known for word in words) / max(len(words), 1), 3),
    }


def holds(values: dict[str, Any], *, play: bool) -> bool:
    """Return whether a continuation is running prose, or a play with speakers."""
    running = values["characters"] >= MIN_CHARACTERS and values["known_words"] >= MIN_KNOWN_WORDS
    return running and (values["speakers"] >= 2 if play else values["sentences"] >= 3)


def measure(name: str, paths: Sequence[Path], prompt: str, directory: Path, steps: int) -> dict[str, Any]:
    """Train with the defaults, generate, and return settings and figures. ``steps``: 0 for the default length."""
    folder = directory / name  # a directory of the files is the same text as the files
    folder.mkdir()
    for path in paths:
        shutil.copy(path, folder)
    prepared = directory / "prepared"
    result = fabella.train(folder, out=directory / "runs" / name, prepared=prepared, device="cpu", steps=steps)
    run = load_config(str(result.path / "config.yaml"))
    known = set(WORD.findall("\n".join(path.read_text(encoding="utf-8") for path in paths).lower()))
    model = fabella.load(result.path, device="cpu")
    completions = model.generate(prompt, SAMPLING, n=NUM_COMPLETIONS, max_tokens=MAX_TOKENS)
    for number, completion in enumerate(completions, start=1):
        print(f"--- {name} {number}\n{prompt}{completion.completion}\n", flush=True)
    continuations = [figures(completion.completion, known) for completion in completions]
    return {
        "text": name,
        "files": [path.name for path in paths],
        "bytes": sum(path.stat().st_size for path in paths),
        "settings": {
            "tokenizer": run.tokenizer.model_dump(mode="json"),
            "model": run.model.model_dump(mode="json"),
            "sequences": run.data.sequences.model_dump(mode="json"),
            "training.length": run.training.length.model_dump(mode="json"),
            "optimizer.lr": run.optimizer.lr,
        },
        "best_step": result.best.step if result.best else None,
        "bits_per_byte": result.score.bits_per_byte,
        "continuations": continuations,
        "holds": all(holds(values, play=name == "play") for values in continuations),
    }


def main() -> int:
    """Write the results as JSON; return 1 if a text is not continued as what it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--novels", nargs="+", type=Path, required=True)
    parser.add_argument("--play", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="training steps; 0 for the default length")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/own_text.json"))
    arguments = parser.parse_args()
    sampling = {**dataclasses.asdict(SAMPLING), "max_tokens": MAX_TOKENS}
    with tempfile.TemporaryDirectory() as directory:
        texts = [
            measure("novels", arguments.novels, "The children ", Path(directory), arguments.steps),
            measure("play", [arguments.play], "ROMEO:\n", Path(directory), arguments.steps),
        ]
    arguments.output.write_text(json.dumps({"sampling": sampling, "texts": texts}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(text["holds"] for text in texts) else 1


if __name__ == "__main__":
    raise SystemExit(main())
