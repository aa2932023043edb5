"""Published curves of presets: bits per byte of real runs, shipped as JSON, to compare a new run with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fabella.report.run_history import X_AXES, RunHistory, settings
from fabella.text import source as sources

DIRECTORY = "reference_curves"
MAX_POINTS = 200
TEXT_KEYS = ("data.source.", "data.validation.")
"""Prefixes of the settings that decide which text a run is trained on."""
TRAINING_KEYS = ("model.", "tokenizer.", "data.", "optimizer.", "training.", "seed")
"""Prefixes of the settings that decide the result of a run."""


@dataclass(frozen=True, slots=True)
class PublishedCurve:
    """Bits per byte of one real run of a preset, with its settings and its machine."""

    preset: str
    date: str
    machine: str
    text: str
    settings: Mapping[str, str]
    points: Mapping[str, Sequence[tuple[float, float]]]
    """One list of points per x-axis: step, tokens, seconds, flops."""

    def matches(self, history: RunHistory) -> bool:
        """Return whether a run has this preset and this text; bits per byte of another text are not comparable."""
        own = settings(history.run)
        texts = [{k: v for k, v in values.items() if k.startswith(TEXT_KEYS)} for values in (own, self.settings)]
        return history.run.name == self.preset and texts[0] == texts[1]

    def differences(self, history: RunHistory) -> list[str]:
        """Return the settings that decide the result and differ in this run, as ``name: own, not published``."""
        own = settings(history.run)
        keys = dict.fromkeys([*own, *self.settings])
        return [
            f"{name}: {own.get(name, '-')}, not {self.settings.get(name, '-')}"
            for name in keys
            if name.startswith(TRAINING_KEYS) and own.get(name) != self.settings.get(name)
        ]


def matching_curves(histories: Sequence[RunHistory]) -> list[PublishedCurve]:
    """Return the published curves that match at least one of these runs."""
    curves = [published_curve(name) for name in dict.fromkeys(history.run.name for history in histories)]
    return [curve for curve in curves if curve and any(curve.matches(history) for history in histories)]


def published_curve(preset: str) -> PublishedCurve | None:
    """Return the published curve of a preset; None if there is none."""
    file = resources.files("fabella.report") / DIRECTORY / f"{preset}.json"
    if not preset.replace("-", "").isalnum() or not file.is_file():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    points = {key: [(float(x), float(y)) for x, y in values["points"][key]] for key in X_AXES}
    return PublishedCurve(
        values["preset"], values["date"], values["machine"], values["text"], values["settings"], points
    )


def to_published_curve(history: RunHistory, date: str) -> dict[str, Any]:
    """Return the JSON object that publishes a run as the curve of its preset, with at most 200 points."""
    rows = [row for row in history.validation if isinstance(row.get("bits_per_byte"), int | float)]
    rows = rows[:: -(-len(rows) // MAX_POINTS) or 1]
    environment = history.manifest.get("environment", {})
    return {
        "preset": history.run.name,
        "date": date,
        "machine": f"{environment.get('processor', '')}, {environment.get('device', '')}",
        "text": sources.describe(history.run.data.source),
        "settings": {name: value for name, value in settings(history.run).items() if name.startswith(TRAINING_KEYS)},
        "points": {
            key: [[float(f"{row[key]:.6g}"), float(f"{row['bits_per_byte']:.5g}")] for row in rows] for key in X_AXES
        },
    }
