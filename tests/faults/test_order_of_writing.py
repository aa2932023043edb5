"""Tests the order of fsync, rename and unlink, which decides what survives a power cut. Each call is recorded.

Row A18 of the fault matrix. (SIGKILL cannot test it: the kernel still writes the pages of a killed process.)
"""

import re
from pathlib import Path

import pytest

from fabella.runs.checkpoint import save
from fabella.runs.run_dir import RunDir
from fabella.storage import atomic_dir, atomic_write
from tests.faults.injection import no_action, watch_disk_calls
from tests.runs import stub

RECORDED_CALLS = {"fsync", "rename", "replace", "mkdir", "unlink", "rmdir"}


def readable_name(name: str) -> str:
    return re.sub(r"^\.(.+)\.(partial|replaced)-[0-9a-f]{12}$", r"\1 temp", name)


def calls_in_order(calls: list[tuple[str, str]]) -> list[str]:
    return [f"{function} {readable_name(name)}" for function, name in calls if function in RECORDED_CALLS]


SAVED = [
    "mkdir step-00000020 temp",
    "unlink manifest.json",  # of the caller, replaced by the manifest of the checkpoint
    "fsync model.safetensors",
    "fsync optimizer.safetensors",
    "fsync state.json",
    "fsync manifest.json",
    "fsync step-00000020 temp",
    "rename step-00000020 temp",
    "fsync checkpoints",
    "fsync latest temp",
    "replace latest temp",
    "fsync run",
]
PRUNED = [
    "rename step-00000010",
    "fsync checkpoints",
    "unlink model.safetensors",
    "unlink optimizer.safetensors",
    "unlink state.json",
    "unlink manifest.json",
    "rmdir step-00000010 temp",
]


@pytest.mark.fault("A18", cases=1)
def test_a_checkpoint_is_durable_before_the_pointer_and_the_pointer_before_pruning(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path / "run", [10], run=stub.keeping(1))
    with watch_disk_calls(no_action) as recorded:
        save(folder, 20, stub.checkpoint(20))
    order = calls_in_order(recorded.calls)
    assert order[: len(SAVED)] == SAVED
    assert order[len(SAVED)] == PRUNED[0]
    assert sorted(order[len(SAVED) :]) == sorted(PRUNED)
    assert order[-1] == PRUNED[-1]


def test_nothing_is_written_to_a_file_after_its_fsync(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path / "run", [10])
    with watch_disk_calls(no_action) as watched:
        save(folder, 20, stub.checkpoint(20))
    for name in {name for function, name in watched.calls if function == "write"} - {"manifest.json"}:
        functions = [function for function, other in watched.calls if other == name]
        last_write = len(functions) - functions[::-1].index("write")
        assert "fsync" in functions[last_write:], f"{name} is not synced after its last write"
        assert functions.index("fsync") >= last_write, f"{name} is written after its fsync"


def test_a_checkpoint_that_is_replaced_stays_until_the_new_one_is_durable(tmp_path: Path) -> None:
    folder = stub.folder(tmp_path / "run", [10])
    with watch_disk_calls(no_action) as watched:
        save(folder, 10, stub.checkpoint(11))
    order = calls_in_order(watched.calls)
    begin = order.index("rename step-00000010")
    assert order[begin : begin + 3] == ["rename step-00000010", "rename step-00000010 temp", "fsync checkpoints"]
    assert "unlink model.safetensors" in order[begin + 3 :]
    assert "unlink model.safetensors" not in order[:begin]


def test_a_file_is_synced_renamed_and_its_folder_synced(tmp_path: Path) -> None:
    with watch_disk_calls(no_action) as watched:
        atomic_write(tmp_path / "best", b"step-00000010\n")
    assert calls_in_order(watched.calls) == ["fsync best temp", "replace best temp", f"fsync {tmp_path.name}"]


def test_new_folders_are_durable_in_those_above_them(tmp_path: Path) -> None:
    with watch_disk_calls(no_action) as watched, atomic_dir(tmp_path / "a" / "b" / "prepared") as temp:
        (temp / "train").mkdir()
        (temp / "train" / "shard").write_bytes(b"ids")
    assert calls_in_order(watched.calls) == [
        "mkdir a",
        f"fsync {tmp_path.name}",
        "mkdir b",
        "fsync a",
        "mkdir prepared temp",
        "mkdir train",
        "fsync shard",
        "fsync train",
        "fsync manifest.json",
        "fsync prepared temp",
        "rename prepared temp",
        "fsync b",
    ]


def test_a_run_is_a_run_only_when_its_config_is_there(tmp_path: Path) -> None:
    with watch_disk_calls(no_action) as watched:
        RunDir.create(tmp_path / "run", stub.RUN, stub.MANIFEST)
    assert [line for line in calls_in_order(watched.calls) if line.startswith("replace")] == [
        "replace manifest.json temp",
        "replace config.yaml temp",
    ]
