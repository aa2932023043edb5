"""Export a model of every family to every format and write the differences to docs/guide-export.md.

Each export is compared with its run as `fabella export` does; what a format cannot hold is written with its reason. The
models are small, have random weights and a byte-level BPE of 512 ids. Options add published models as golden cases:

    python benchmarks/interop.py
    python benchmarks/interop.py --import SmolLM2-135M-Instruct.Q4_1.gguf --import stories260K.bin
    python benchmarks/interop.py --strings 100000

``--model`` and ``--format`` measure a part of the table again and keep its other rows:

    python benchmarks/interop.py --format onnx --format html

GGUF has rows of two targets: of llama.cpp, measured where llama-cpp-python is installed, and of transformers, measured
where it is not.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the script is run by its path

from fabella.config.data import BPE, SentencePiece
from fabella.errors import FabellaError, NumericsError
from fabella.interop.export import export
from fabella.interop.formats.export_format import export_format, format_names
from fabella.interop.import_model import import_model
from fabella.interop.tokenizer_json import tokenizer_json
from fabella.models.registry import family_names, tiny_config
from fabella.storage import format_bytes
from fabella.text.storybook.generator import stories
from fabella.tokenizers import loading
from fabella.tokenizers.bytes import ByteTokenizer
from fabella.tokenizers.tokenizer import Tokenizer
from tests.interop.test_tokenizer_json import random_strings
from tests.interop.tiny_exports import make_run

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks/results/interop.json", ROOT / "docs/guide-export.md"
LLAMA_CPP = "llama.cpp"
HAS_LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None
START, END = "<!-- table: python benchmarks/interop.py -->\n", "<!-- end of table -->"
COLUMNS = (
    *("model", "format", "loaded by", "precision", "max. logit difference", "greedy tokens", "equal", "equal to a tie"),
    *("bits per byte", "size", "tokens/s"),
)
STORIES = 300
SIZES = {
    **{"dim": 64, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn_dim": 256, "embedding": 32},
    "context_length": 208,  # 8 tokens of a prompt, 200 of its continuation
}
SETTINGS: dict[str, dict[str, Any]] = {
    "gpt2": {"activation": "gelu_tanh"},
    "gpt_neox": {"activation": "gelu_tanh"},
    "qwen": {"qkv_bias": False, "rotary_scaling": {"kind": "none"}},
    "minigpt": {"rotary_fraction": 0.5},
}


def tokenizers() -> dict[str, Tokenizer]:
    """Return a tokenizer of each kind, trained on stories."""
    texts = [text for _, text in zip(range(STORIES), stories(STORIES, seed=5), strict=False)]
    return {
        "bytes": ByteTokenizer(),
        "bpe": loading.train(BPE(vocab_size=512), texts),
        "sentencepiece": loading.train(SentencePiece(vocab_size=512), texts),
    }


def settings_of(family: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes that a family's config has, and its settings."""
    return {key: value for key, value in SIZES.items() if key in config} | SETTINGS.get(family, {})


def measure(run: Path, to: str, precision: str, folder: Path) -> dict[str, Any]:
    """Return one row of the table: the differences, or the reason why there is no such export."""
    row: dict[str, Any] = {"format": to, "precision": precision}
    try:
        result = export(run, to=to, precision=precision, out=folder / f"{run.name}-{to}-{precision}")
    except NumericsError as error:  # the target has read it
        return {**row, "target": LLAMA_CPP if to == "gguf" and HAS_LLAMA_CPP else "", "reason": error.message}
    except FabellaError as error:
        return {**row, "reason": error.message}
    return {**row, "bytes": result.bytes, **result.comparison.as_json()}


def compare_strings(tokenizer: Tokenizer, count: int) -> dict[str, int]:
    """Return how many random strings have the same ids, and how many decode to themselves, in tokenizer.json."""
    library = tokenizer_json(tokenizer)
    library.encode_special_tokens = True
    equal = decoded = 0
    for text in random_strings(count):
        ids = library.encode(text).ids
        equal += ids[1:] == tokenizer.encode(text).tolist()
        decoded += library.decode(ids) == text
    return {"strings": count, "equal_ids": equal, "decoded": decoded}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in rows:
        start = f"| {row['model']} | {row['format']} | {loaded_by(row)} | {row['precision']} |"
        if "reason" in row:
            lines.append(f"{start} {row['reason'].replace('|', '/')} {'| ' * (len(COLUMNS) - 4)}|")
            continue
        rounding = row.get("rounding")
        difference = f"{row['max_logit_difference']:.1e}" + (f" ({rounding['rest']:.1e})" if rounding else "")
        explained = f"{row['greedy_explained']}/{row['prompts']}" if "greedy_explained" in row else ""
        lines.append(
            f"{start} {difference} | {row['tokens']} | {row['greedy_equal']}/{row['prompts']} | {explained} | "
            f"{row['bits_difference']:+.3%} | {format_bytes(row['bytes'])} | {row['tokens_per_second']:,.0f} |"
        )
    return "\n".join(lines)


def loaded_by(row: dict[str, Any]) -> str:
    """Return the target of a row by a short name; empty for a format that has one target only, or for a reason."""
    if row["format"] != "gguf" or "target" not in row:
        return ""
    return LLAMA_CPP if row["target"].startswith(LLAMA_CPP) else "transformers"


def merged(kept: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of an earlier measurement with those of this one, by model, format, precision and target."""
    rows = {(row["model"], row["format"], row["precision"], loaded_by(row)): row for row in [*kept, *new]}
    families = family_names()
    order = {
        (to, precision): number
        for number, (to, precision) in enumerate((to, p) for to in format_names() for p in export_format(to).PRECISIONS)
    }

    def place(key: tuple[str, str, str, str]) -> tuple[Any, ...]:
        model, to, precision, target = key
        return model not in families, model, to, target, order[to, precision]

    return [rows[key] for key in sorted(rows, key=place)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--import", dest="imports", action="append", default=[], help="a model to import and export")
    parser.add_argument("--model", dest="models", action="append", choices=family_names(), help="measure only this one")
    parser.add_argument("--format", dest="formats", action="append", choices=format_names(), help="only this format")
    parser.add_argument("--strings", type=int, default=0, help="random strings to compare per tokenizer")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    made = tokenizers()
    with tempfile.TemporaryDirectory(prefix="fabella-") as directory:
        folder = Path(directory)
        runs = {}
        for family in arguments.models or family_names():
            kind = "sentencepiece" if family == "llama" else "bpe"
            config = tiny_config(family).model_dump()
            runs[family] = make_run(folder / family, family, made[kind], **settings_of(family, config))
        for path in arguments.imports:
            runs[Path(path).name] = import_model(path, out=folder / Path(path).stem.lower()).path
        for name, run in runs.items():
            for to in arguments.formats or format_names():
                for precision in export_format(to).PRECISIONS:
                    rows.append({"model": name, **measure(run, to, precision, folder)})
                    print(json.dumps(rows[-1]), flush=True)
    strings = {kind: compare_strings(t, arguments.strings) for kind, t in made.items()} if arguments.strings else {}
    if arguments.models or arguments.formats:
        earlier = json.loads(RESULT.read_text(encoding="utf-8"))
        rows, strings = merged(earlier["exports"], rows), strings or earlier["tokenizers"]
    arguments.output.write_text(json.dumps({"exports": rows, "tokenizers": strings}, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(START)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{START}{table(rows)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
