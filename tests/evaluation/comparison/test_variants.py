"""Tests of how runs are grouped into variants and named."""

from pathlib import Path

from fabella.evaluation.comparison.variants import group_by_variant
from tests.generation.tiny_run import MINGRU, run


def seeded(seed: int, name: str = "any") -> tuple[Path, object, bool]:
    return Path(name), run().model_copy(update={"seed": seed, "name": name}), False


def names(*runs: tuple[Path, object, bool]) -> list[tuple[str, list[str]]]:
    return [(variant.name, list(variant.runs.values())) for variant in group_by_variant(runs)]  # pyright: ignore[reportArgumentType]


def test_equal_settings_are_one_variant_and_equal_seeds_are_not() -> None:
    assert names(seeded(1, "a-1"), seeded(2, "a-2")) == [("a", ["a-1", "a-2"])]
    assert names(seeded(1, "a"), seeded(1, "b")) == [("a", ["a"]), ("b", ["b"])]
    other = (Path("c"), run(MINGRU).model_copy(update={"seed": 2}), False)
    assert names(seeded(1, "a"), other) == [("a", ["a"]), ("c", ["c"])]


def test_an_imported_model_is_a_variant_of_its_own() -> None:
    imported = (Path("model"), run().model_copy(update={"seed": 2}), True)
    assert names(seeded(1, "a"), imported) == [("a", ["a"]), ("model", ["model"])]


def test_names_are_unique_and_short() -> None:
    assert names(seeded(1, "m/a/seed-1"), seeded(2, "m/a/seed-2"), seeded(1, "m/b/seed-1")) == [
        ("a", ["a/seed-1", "a/seed-2"]),
        ("b/seed-1", ["b/seed-1"]),
    ]
    assert names(seeded(1, "m/a"), seeded(1, "m/a")) == [("a", ["a"]), ("a (2)", ["a (2)"])]
