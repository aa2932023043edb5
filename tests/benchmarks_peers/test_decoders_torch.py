"""Tests that the peers of the decoding benchmark decode as many tokens as Fabella."""

import stat
import struct
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.decoders_torch import Llama2C, available_baselines, write_float32, write_int8
from fabella.benchmark.decode_task import DecodeTask
from fabella.errors import FabellaError
from fabella.models.parameters import count, initial_weights
from fabella.run_config.files import preset

CONFIG = preset("storybook-1m").model.model_copy(update={"layers": 1, "heads": 4, "kv_heads": 4, "vocab_size": 300})


def write_program(path: Path, output: str, code: int = 0) -> Path:
    """Write a program that prints ``output`` to standard error and exits with ``code``."""
    path.write_text(f"#!/bin/sh\necho '{output}' >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_transformers_decodes_batches_where_it_is_installed() -> None:
    pytest.importorskip("transformers")
    names = [baseline.name for baseline in available_baselines(DecodeTask(CONFIG, 1, 3, 4))]
    assert names[0] == "fabella"
    assert "transformers" in names
    baseline = next(
        baseline for baseline in available_baselines(DecodeTask(CONFIG, 2, 3, 4)) if baseline.name == "transformers"
    )
    assert baseline.decode() > 0


def test_the_speed_that_llama2_c_reports_is_used_and_it_decodes_one_sequence(tmp_path: Path) -> None:
    baseline = Llama2C(DecodeTask(CONFIG, 1, 3, 50), write_program(tmp_path / "run", "achieved tok/s: 200.0"))
    assert baseline.decode() == pytest.approx(0.25)
    baseline.close()
    assert "llama2.c" not in [
        baseline.name for baseline in available_baselines(DecodeTask(CONFIG, 2, 3, 4), llama2c=tmp_path)
    ]


def test_a_failed_program_is_reported(tmp_path: Path) -> None:
    baseline = Llama2C(DecodeTask(CONFIG, 1, 3, 50), write_program(tmp_path / "run", "malloc failed!", 1))
    with pytest.raises(FabellaError, match=r"run ended with code 1: malloc failed!\."):
        baseline.decode()
    baseline.close()


def test_the_files_of_llama2_c_contain_every_weight(tmp_path: Path) -> None:
    """Check the layouts of llama2.c's export.py: sizes, all weights, then, in float32, the rotary table."""
    float32, int8 = tmp_path / "float32", tmp_path / "int8"
    write_float32(CONFIG, float32)
    sizes = (128, 384, 1, 4, 4, 300, 288)
    assert struct.unpack("7i", float32.read_bytes()[:28]) == sizes
    values = np.frombuffer(float32.read_bytes()[28:], dtype=np.float32)
    rotary_table = 288 * 32
    assert len(values) == count(CONFIG.parameters()) + rotary_table
    expected = initial_weights(CONFIG.parameters(), seed=1)["embedding.weight"]
    np.testing.assert_array_equal(values[2 * 128 : 300 * 128], expected.ravel()[2 * 128 :])

    write_int8(CONFIG, int8)
    norms = 3 * 128
    matrices = count(CONFIG.parameters()) - norms
    assert int8.stat().st_size == 256 + 4 * norms + matrices + 4 * matrices // 64
