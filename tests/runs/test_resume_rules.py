"""Tests that a changed setting of a resumed run is refused, allowed with a warning, or allowed, by its rule."""

from typing import Any

import pytest

from fabella.errors import ConfigError
from fabella.models.registry import family_names
from fabella.run_config.files import known_keys, validate_config
from fabella.run_config.run import RunConfig
from fabella.runs.resume_rules import CONFIG_RULES, MANIFEST_RULES, compare_for_resume, compare_manifests, rule_for
from tests.runs import stub

# The family with the most settings.
GPT2 = {"family": "gpt2", "vocab_size": 256, "context_length": 8, "dim": 2, "layers": 1, "heads": 1, "ffn_dim": 2}
VALUES = {**stub.VALUES, "model": GPT2}
RUN = validate_config(VALUES)


def changed(key: str, value: Any) -> RunConfig:
    values = RUN.model_dump(mode="json")
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    section[last] = value
    return validate_config(values)


CHANGES: dict[str, Any] = {
    "name": "another",
    "about.description": "changed",
    "about.published": "changed",
    "seed": 2,
    "engine": "jax",
    "model.vocab_size": 300,
    "model.context_length": 16,
    "model.dim": 4,
    "model.layers": 2,
    "model.heads": 2,
    "model.ffn_dim": 4,
    "model.activation": "gelu_tanh",
    "model.tie_embeddings": False,
    "model.dropout": 0.5,
    "model.init_std": 0.5,
    "model.family": None,
    "tokenizer.kind": None,
    "data.source.kind": None,
    "data.source.stories": 5,
    "data.source.seed": 5,
    "data.validation.kind": None,
    "data.validation.fraction": 0.5,
    "data.mode.kind": None,
    "data.sequences.kind": None,
    "data.sequences.length": 7,
    "data.sequences.stride": 7,
    "data.decode_errors": "skip",
    "data.max_bad_lines": 5,
    "data.duplicates.kind": "exact",
    "data.loss_on": "answers",
    "data.chat_template": "chatml",
    "data.special_tokens_in_text": True,
    "optimizer.kind": None,
    "optimizer.lr": 0.5,
    "optimizer.betas": [0.5, 0.5],
    "optimizer.eps": 0.5,
    "optimizer.weight_decay": 0.5,
    "optimizer.max_grad_norm": 0.5,
    "optimizer.schedule": [{"shape": "linear", "start": 0.0, "end": 1.0, "length": 5}],
    "optimizer.reset_after": [5],
    "optimizer.average.kind": "ema",
    "optimizer.groups.embeddings.lr_factor": 0.5,
    "optimizer.groups.embeddings.decay_factor": 0.5,
    "optimizer.groups.matrices.lr_factor": 0.5,
    "optimizer.groups.matrices.decay_factor": 0.5,
    "optimizer.groups.vectors.lr_factor": 0.5,
    "optimizer.groups.vectors.decay_factor": 0.5,
    "training.length.max_steps": 2000,
    "training.micro_batch_size": 5,
    "training.gradient_accumulation": [[0, 5]],
    "training.precision.kind": None,
    "training.gradient_checkpointing": "blocks",
    "training.compile": "none",
    "training.on_nonfinite.kind": "rollback",
    "training.on_divergence": "stop",
    "training.parallel.kind": "fsdp",
    "training.parallel.timeout_seconds": 5.0,
    "training.freeze": ["embedding.*"],
    "training.deterministic": False,
    "training.log_every_steps": 5,
    "validation.every_steps": 5,
    "validation.every_epochs": 0.5,
    "validation.batch_size": 5,
    "validation.also": ["prepared/other"],
    "validation.num_sequences": 5,
    "validation.early_stopping_patience": 5,
    "checkpoint.every_steps": 5,
    "checkpoint.every_epochs": 0.5,
    "checkpoint.keep_last": 5,
    "checkpoint.keep_every_steps": 5,
    "checkpoint.milestones": [5],
    "checkpoint.on_disk_full": "retry",
    "samples.every_steps": 5,
    "samples.every_epochs": 0.5,
    "samples.prompts": ["Es war einmal"],
    "samples.max_tokens": 5,
    "samples.temperature": 0.5,
    "samples.top_p": 0.5,
    "tracking.tensorboard": True,
    "tracking.wandb.mode": "offline",
    "tracking.wandb.project": "stories",
    "tracking.wandb.entity": "me",
    "tracking.wandb.artifact": False,
    "tracking.histogram_every_steps": 5,
    "tracking.grad_spike_factor": 9.0,
}
# Another kind has other settings.
KINDS: dict[str, Any] = {
    "model.family": {
        "model": {"family": "mingru", "vocab_size": 256, "context_length": 8, "dim": 2, "layers": 1, "ffn_dim": 2}
    },
    "tokenizer.kind": {"tokenizer": {"kind": "bpe"}},
    "data.source.kind": {"data": {**VALUES["data"], "source": {"kind": "hub", "name": "a/b"}}},
    "data.validation.kind": {
        "data": {**VALUES["data"], "validation": {"kind": "source", "source": {"kind": "storybook"}}}
    },
    "data.mode.kind": {"data": {**VALUES["data"], "mode": {"kind": "streaming"}}},
    "data.sequences.kind": {"data": {"sequences": {"kind": "padded", "length": 8}}},
    "training.precision.kind": {"training": {**VALUES["training"], "precision": {"kind": "bf16"}}},
    "optimizer.kind": {"optimizer": {"kind": "adam", "lr": 0.001}},
}


def leaves(value: Any, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [prefix]
    return [leaf for key, item in value.items() for leaf in leaves(item, f"{prefix}.{key}".lstrip("."))]


def test_changes_cover_every_setting() -> None:
    assert set(CHANGES) == set(leaves(RUN.model_dump(mode="json")))
    assert set(KINDS) == {key for key, value in CHANGES.items() if value is None}


@pytest.mark.fault("A20", cases=len(CHANGES))
@pytest.mark.parametrize("key", CHANGES)
def test_each_changed_setting_has_its_verdict(key: str) -> None:
    changed_run = validate_config({**VALUES, **KINDS[key]}) if key in KINDS else changed(key, CHANGES[key])
    verdict = rule_for(key, CONFIG_RULES)
    if verdict == "refuse":
        with pytest.raises(ConfigError, match=f"Cannot resume with other values of .*{key}: .* → .*Resume without"):
            compare_for_resume(RUN, changed_run)
    else:
        verdicts = {difference.key: difference.verdict for difference in compare_for_resume(RUN, changed_run)}
        assert verdicts[key] == verdict
        assert "refuse" not in verdicts.values()


@pytest.mark.parametrize("family", family_names())
def test_every_setting_of_every_family_has_a_rule(family: str) -> None:
    def has_rule(key: str) -> bool:
        parts = key.split(".")
        return any(".".join(parts[: i + 1]) in CONFIG_RULES for i in range(len(parts)))

    sections = {rule.rpartition(".")[0] for rule in CONFIG_RULES}
    assert [key for key in known_keys(family) if not has_rule(key) and key not in sections] == []


def test_every_rule_is_about_an_existing_setting() -> None:
    known = set[str]().union(*(known_keys(family) for family in family_names()))
    assert [rule for rule in CONFIG_RULES if rule not in known] == []


def test_a_setting_without_a_rule_is_refused() -> None:
    assert rule_for("training.something_new", CONFIG_RULES) == "refuse"
    assert rule_for("fingerprints", MANIFEST_RULES) == "refuse"


def test_an_unchanged_config_has_no_differences() -> None:
    assert compare_for_resume(RUN, validate_config(RUN.model_dump(mode="json"))) == []


def test_a_difference_is_reported_with_both_values() -> None:
    (difference,) = compare_for_resume(RUN, changed("optimizer.lr", 0.5))
    assert str(difference) == "optimizer.lr: 0.001 → 0.5"
    with pytest.raises(ConfigError) as caught:
        compare_for_resume(RUN, changed("seed", 2))
    assert str(caught.value) == (
        "Cannot resume with other values of seed: 1 → 2. "
        "Resume without these changes, or start a new run with another --out."
    )


def test_at_most_five_refused_settings_are_listed() -> None:
    changed_run = validate_config({**VALUES, **KINDS["model.family"], "seed": 2})
    with pytest.raises(ConfigError, match=r"; and 2 more\.") as caught:
        compare_for_resume(RUN, changed_run)
    assert str(caught.value).count("→") == 5


STARTED_WITH = {
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
def test_each_changed_entry_of_the_manifest_has_its_verdict(change: dict[str, Any], verdict: str) -> None:
    saved = {**STARTED_WITH, "format": 2, "digest": "…"}
    if verdict == "refuse":
        with pytest.raises(ConfigError, match="Cannot resume"):
            compare_manifests(saved, {**STARTED_WITH, **change})
    else:
        assert [found.verdict for found in compare_manifests(saved, {**STARTED_WITH, **change})] == [verdict]
