"""The story page of a run as one file: markup, style, scripts, tokenizer and weights.

Everything that comes from a run is data: JSON in which ``<`` is escaped, or base64. A content security policy lists
the hashes of the page's own scripts and style, so that nothing else runs, and nothing is requested.
"""

import base64
import hashlib
import html
import json
from importlib import resources
from typing import Any

from fabella.errors import UsageError
from fabella.interop import page
from fabella.interop.page.program_torch import UnsupportedModel, program_of
from fabella.interop.page.tokenizer_data import tokenizer_data
from fabella.interop.source import ExportSource
from fabella.models.registry import family_label

MAX_BYTES = 256 * 2**20
"""Limit of the weights: a browser holds a string of at most 512 MiB, and base64 takes 4 bytes for 3."""
PARTS = ("decoder.js", "tokenizer.js", "page.js")


def render(source: ExportSource) -> str:
    """Return the page of a checkpoint; equal checkpoints give equal pages.

    Raises UsageError for a model without a decoder or too large for a page, TokenizerError for its tokenizer.
    """
    family = family_label(source.config.family)
    try:
        program = program_of(source.config, source.weights, _capacity(source))
    except UnsupportedModel as unsupported:
        raise UsageError(
            f"Format html cannot hold family '{family}': the int8 decoder does not support {unsupported}.",
            hint="Export to another format: --to hf, or --to safetensors.",
        ) from None
    weights = program.tensor_bytes()
    if len(weights) > MAX_BYTES:
        raise UsageError(
            f"The weights have {len(weights):,} bytes as int8. A page holds at most {MAX_BYTES:,}.",
            hint="Export to another format: --to hf, or --to safetensors.",
        )
    run = source.run_dir.run
    model = {
        "name": run.name,
        "family": family,
        "step": source.step,
        "parameters": sum(weight.size for weight in source.weights.values()),
        "context_length": 0 if source.config.unlimited_context else source.context_length,
        "prompts": list(run.samples.prompts),
        "tokenizer": tokenizer_data(source.tokenizer),
        **program.as_json(),
    }
    return _filled(model, base64.b64encode(weights).decode())


def page_file(name: str) -> str:
    """Return the content of a file of this package."""
    return resources.files(page).joinpath(name).read_text(encoding="utf-8")


def _capacity(source: ExportSource) -> int:
    """Return the positions of the KV caches and tables; 1 for a model without either."""
    return 1 if source.config.unlimited_context else source.context_length


def _filled(model: dict[str, Any], weights: str) -> str:
    scripts = {name: page_file(name) for name in PARTS}
    style = page_file("page.css")
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src {_hash(style)}; "
        f"script-src {' '.join(map(_hash, scripts.values()))}"
    )
    values = {
        "POLICY": policy,
        "NAME": html.escape(str(model["name"])),
        "STYLE": style,
        "MODEL": _json(model),
        "WEIGHTS": weights,
        **{name.removesuffix(".js").upper(): text for name, text in scripts.items()},
    }
    parts = page_file("page.html").split("%%")
    return "".join(values[part] if number % 2 else part for number, part in enumerate(parts))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(values: dict[str, Any]) -> str:
    """Return JSON in which no tag and no comment can begin, whatever its strings contain."""
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # U+2028 and U+2029 end a line in old browsers; lone surrogates cannot be written as UTF-8.
    return "".join(f"\\u{ord(c):04x}" if c in "<>&\u2028\u2029" or "\ud800" <= c <= "\udfff" else c for c in text)
