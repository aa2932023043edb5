"""Tests of ONNX exports: onnxruntime gives the logits and the text of the run, for any batch, length and cache."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabella.engine.build_model_torch import load_model
from fabella.errors import StorageError, UsageError
from fabella.interop.export import export, verify_export
from fabella.interop.formats import onnx as onnx_format
from fabella.interop.source import open_source
from fabella.models import gpt2_torch
from tests.interop.tiny_exports import LENGTH, MODELS, make_run, sentencepiece

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in onnx_format.PACKAGES), reason="needs the extra onnx"
)
TOLERANCE = 1e-4


@needs_onnx
@pytest.mark.parametrize(("family", "changes"), MODELS, ids=str)
def test_whole_equals_chunked_for_any_batch_and_length(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    source = open_source(make_run(tmp_path / "run", family, **changes), "best")
    onnx_format.write(source, tmp_path, "float32")
    model: Any = load_model(source.config, source.weights, "cpu")
    target: Any = onnx_format.open_target(source, tmp_path)
    for rows, length in ((1, 1), (3, 7), (2, LENGTH)):
        ids = np.random.default_rng(rows).integers(0, source.config.vocab_size, (rows, length))
        with torch.inference_mode():
            expected = model(torch.from_numpy(ids)).numpy()
        np.testing.assert_allclose(target.logits(ids), expected, atol=TOLERANCE)
        states, chunks = target._empty(rows), []
        for part in np.array_split(ids, min(length, 3), axis=1):
            logits, states = target._run(part, states)
            chunks.append(logits)
        np.testing.assert_allclose(np.concatenate(chunks, axis=1), expected, atol=TOLERANCE)


@needs_onnx
@pytest.mark.parametrize(
    ("family", "precision"), [("llama", "float32"), ("modern", "float32"), ("mingru", "float16"), ("qwen", "float16")]
)
def test_an_export_generates_the_text_of_the_run(family: str, precision: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family, sentencepiece())
    result = export(run, to="onnx", out=tmp_path / "out", precision=precision)
    measured = result.comparison
    assert measured.tokenizer == "equal"
    assert measured.target.startswith("onnxruntime")
    if precision == "float32":
        assert measured.greedy_equal == measured.prompts
    assert verify_export(tmp_path / "out", against=run).comparison.bits_difference == measured.bits_difference
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert files == {"model.onnx", "tokenizer.json", "tokenizer_config.json", "export.json", "manifest.json"}


@needs_onnx
def test_tied_weights_are_stored_once_and_float16_takes_half_the_size(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama", dim=64, heads=4, kv_heads=4, tie_embeddings=True)
    source = open_source(run, "best")
    weights = sum(weight.nbytes for weight in source.weights.values())
    sizes = []
    for precision in onnx_format.PRECISIONS:
        (tmp_path / precision).mkdir()
        onnx_format.write(source, tmp_path / precision, precision)
        sizes.append((tmp_path / precision / onnx_format.FILE).stat().st_size)
    assert weights < sizes[0] < 1.2 * weights
    assert sizes[1] < 0.65 * sizes[0]


@needs_onnx
def test_the_file_names_the_ids_and_the_context_that_a_program_needs(tmp_path: Path) -> None:
    import onnx

    source = open_source(make_run(tmp_path / "run", "gpt2"), "best")
    onnx_format.write(source, tmp_path, "float32")
    model = onnx.load(str(tmp_path / onnx_format.FILE))
    properties = {entry.key: int(entry.value) for entry in model.metadata_props}
    eos = source.tokenizer.eos_id
    assert properties == {"first_id": eos, "eos_id": eos, "ids": source.tokenizer.vocab_size, "context_length": LENGTH}


@needs_onnx
@pytest.mark.fault("E15", cases=1)
def test_a_model_that_the_decoder_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", "gpt2")
    monkeypatch.setattr(gpt2_torch.Block, "parallel_residual", True, raising=False)  # which its forward contradicts
    with pytest.raises(UsageError, match="ONNX cannot hold family 'gpt2': the decoder does not support"):
        export(run, to="onnx", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@needs_onnx
@pytest.mark.fault("E15", cases=1)
def test_weights_beyond_the_size_of_a_file_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "MAX_BYTES", 1000)
    with pytest.raises(UsageError, match=r"less than 2 GB, and the weights are .* Use --precision float16"):
        export(make_run(tmp_path / "run", "gpt2"), to="onnx", out=tmp_path / "out")


@pytest.mark.fault("E15", cases=1)
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "PACKAGES", ("onnx_that_is_missing",))
    with pytest.raises(UsageError, match=r"needs onnx-that-is-missing.*pip install .*\[onnx\]"):
        export(make_run(tmp_path / "run", "gpt2"), to="onnx", out=tmp_path / "out")


@needs_onnx
@pytest.mark.fault("E17", cases=1)
def test_a_changed_file_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "mingru")
    export(run, to="onnx", out=tmp_path / "out")
    file = tmp_path / "out" / onnx_format.FILE
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match=r"model\.onnx"):
        verify_export(tmp_path / "out", against=run)
