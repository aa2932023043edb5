"""Artifact of an entry: one file with weights and tokenizer, from which alone the score is computed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabella.config.data import DataConfig
from fabella.errors import UsageError
from fabella.evaluation.evaluate import EvalConfig, evaluate
from fabella.evaluation.races.entry_rules import held_out_source
from fabella.evaluation.races.race import Race, RaceArtifact
from fabella.interop.export import export
from fabella.interop.formats.export_format import export_format, require_packages
from fabella.interop.gguf_files.layout import architecture_name
from fabella.interop.import_model import import_model
from fabella.models.model_config import ModelConfig
from fabella.models.parameters import count
from fabella.runs.checkpoint import Weights
from fabella.storage import sha256_of

DIRECTORY = "artifact"
"""Directory of the export in the run directory."""
BYTES_PER_WEIGHT = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "q8_0": 34 / 32}
"""In q8_0, 32 values have a common scale of 2 bytes."""


def require_artifact(artifact: RaceArtifact, model: ModelConfig) -> None:
    """Raise UsageError for a model that the format cannot hold, or whose weights are too large without a tokenizer."""
    module = export_format(artifact.format)
    require_packages(artifact.format, module.PACKAGES)
    architecture_name(model)
    size = round(count(model.parameters()) * BYTES_PER_WEIGHT[artifact.precision])
    if size >= artifact.max_bytes:
        raise UsageError(
            f"The weights take {size:,} bytes in {artifact.precision}; the artifact may have {artifact.max_bytes:,} "
            "with its tokenizer.",
            hint="Use fewer layers, a smaller model.dim or a smaller vocabulary.",
        )


def score_artifact(
    race: Race,
    artifact: RaceArtifact,
    run: Path,
    data: DataConfig,
    *,
    weights: Weights,
    device: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write the artifact of the last checkpoint's ``weights``, import it again, and return ``score`` and ``artifact``.

    Held-out text is read as in ``data``; weights and tokenizer are those of the imported file.
    """
    directory = run / DIRECTORY
    export(
        run,
        to=artifact.format,
        out=directory,
        precision=artifact.precision,
        checkpoint="latest",
        weights=weights,
        report=report,
    )
    file = directory / export_format(artifact.format).FILE
    with tempfile.TemporaryDirectory(prefix="fabella-race-") as temp:
        imported = import_model(file, out=Path(temp) / "imported", report=report)
        config = EvalConfig(
            checkpoint="latest", device=device, text=held_out_source(data), decode_errors=data.decode_errors,
            rule="line", length=race.length, max_bad_lines=data.max_bad_lines, num_samples=0, num_cloze=0,
        )  # fmt: skip
        scores = evaluate(imported.path, config, report).scores[0]
    return {
        "score": {
            "loss": scores.loss.value,
            "bits_per_byte": scores.bits_per_byte.value,
            "tokens": scores.tokens,
            "rule": scores.rule,
            "perplexity": scores.perplexity.value,
        },
        "held_out_bytes": scores.bytes,
        "artifact": {
            "file": file.name, "precision": artifact.precision, "bytes": file.stat().st_size,
            "max_bytes": artifact.max_bytes, "sha256": sha256_of(file),
        },
    }  # fmt: skip
