"""Keep the receipts of reproductions and races, and write their tables to the docs.

    python benchmarks/receipts.py                         write docs/reference-systems.md and docs/races.md again
    python benchmarks/receipts.py runs/piny-37m RUN …     keep the receipts of these runs first

A run of `fabella reproduce` has `reproduction.json`, an entry of `fabella race` has `race.json`. They are kept under
`results/reproductions/` and `results/races/`. The command of a row is in its receipt: `steps`, `seed` and `changes`.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from fabella.cli.race import record_lines
from fabella.evaluation import reproduction
from fabella.evaluation.races import race_receipt
from fabella.evaluation.races.race import load_race, race_names
from fabella.evaluation.races.records import read_receipts, records
from fabella.storage import format_duration

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
REPRODUCTIONS, RACES = RESULTS / "reproductions", RESULTS / "races"
STATED = ("data.source.", "data.validation.", "training.length.")
"""Settings that the page and the other columns state."""
START, END = "<!-- table: python benchmarks/receipts.py -->\n", "<!-- end of table -->"


def keep(run: Path) -> Path:
    """Copy the receipt of a run to the results; return its new path."""
    for name, folder in ((reproduction.RECEIPT, REPRODUCTIONS), (race_receipt.RECEIPT, RACES)):
        if (run / name).is_file():
            receipt = json.loads((run / name).read_text(encoding="utf-8"))
            target = folder / f"{receipt.get('race') or receipt['preset']}-seed-{receipt['seed']}" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(receipt, indent=1) + "\n", encoding="utf-8")
            return target
    raise SystemExit(f"{run} has no receipt: train it to its end with `fabella reproduce` or `fabella race`.")


def reproductions() -> str:
    """Return the table of all kept reproductions: published, obtained, and what was changed."""
    receipts = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(REPRODUCTIONS.glob("*/*.json"))]
    head = ("preset", "published", "obtained", "rule", "compute", "machine", "changed")
    return markdown(head, map(reproduction_row, receipts))


def reproduction_row(receipt: Mapping[str, Any]) -> tuple[str, ...]:
    score, hardware = receipt["score"], receipt["hardware"]
    bytes_per_token = score["loss"] / score["bits_per_byte"] / math.log(2)
    obtained = f"loss {score['loss']:.3f}, {score['bits_per_byte']:.3f} bits per byte"
    changed = (f"`{key}`: {before} → {after}" for key, (before, after) in main_changes(receipt).items())
    return (
        f"`{receipt['preset']}`",
        receipt["published"],
        obtained,
        f"{score['rule']}, {bytes_per_token:.2f} bytes per token",
        f"{receipt['steps']:,} steps, {receipt['tokens']:,} tokens, {format_duration(receipt['seconds'])}",
        f"{hardware['processor']}, {hardware['device']}",
        "; ".join(changed),
    )


def main_changes(receipt: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the changed settings of a reproduction, without STATED."""
    names = [field.name for field in fields(reproduction.Reproduction)]
    changes = reproduction.Reproduction(**{name: receipt[name] for name in names}).main_changes
    return {key: values for key, values in changes.items() if not key.startswith(STATED)}


def races() -> str:
    """Return the records of each race that has entries, as `fabella race NAME --records` prints them."""
    parts: list[str] = []
    for name in race_names():
        race = load_race(name)
        if found := records(read_receipts([RACES], race)):
            parts.append("\n".join(["```text", *(line.rstrip() for line in record_lines(race, found)), "```"]))
    return "\n\n".join(parts)


def markdown(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])


TABLES = {"docs/reference-systems.md": reproductions, "docs/races.md": races}


def with_table(page: str, table: str) -> str:
    """Return a page with its table replaced."""
    before, rest = page.split(START)
    return f"{before}{START}\n{table}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    for run in sys.argv[1:]:
        print(keep(Path(run)))
    for name, table in TABLES.items():
        path = ROOT / name
        path.write_text(with_table(path.read_text(encoding="utf-8"), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
