"""Telling is measured in turns, and told by its medians and by what memory could give."""

import pytest

from fabella.benchmark.decoding import Conditions, bench, bytes_a_step
from fabella.benchmark.peers import decoders_torch
from fabella.models.parameters import count
from fabella.run_config.files import preset


def test_a_shape_is_measured_for_every_number_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_torch, "read_bandwidth", lambda device: 1e9)
    heard: list[str] = []
    given = Conditions(turns=2, batches=(1, 3), tokens=5, device="cpu", alone=True)
    result = bench(["storybook-1m"], given, lambda name, measured: heard.append(name))
    assert heard == ["storybook-1m (1 at once)", "storybook-1m (3 at once)"]
    assert result["settings"]["told_tokens"] == 5
    assert result["settings"]["turns"] == 2
    told = result["shapes"]["storybook-1m"]["3"]
    ours = told["contestants"]["fabella"]
    assert ours["fabella_by_this"] == 1.0
    assert ours["bandwidth_share"] == pytest.approx(told["weight_bytes"] * ours["tokens_per_second"] / 3 / 1e9)


def test_the_jax_engine_tells_beside_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders_torch, "read_bandwidth", lambda device: 1e9)
    given = Conditions(turns=1, batches=(2,), tokens=3, device="cpu", alone=True, engine="jax")
    told = bench(["storybook-1m"], given)["shapes"]["storybook-1m"]["2"]["contestants"]
    assert list(told)[:2] == ["fabella", "fabella on jax"]
    assert told["fabella on jax"]["tokens_per_second"] > 0


def test_a_step_reads_all_weights_but_the_rows_of_embeddings() -> None:
    tied = preset("storybook-1m").model
    assert bytes_a_step(tied) == 4 * count(tied.parameters())
    mingru = preset("mingru-17m").model
    assert bytes_a_step(mingru) == 4 * (15_750_144 + 256 * 512)
