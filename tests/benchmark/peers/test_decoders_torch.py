"""Who is measured tells what everybody else tells, and as much of it."""

import stat
import struct
from pathlib import Path

import numpy as np
import pytest

from fabella.benchmark.decode_task import DecodeTask
from fabella.benchmark.peers.decoders_torch import (
    Llama2C,
    available_baselines,
    read_bandwidth,
    write_bytes,
    write_floats,
)
from fabella.errors import FabellaError
from fabella.models.parameters import count, initial_weights
from fabella.run_config.files import preset

CONFIG = preset("storybook-1m").model.model_copy(update={"layers": 1, "heads": 4, "kv_heads": 4, "vocab_size": 300})


def program(path: Path, said: str, code: int = 0) -> Path:
    """A program that says something and ends."""
    path.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path.parent


def test_fabella_comes_first_and_in_less_memory_where_it_can() -> None:
    who = available_baselines(DecodeTask(CONFIG, 2, 3, 4), alone=True)
    assert who[0].name == "fabella"
    assert {contestant.name for contestant in who[1:]} <= {"fabella float16", "fabella int8"}
    assert all(contestant.tell() > 0 for contestant in who)


def test_a_peer_tells_as_many_tokens() -> None:
    pytest.importorskip("transformers")
    names = [contestant.name for contestant in available_baselines(DecodeTask(CONFIG, 1, 3, 4), alone=False)]
    assert "transformers" in names
    who = next(
        one for one in available_baselines(DecodeTask(CONFIG, 2, 3, 4), alone=False) if one.name == "transformers"
    )
    assert who.tell() > 0


def test_a_program_beside_is_asked_for_one_text_and_believed(tmp_path: Path) -> None:
    telling = DecodeTask(CONFIG, 1, 3, 50, llama2c=program(tmp_path / "run", "achieved tok/s: 200.0"))
    contestant = Llama2C(telling, "run")
    assert contestant.tell() == pytest.approx(0.25)
    contestant.close()
    assert "llama2.c" not in [
        one.name for one in available_baselines(DecodeTask(CONFIG, 2, 3, 4, llama2c=tmp_path), alone=False)
    ]


def test_a_program_that_fails_is_told(tmp_path: Path) -> None:
    contestant = Llama2C(DecodeTask(CONFIG, 1, 3, 50, llama2c=program(tmp_path / "run", "malloc failed!", 1)), "run")
    with pytest.raises(FabellaError, match=r"run ended with code 1: malloc failed!\."):
        contestant.tell()
    contestant.close()


def test_its_checkpoints_hold_every_weight(tmp_path: Path) -> None:
    """The layouts of llama2.c's export.py: sizes first, then all weights, then, in floats, the angles."""
    floats, in_bytes = tmp_path / "floats", tmp_path / "bytes"
    write_floats(CONFIG, floats)
    sizes = (128, 384, 1, 4, 4, 300, 288)
    assert struct.unpack("7i", floats.read_bytes()[:28]) == sizes
    numbers = np.frombuffer(floats.read_bytes()[28:], dtype=np.float32)
    angles = 288 * 32
    assert len(numbers) == count(CONFIG.parameters()) + angles
    expected = initial_weights(CONFIG.parameters(), seed=1)["embedding.weight"]
    np.testing.assert_array_equal(numbers[2 * 128 : 300 * 128], expected.ravel()[2 * 128 :])

    write_bytes(CONFIG, in_bytes)
    norms = 3 * 128
    matrices = count(CONFIG.parameters()) - norms
    assert in_bytes.stat().st_size == 256 + 4 * norms + matrices + 4 * matrices // 64


def test_memory_is_read_at_some_speed() -> None:
    assert 1e8 < read_bandwidth("cpu", seconds=0.01) < 1e13
