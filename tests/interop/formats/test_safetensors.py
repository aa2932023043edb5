"""Tests of single safetensors files in less precision."""

from pathlib import Path

import pytest

from fabella.interop.export import export, verify_export
from tests.interop.tiny_exports import make_run


@pytest.mark.parametrize("family", ["gpt2", "hybrid"])
@pytest.mark.parametrize(("precision", "share"), [("float32", 1.0), ("float16", 0.6), ("bfloat16", 0.6), ("int8", 0.4)])
def test_a_file_in_less_precision_is_smaller_and_equal(
    family: str, precision: str, share: float, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", family)
    result = export(run, to="safetensors", out=tmp_path / "out", precision=precision)
    assert result.comparison.bits_difference <= 0.005
    sizes = [path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")]
    whole = sum(path.stat().st_size for path in (run / "checkpoints").rglob("model.safetensors"))
    assert sizes[0] <= whole * share + 4096
    again = verify_export(tmp_path / "out", against=run).comparison
    assert again.max_logit_difference == result.comparison.max_logit_difference
