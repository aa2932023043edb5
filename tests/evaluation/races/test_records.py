"""Tests of the table of a race: seeds of one recipe are one row, and only valid entries are compared."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from fabella.cli.main import run as command
from fabella.errors import StorageError, UsageError
from fabella.evaluation.races.race import load_race
from fabella.evaluation.races.records import read_receipts, records

RECEIPT: dict[str, Any] = {
    "format": 1, "run": "runs/a", "race": "cpu-20min", "recipe": "hybrid-3m", "minutes": 20.0, "tuned_on": "dev.txt",
    "score": {"loss": 2.0, "bits_per_byte": 0.80, "tokens": 1000, "rule": "line-256", "perplexity": 7.4},
    "changes": {"seed": ["1", "2"], "training.length.max_steps": ["4000", "3700"]}, "seed": 1, "steps": 3700,
    "tokens": 15_000_000, "seconds": 1100.0, "flops": 1e15, "data_fingerprint": "f", "weights_sha256": "1" * 64,
    "hardware": {"processor": "A CPU", "device": "cpu, 2 threads", "fabella": "0.1.0", "code": "c" * 64},
    "config": {"seed": 1, "model": {"dim": 192}, "training": {"length": {"max_steps": 3700}}},
    "clock": {"prepare": 10.0, "measure": 20.0, "train": 1150.0}, "clock_seconds": 1180.0, "in_time": True,
    "measured_step_seconds": 0.3, "scored_weights": "trained", "parameters": 3_000_000, "epochs": 3.5,
    "held_out_bytes": 4_000_000,
    "texts": {"training": "t" * 64, "held_out": "h" * 64}, "artifact": {},
}  # fmt: skip

CPU = load_race("cpu-20min")


def write(folder: Path, name: str, seed: int, bits: float, **changes: Any) -> None:
    receipt: dict[str, Any] = copy.deepcopy(RECEIPT)
    receipt |= {"seed": seed, "weights_sha256": name.ljust(64, "0"), **changes}
    receipt["score"]["bits_per_byte"] = bits
    receipt["config"] = {**receipt["config"], "seed": seed, "training": {"length": {"max_steps": 3000 + seed}}}
    (folder / name).mkdir(parents=True)
    (folder / name / "race.json").write_text(json.dumps(receipt))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for seed, bits in ((1, 0.80), (2, 0.81), (3, 0.82)):
        write(tmp_path, f"a{seed}", seed, bits)
    return tmp_path


def test_three_seeds_are_one_row_with_a_t_interval(runs: Path) -> None:
    (record,) = records(read_receipts([runs], CPU))
    margin = 4.303 * 0.01 / math.sqrt(3)
    assert record.seeds == (1, 2, 3)
    assert record.bits_per_byte.value == pytest.approx(0.81)
    assert record.bits_per_byte.low == pytest.approx(0.81 - margin, abs=1e-4)
    assert record.bits_per_byte.high == pytest.approx(0.81 + margin, abs=1e-4)
    assert (record.clock_seconds, record.tokens, record.processor) == (1180.0, 15_000_000, "A CPU")
    assert record.changes == {}
    assert record.versions == ("0.1.0 cccccccc",)


def test_an_average_that_begins_at_one_share_of_the_run_is_one_recipe(tmp_path: Path) -> None:
    for seed, (start, steps) in enumerate([(700, 1000), (770, 1100), (100, 1000)], 1):
        optimizer = {"average": {"kind": "mean", "start": start}}
        write(tmp_path, f"a{seed}", seed, 0.8, config={"optimizer": optimizer}, steps=steps)
    assert sorted(record.seeds for record in records(read_receipts([tmp_path], CPU))) == [(1, 2), (3,)]


def test_other_settings_processors_and_texts_are_other_rows(runs: Path) -> None:
    write(runs, "lr", 4, 0.70, changes={"optimizer.lr": ["0.003", "0.002"]}, config={"model": {"dim": 128}})
    write(runs, "cpu", 5, 0.75, hardware={**RECEIPT["hardware"], "processor": "Another CPU"})
    write(runs, "text", 6, 0.60, texts={"training": "t" * 64, "held_out": "o" * 64})
    found = records(read_receipts([runs], CPU))
    assert [record.seeds for record in found] == [(4,), (5,), (1, 2, 3), (6,)]
    assert found[0].changes == {"optimizer.lr": "0.002"}
    assert math.isnan(found[0].bits_per_byte.low)


def test_entries_over_the_clock_or_the_size_are_marked_and_come_last(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(runs, "late", 4, 0.50, in_time=False, clock_seconds=1300.0)
    write(runs, "large", 5, 0.60, artifact={"bytes": 1_000_001, "max_bytes": 1_000_000})
    found = records(read_receipts([runs], CPU))
    assert [record.problem for record in found] == ["", "over the clock", "artifact too large"]
    assert command(["race", "cpu-20min", "--records", str(runs)]) == 0
    table = capsys.readouterr().out
    assert table.index("0.8100") < table.index("0.5000") < table.index("0.6000")
    assert "over the clock" in table
    assert "artifact too large" in table


def test_a_copied_entry_counts_once_and_other_races_do_not(runs: Path, tmp_path: Path) -> None:
    write(runs, "copies/a1", 1, 0.80, weights_sha256="a1".ljust(64, "0"))
    write(runs, "other", 9, 0.10, race="megabyte")
    write(runs, "longer", 9, 0.20, minutes=40.0)
    assert len(read_receipts([runs, runs / "a1"], CPU)) == 3


def test_the_table_is_json_as_well(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["race", "cpu-20min", "--records", str(runs / "a1"), str(runs / "a2"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["race"] == "cpu-20min"
    assert values["records"][0]["seeds"] == [1, 2]
    assert values["records"][0]["bits_per_byte"]["value"] == pytest.approx(0.805)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 9}', json.dumps({**RECEIPT, "score": {}})])
def test_a_damaged_receipt_is_named(runs: Path, text: str) -> None:
    (runs / "a2" / "race.json").write_text(text)
    with pytest.raises(StorageError, match=r"race\.json is damaged"):
        read_receipts([runs], CPU)


def test_a_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is not a directory"):
        read_receipts([tmp_path / "nothing"], CPU)


def test_no_receipt_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["race", "cpu-20min", "--records", str(tmp_path)]) == 0
    assert "No receipt" in capsys.readouterr().out
