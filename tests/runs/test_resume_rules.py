"""What may change when a run goes on: every setting is refused, warned of or allowed."""

from typing import Any

import pytest

from fabella.errors import ConfigError
from fabella.models.registry import families
from fabella.run_config.files import known_keys, run_from
from fabella.run_config.run import Run
from fabella.runs.resume_rules import CONFIG_RULES, MANIFEST_RULES, compare_for_resume, compare_manifests, verdict_on
from tests.runs import stub

# The family with the most settings.
GPT2 = {"family": "gpt2", "vocabulary": 256, "context": 8, "dim": 2, "layers": 1, "heads": 1, "hidden": 2}
VALUES = {**stub.VALUES, "model": GPT2}
RUN = run_from(VALUES)


def changed(key: str, value: Any) -> Run:
    values = RUN.model_dump(mode="json")
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    section[last] = value
    return run_from(values)


CHANGES: dict[str, Any] = {
    "name": "another",
    "about.description": "changed",
    "about.published": "changed",
    "seed": 2,
    "engine": "jax",
    "model.vocabulary": 300,
    "model.context": 16,
    "model.dim": 4,
    "model.layers": 2,
    "model.heads": 2,
    "model.hidden": 4,
    "model.activation": "gelu_tanh",
    "model.tied": False,
    "model.dropout": 0.5,
    "model.init_std": 0.5,
    "model.family": None,
    "tokenizer.kind": None,
    "data.source.kind": None,
    "data.source.stories": 5,
    "data.source.seed": 5,
    "data.validation.kind": None,
    "data.validation.fraction": 0.5,
    "data.reading.kind": None,
    "data.windows.kind": None,
    "data.windows.length": 7,
    "data.windows.stride": 7,
    "data.invalid_text": "skip",
    "data.max_bad_lines": 5,
    "optimizer.kind": None,
    "optimizer.lr": 0.5,
    "optimizer.betas": [0.5, 0.5],
    "optimizer.eps": 0.5,
    "optimizer.weight_decay": 0.5,
    "optimizer.clip": 0.5,
    "optimizer.schedule": [{"shape": "linear", "start": 0.0, "end": 1.0, "length": 5}],
    "optimizer.groups.embeddings.lr_factor": 0.5,
    "optimizer.groups.embeddings.decay_factor": 0.5,
    "optimizer.groups.matrices.lr_factor": 0.5,
    "optimizer.groups.matrices.decay_factor": 0.5,
    "optimizer.groups.vectors.lr_factor": 0.5,
    "optimizer.groups.vectors.decay_factor": 0.5,
    "training.length.steps": 2000,
    "training.micro_batch": 5,
    "training.accumulation": [[0, 5]],
    "training.precision.kind": None,
    "training.precision.tf32": True,
    "training.recompute": "blocks",
    "training.compile": "none",
    "training.nonfinite.kind": "rewind",
    "training.parallel.kind": "fsdp",
    "training.parallel.timeout_seconds": 5.0,
    "training.log_every": 5,
    "validation.every": 5,
    "validation.windows": 5,
    "validation.patience": 5,
    "checkpoint.every": 5,
    "checkpoint.keep": 5,
    "checkpoint.when_full": "retry",
    "samples.every": 5,
    "samples.prompts": ["Es war einmal"],
    "samples.tokens": 5,
    "samples.temperature": 0.5,
    "samples.top_p": 0.5,
    "telemetry.tensorboard": True,
    "telemetry.wandb.mode": "offline",
    "telemetry.wandb.project": "stories",
    "telemetry.wandb.entity": "me",
    "telemetry.wandb.artifact": False,
    "telemetry.histograms_every": 5,
    "telemetry.spike_factor": 9.0,
}
# Another kind brings other settings with it.
KINDS: dict[str, Any] = {
    "model.family": {
        "model": {"family": "mingru", "vocabulary": 256, "context": 8, "dim": 2, "layers": 1, "hidden": 2}
    },
    "tokenizer.kind": {"tokenizer": {"kind": "bpe"}},
    "data.source.kind": {"data": {**VALUES["data"], "source": {"kind": "hub", "name": "a/b"}}},
    "data.validation.kind": {
        "data": {**VALUES["data"], "validation": {"kind": "given", "source": {"kind": "storybook"}}}
    },
    "data.reading.kind": {"data": {**VALUES["data"], "reading": {"kind": "streamed"}}},
    "data.windows.kind": {"data": {"windows": {"kind": "documents", "length": 8}}},
    "training.precision.kind": {"training": {**VALUES["training"], "precision": {"kind": "bf16"}}},
    "optimizer.kind": {"optimizer": {"kind": "adam", "lr": 0.001}},
}


def leaves(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [prefix]
    return [leaf for key, item in value.items() for leaf in leaves(item, f"{prefix}.{key}".lstrip("."))]


def test_the_changes_below_are_all_settings_that_there_are() -> None:
    assert set(CHANGES) == set(leaves(RUN.model_dump(mode="json")))
    assert set(KINDS) == {key for key, value in CHANGES.items() if value is None}


@pytest.mark.fault("A20", cases=len(CHANGES))
@pytest.mark.parametrize("key", CHANGES)
def test_each_changed_setting_meets_its_verdict(key: str) -> None:
    asked = run_from({**VALUES, **KINDS[key]}) if key in KINDS else changed(key, CHANGES[key])
    verdict = verdict_on(key, CONFIG_RULES)
    if verdict == "refuse":
        with pytest.raises(ConfigError, match=f"cannot go on with other values of .*{key}: .* → .*Resume without"):
            compare_for_resume(RUN, asked)
    else:
        found = {difference.key: difference.verdict for difference in compare_for_resume(RUN, asked)}
        assert found[key] == verdict
        assert "refuse" not in found.values()


@pytest.mark.parametrize("family", families())
def test_every_setting_of_every_family_has_a_rule(family: str) -> None:
    def has_rule(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[: i + 1]) in CONFIG_RULES for i in range(len(parts)))

    sections = {rule.rpartition(".")[0] for rule in CONFIG_RULES}
    assert [key for key in known_keys(family) if not has_rule(key) and key not in sections] == []


def test_every_rule_is_about_a_setting_that_there_is() -> None:
    known = set[str]().union(*(known_keys(family) for family in families()))
    assert [rule for rule in CONFIG_RULES if rule not in known] == []


def test_what_nobody_has_thought_of_is_refused() -> None:
    assert verdict_on("training.something_new", CONFIG_RULES) == "refuse"
    assert verdict_on("fingerprints", MANIFEST_RULES) == "refuse"


def test_the_same_run_goes_on_without_a_word() -> None:
    assert compare_for_resume(RUN, run_from(RUN.model_dump(mode="json"))) == []


def test_a_difference_is_told_with_both_values() -> None:
    (difference,) = compare_for_resume(RUN, changed("optimizer.lr", 0.5))
    assert str(difference) == "optimizer.lr: 0.001 → 0.5"
    with pytest.raises(ConfigError) as caught:
        compare_for_resume(RUN, changed("seed", 2))
    assert str(caught.value) == (
        "A run cannot go on with other values of seed: 1 → 2. "
        "Resume without them, or begin a new run with another --out."
    )


def test_no_more_than_five_refusals_are_told() -> None:
    asked = run_from({**VALUES, **KINDS["model.family"], "seed": 2})
    with pytest.raises(ConfigError, match=r"; and 2 more\.") as caught:
        compare_for_resume(RUN, asked)
    assert str(caught.value).count("→") == 5


MADE_WITH = {
    "environment": {"torch": "2.13.0", "code": "abc", "memory_bytes": 1},
    "data": {"fingerprint": "d1", "folder": "../prepared"},
    "tokenizer": "t1",
}


@pytest.mark.fault("A20", cases=6)
@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"data": {"fingerprint": "d2", "folder": "../prepared"}}, "refuse"),
        ({"data": {"fingerprint": "d1", "folder": "../moved"}}, "allow"),
        ({"tokenizer": "t2"}, "refuse"),
        ({"environment": {"torch": "2.14.0", "code": "abc", "memory_bytes": 1}}, "warn"),
        ({"environment": {"torch": "2.13.0", "code": "def", "memory_bytes": 1}}, "warn"),
        ({"environment": {"torch": "2.13.0", "code": "abc", "memory_bytes": 2}}, "allow"),
    ],
)
def test_what_a_run_was_made_with_has_a_verdict_too(change: dict[str, Any], verdict: str) -> None:
    saved = {**MADE_WITH, "format": 1, "digest": "…"}
    if verdict == "refuse":
        with pytest.raises(ConfigError, match="cannot go on"):
            compare_manifests(saved, {**MADE_WITH, **change})
    else:
        assert [found.verdict for found in compare_manifests(saved, {**MADE_WITH, **change})] == [verdict]
