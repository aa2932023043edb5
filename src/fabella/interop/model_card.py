"""Model card (README.md) of an export: what the model is, its data, results and plots, its parent, and its licence."""

import json
from pathlib import Path

from fabella.errors import FabellaError
from fabella.interop.source import ExportSource
from fabella.models.parameters import count, count_non_embedding
from fabella.report.plots import draw
from fabella.report.run_history import RunHistory, read
from fabella.runs.branch import parent_of
from fabella.storage import escaped

PLOTS = "plots"
MAX_SAMPLES = 3


def write_card(source: ExportSource, directory: Path, *, precision: str, remote_code: bool) -> None:
    """Write ``README.md`` and the curves of the run in ``plots/``."""
    history = _history(source)
    plots = draw([history], directory / PLOTS, "step", "png") if history else []
    run = source.run_dir.run
    table = source.config.parameters()
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "license: unknown  # choose one before you publish the model, for example apache-2.0",
        "tags: [fabella, small-language-model]",
        "---",
        "",
        f"# {_plain(run.name)}",
        "",
        f"A small language model of family `{_plain(run.model.family)}` with {count(table):,} parameters, "
        f"{count_non_embedding(table):,} of them outside embeddings. Exported from step {source.step:,} of a run of "
        f"Fabella, in {precision}{_of_average(source)}.",
        "",
        *_usage(remote_code),
        "",
        "## Training",
        "",
        *(f"- {line}" for line in _facts(source)),
        "",
        *_results(source, history),
        *(line for plot in plots for line in (f"![{plot.stem}]({PLOTS}/{plot.name})", "")),
        *_samples(source, history),
    ]
    (directory / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _of_average(source: ExportSource) -> str:
    """Return which average of the weights is exported; empty for the trained weights."""
    average = source.run_dir.run.optimizer.average.model_dump()
    settings = ", ".join(f"{key} {value}" for key, value in average.items() if key != "kind")
    return f"; the average of its weights ({average['kind']}, {settings})" if source.weights_kind == "average" else ""


def _usage(remote_code: bool) -> list[str]:
    options = ", trust_remote_code=True" if remote_code else ""
    note = (
        [
            "",
            "No class of transformers computes this network: `modeling_fabella.py` in this folder does. Read it first.",
        ]
        if remote_code
        else []
    )
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'path = "."  # this folder, or its name on the hub',
        "tokenizer = AutoTokenizer.from_pretrained(path)",
        f"model = AutoModelForCausalLM.from_pretrained(path{options})",
        'inputs = tokenizer("Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=100)[0], skip_special_tokens=True))",
        "```",
        *note,
        "",
        "The tokenizer puts the token that ends a document first: in training, every document follows another one.",
    ]


def _facts(source: ExportSource) -> list[str]:
    run, manifest = source.run_dir.run, source.run_dir.manifest
    data = json.dumps(run.data.source.model_dump(mode="json"), ensure_ascii=False)
    imported = manifest.get("imported_from")
    facts = [f"Imported: {_plain(str(imported))}"] if imported else [f"Text: `{_plain(data)}`"]
    facts += [
        f"Tokenizer: {source.tokenizer.kind}, {source.tokenizer.vocab_size:,} ids",
        f"Context length: {source.context_length:,} tokens",
        f"Steps: {source.step:,}",
        f"sha256 of the checkpoint's weights: `{source.sha256}`",
    ]
    if run.about.description:
        facts.append(f"Preset: {_plain(run.about.description)}")
    if parent := parent_of(manifest):
        facts.append(f"Parent: {_plain(parent)}")
    return facts


def _results(source: ExportSource, history: RunHistory | None) -> list[str]:
    """Return the last validation result up to the exported step."""
    rows = [row for row in history.validation if row["step"] <= source.step] if history else []
    if history is None or not rows:
        return []
    values = {key: rows[-1].get(key) for key in ("loss", "bits_per_byte")}
    shown = [f"{key.replace('_', ' ')} {value:.4f}" for key, value in values.items() if isinstance(value, float)]
    return [
        "## Results",
        "",
        f"Held-out text at step {rows[-1]['step']:,}: {', '.join(shown)} (scored by {history.rule}).",
        "",
    ]


def _samples(source: ExportSource, history: RunHistory | None) -> list[str]:
    rows = [row for row in history.samples if row.get("step", 0) <= source.step] if history else []
    texts = [text for row in rows[-MAX_SAMPLES:] if isinstance(text := row.get("text"), str)]
    shown = [line for text in texts for line in ("> " + _plain(text, 600), "")]
    return ["## Samples", "", *shown] if shown else []


def _history(source: ExportSource) -> RunHistory | None:
    """Return the metrics of the run; None if it has none, as an imported one."""
    try:
        return read(source.run_dir.path)
    except FabellaError:
        return None


def _plain(text: str, limit: int = 300) -> str:
    """Return text of a run as one line that is no Markdown."""
    return escaped(text.replace("\n", " ").replace("`", "'").replace("<", "&lt;"), limit)
