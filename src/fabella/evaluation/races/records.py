"""Table of the entries of a race: the receipts of several seeds of one recipe become one row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fabella.errors import StorageError, UsageError
from fabella.evaluation.confidence import ConfidenceInterval, mean
from fabella.evaluation.races.race import Race
from fabella.evaluation.races.race_receipt import OF_EVERY_ENTRY, RECEIPT, RaceReceipt, chosen_changes, problem_of
from fabella.runs.resume_rules import flatten_settings
from fabella.storage import storage_errors
from fabella.storage.messages import escaped_path

AVERAGE_START = "optimizer.average.start"


@dataclass(frozen=True, slots=True, kw_only=True)
class RaceRecord:
    """Entries with one recipe on one kind of processor, with different seeds. Times and counts are means."""

    recipe: str
    changes: Mapping[str, str]
    """Setting → its value, where it differs from the recipe"""
    seeds: tuple[int, ...]
    bits_per_byte: ConfidenceInterval
    """Mean over the seeds with its 95 % t interval; NaN bounds for one seed"""
    problem: str
    """Why the entries are not valid, empty for valid ones"""
    clock_seconds: float
    parameters: int
    tokens: int
    epochs: float
    processor: str
    device: str
    versions: tuple[str, ...]
    """Version of Fabella with the beginning of the sha256 of its code"""
    tuned_on: str
    held_out: str
    """sha256 of the held-out text; only scores on one text can be compared"""
    held_out_bytes: int
    artifact_bytes: int
    """Bytes of the largest artifact; 0 without one"""

    def as_json(self) -> dict[str, Any]:
        """Return the values for ``--json``."""
        return asdict(self)


def read_receipts(directories: Iterable[Path], race: Race) -> list[dict[str, Any]]:
    """Return the receipts of a race in directories, at any depth. An entry that was copied counts once.

    A race of the same name with another clock or another rule is another race.

    Raises UsageError for a directory that does not exist, StorageError for a damaged receipt.
    """
    receipts: dict[str, dict[str, Any]] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UsageError(f"{escaped_path(directory)} is not a directory.", hint="Give a directory of runs.")
        for path in sorted(directory.rglob(RECEIPT)):
            receipt = _read(path)
            rules = (receipt["race"], receipt["minutes"], receipt["score"]["rule"])
            if rules == (race.name, race.minutes, race.rule):
                receipts.setdefault(receipt["weights_sha256"], receipt)
    return list(receipts.values())


def records(receipts: Iterable[Mapping[str, Any]]) -> list[RaceRecord]:
    """Return one record per recipe, held-out text and processor: valid ones first, then by bits per byte."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for receipt in receipts:
        groups.setdefault(_key(receipt), []).append(receipt)
    found = [_record(group) for group in groups.values()]
    return sorted(found, key=lambda record: (record.held_out, bool(record.problem), record.bits_per_byte.value))


def _read(path: Path) -> dict[str, Any]:
    with storage_errors(path, f"reading {RECEIPT}"):
        text = path.read_text(encoding="utf-8", errors="replace")
    try:
        receipt = json.loads(text)
        if receipt["format"] != RaceReceipt.FORMAT:
            raise ValueError
        _record([receipt])
        _ = _key(receipt), receipt["race"], receipt["minutes"], receipt["score"]["rule"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise StorageError(
            f"{escaped_path(path)} is damaged, or of another version of Fabella.", hint="Remove it, or enter again."
        ) from None
    return receipt


def _key(receipt: Mapping[str, Any]) -> str:
    """Return what the entries of one row have in common."""
    config = {
        key: value for key, value in flatten_settings(receipt["config"]).items() if not key.startswith(OF_EVERY_ENTRY)
    }
    if isinstance(start := config.get(AVERAGE_START), int):
        config[AVERAGE_START] = f"{start / receipt['steps']:.0%}"  # saved in steps, whose number differs
    hardware = receipt["hardware"]
    common = [receipt["recipe"], receipt["texts"]["held_out"], receipt["texts"]["training"], problem_of(receipt)]
    return json.dumps([*common, hardware["processor"], hardware["device"], config], sort_keys=True)


def _record(receipts: Sequence[Mapping[str, Any]]) -> RaceRecord:
    first = receipts[0]

    def average(key: str) -> float:
        return sum(float(receipt[key]) for receipt in receipts) / len(receipts)

    versions = {f"{item['hardware']['fabella']} {item['hardware']['code'][:8]}" for item in receipts}
    return RaceRecord(
        recipe=str(first["recipe"]),
        changes={key: after for key, (_, after) in chosen_changes(first["changes"]).items()},
        seeds=tuple(sorted(int(receipt["seed"]) for receipt in receipts)),
        bits_per_byte=mean([float(receipt["score"]["bits_per_byte"]) for receipt in receipts]),
        problem=problem_of(first),
        clock_seconds=average("clock_seconds"),
        parameters=int(first["parameters"]),
        tokens=round(average("tokens")),
        epochs=average("epochs"),
        processor=str(first["hardware"]["processor"]),
        device=str(first["hardware"]["device"]),
        versions=tuple(sorted(versions)),
        tuned_on=str(first["tuned_on"]),
        held_out=str(first["texts"]["held_out"]),
        held_out_bytes=int(first["held_out_bytes"]),
        artifact_bytes=max(int(receipt["artifact"].get("bytes", 0)) for receipt in receipts),
    )
