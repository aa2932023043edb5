"""Reference curves of presets: small files of real runs, so that a curve of one's own can be told normal or not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fabella.report.run_history import X_AXES, RunHistory, settings
from fabella.text import source as sources

FOLDER = "reference_curves"
MOST_POINTS = 200
WHAT_TEXT = ("data.source.", "data.validation.")
WHAT_MATTERS = ("model.", "tokenizer.", "data.", "optimizer.", "training.", "seed")


@dataclass(frozen=True, slots=True)
class Reference:
    """Bits per byte of one real run of a preset; how it was measured, and what it was set to."""

    preset: str
    date: str
    machine: str
    text: str
    settings: Mapping[str, str]
    points: Mapping[str, Sequence[tuple[float, float]]]
    """Against step, tokens, seconds and flops."""

    def matches(self, history: RunHistory) -> bool:
        """Whether a run is of this preset and on this text: on another, bits per byte are others."""
        here = settings(history.run)
        texts = [{k: v for k, v in one.items() if k.startswith(WHAT_TEXT)} for one in (here, self.settings)]
        return history.run.name == self.preset and texts[0] == texts[1]

    def differences(self, history: RunHistory) -> list[str]:
        """The settings that decide what is learned and are others in this run, as ``name: here, not there``."""
        here = settings(history.run)
        every = dict.fromkeys([*here, *self.settings])
        return [
            f"{name}: {here.get(name, '-')}, not {self.settings.get(name, '-')}"
            for name in every
            if name.startswith(WHAT_MATTERS) and here.get(name) != self.settings.get(name)
        ]


def fitting(histories: Sequence[RunHistory]) -> list[Reference]:
    """The shipped curves that belong beside these runs."""
    found = [reference(name) for name in dict.fromkeys(history.run.name for history in histories)]
    return [each for each in found if each and any(each.matches(history) for history in histories)]


def reference(preset: str) -> Reference | None:
    """The curve that is shipped for a preset, if there is one."""
    file = resources.files("fabella.report") / FOLDER / f"{preset}.json"
    if not preset.replace("-", "").isalnum() or not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    points = {key: [(float(x), float(y)) for x, y in found["points"][key]] for key in X_AXES}
    return Reference(found["preset"], found["date"], found["machine"], found["text"], found["settings"], points)


def as_reference(history: RunHistory, date: str) -> dict[str, Any]:
    """What is kept of a run so that it is a reference for its preset."""
    rows = [row for row in history.validation if isinstance(row.get("bits_per_byte"), int | float)]
    rows = rows[:: -(-len(rows) // MOST_POINTS) or 1]
    environment = history.manifest.get("environment", {})
    return {
        "preset": history.run.name,
        "date": date,
        "machine": f"{environment.get('processor', '')}, {environment.get('device', '')}",
        "text": sources.describe(history.run.data.source),
        "settings": {name: value for name, value in settings(history.run).items() if name.startswith(WHAT_MATTERS)},
        "points": {
            key: [[float(f"{row[key]:.6g}"), float(f"{row['bits_per_byte']:.5g}")] for row in rows] for key in X_AXES
        },
    }
