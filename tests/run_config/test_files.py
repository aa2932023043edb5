"""Tests that presets, YAML files and overrides give a valid config, or an error with the nearest valid choice."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabella.config.data import BPE, Bytes, FilesSource, MixtureSource
from fabella.config.training import Epochs, MaxSteps
from fabella.errors import ConfigError
from fabella.optim import adam
from fabella.run_config.files import (
    apply_overrides,
    known_keys,
    load_config,
    parse_yaml,
    preset,
    preset_names,
    preset_text,
    to_yaml,
    validate_config,
    value_of,
)


@pytest.mark.parametrize("name", preset_names())
def test_a_config_round_trips_through_yaml(name: str) -> None:
    assert validate_config(parse_yaml(to_yaml(preset(name)), where="test")) == preset(name)


MISTAKES = {
    "optimizer.lrr=1": "Unknown setting 'optimizer.lrr'. Did you mean 'optimizer.lr'?",
    "data.sequences.stride=9": "data.sequences.stride is a setting of data.sequences.kind=packed only. "
    "Remove it, or set that kind as well.",
    "lr=1e-3": "Unknown setting 'lr'. Did you mean 'optimizer.lr'?",
    "model.layrs=3": "Unknown setting 'model.layrs'. Did you mean 'model.layers'?",
    "optimizer.lr=abc": "optimizer.lr = 'abc': input should be a valid number.",
    "optimizer.lr=.nan": "optimizer.lr = nan: input should be a finite number.",
    "model.heads=5": "model: dim = 128 is not a multiple of heads = 5; try heads = 4.",
    "seed=x": "seed = 'x': input should be a valid integer.",
    "model.dim=-1": "model.dim = -1: input should be greater than or equal to 1.",
    "data.sequences.length=4096": "data.sequences.length = 4096 is longer than model.context_length = 288; "
    "lower it, or raise model.context_length.",
    "foo": "Cannot parse override 'foo'. Write section.key=value, as in optimizer.lr=3e-4.",
    "=3": "Cannot parse override '=3'. Write section.key=value, as in optimizer.lr=3e-4.",
    "name=[": "Cannot parse the value of 'name=[' as YAML. Quote it: 'section.key=\"text\"'.",
    "model.family=lama": "Unknown model.family 'lama'. Did you mean 'llama'?",
    "model=lama": "Unknown model.family 'lama'. Did you mean 'llama'?",
    "learning_rate=1e-3": "Unknown setting 'learning_rate'. Did you mean 'optimizer.lr'?",
    "training.warmup_steps=9": "Unknown setting 'training.warmup_steps'. Did you mean 'optimizer.schedule'?",
    "training.precision=bf17": "Unknown training.precision.kind 'bf17'. Did you mean 'bf16'?",
    "optimizer=adamv": "Unknown optimizer.kind 'adamv'. Did you mean 'adam'?",
    "training.length=300": "training.length = 300: training.length is a section; its settings are "
    "training.length.epochs, training.length.max_steps, training.length.max_tokens.",
    "optimizer.schedule=[{shape: cosine, start: 1, ends: 0, length: 5}]": "optimizer.schedule.end is missing. "
    "Unknown setting 'optimizer.schedule.ends'. Did you mean 'optimizer.schedule.end'?",
    "training.precision=16": "training.precision = 16: training.precision is a section; set training.precision.kind "
    "to one of auto, float32, bf16, fp16.",
}


@pytest.mark.parametrize(("override", "message"), MISTAKES.items())
def test_a_wrong_override_is_named_with_a_hint(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("storybook-1m", [override])
    assert str(caught.value) == message


KINDS = {
    "training.precision": ("auto", "float32", "bf16", "fp16"),
    "training.parallel": ("ddp", "fsdp"),
    "training.on_nonfinite": ("stop", "skip", "rollback"),
    "optimizer": ("adam", "adamw", "muon"),
    "tokenizer": ("bytes", "bpe", "sentencepiece"),
    "data.mode": ("pretokenized", "streaming"),
    "data.sequences": ("packed", "padded"),
}


@pytest.mark.parametrize(("section", "kind"), [(key, kind) for key, kinds in KINDS.items() for kind in kinds])
def test_one_word_sets_the_kind_of_a_section(section: str, kind: str) -> None:
    values = preset("storybook-1m").model_dump(mode="json")
    assert apply_overrides(values, [f"{section}={kind}"]) == apply_overrides(values, [f"{section}.kind={kind}"])


def problem_of(override: str) -> str:
    """Return the message of a refused override; empty if it is taken."""
    try:
        load_config("storybook-1m", [override])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", sorted(known_keys("llama")))
def test_one_word_for_any_setting_is_taken_or_answered_in_words_of_the_config(key: str) -> None:
    """For a list, the message shows one that is taken, or that leads to an error about its items."""
    message = problem_of(f"{key}=word")
    assert "tuple" not in message
    assert "dictionary" not in message
    if "it is a list" in message:
        assert "it is a list" not in problem_of(message.partition("write '")[2].rpartition("'")[0])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.schedule=cosine", "'optimizer.schedule=[{shape: cosine, start: 1.0, end: 0.1, length: 100%}]'"),
        ("training.gradient_accumulation=4", "'training.gradient_accumulation=[[0, 1]]'"),
        ("training.freeze=embedding.*", "'training.freeze=[embedding.*]'"),
        ("optimizer.betas=0.9", "'optimizer.betas=[0.9, 0.999]'"),
        ("samples.prompts=Once", "'samples.prompts=[Once]'"),
    ],
)
def test_a_value_in_place_of_a_list_is_answered_with_a_list(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("storybook-1m", [override])
    assert str(caught.value).endswith(f"it is a list; write {message}.")


def test_a_wrong_value_in_one_of_several_alternatives_is_the_only_problem() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("storybook-1m", ["training.length.max_steps=1k"])
    assert str(caught.value) == "training.length.max_steps = '1k': input should be a valid integer."


def test_one_word_sets_the_family_of_the_model() -> None:
    values = preset("storybook-1m").model_dump(mode="json")
    assert apply_overrides(values, ["model=gpt2"]) == apply_overrides(values, ["model.family=gpt2"])


@pytest.mark.parametrize("text", ["jax", "'jax'", '"jax"', " jax"])
def test_the_value_of_a_setting_is_read_as_when_it_is_applied(text: str) -> None:
    overrides = ["engine=torch", f"engine={text}", "seed=3"]
    assert value_of("engine", overrides) == apply_overrides({}, overrides)["engine"] == "jax"
    assert value_of("name", overrides) is None


def test_numbers_may_be_written_with_an_exponent() -> None:
    assert load_config("storybook-1m", ["optimizer.lr=3e-4"]).optimizer.lr == 3e-4
    assert load_config("storybook-1m", ["optimizer.lr=1E-3"]).optimizer.lr == 1e-3


def test_a_new_kind_keeps_the_common_settings() -> None:
    run = load_config("storybook-1m", ["optimizer.kind=adam"])
    assert isinstance(run.optimizer, adam.Config)
    assert run.optimizer.lr == preset("storybook-1m").optimizer.lr
    assert load_config("piny-37m", ["tokenizer.kind=bpe"]).tokenizer == BPE(vocab_size=16_384)
    assert load_config("gpt2-92m", ["tokenizer.kind=bytes"]).tokenizer == Bytes()


def test_a_new_family_keeps_the_common_settings() -> None:
    run = load_config("storybook-1m", ["model.family=gpt2"])
    assert (run.model.family, run.model.vocab_size) == ("gpt2", 2048)


def test_a_length_is_in_steps_or_in_epochs() -> None:
    assert load_config("piny-37m", ["training.length.max_steps=5"]).training.length == MaxSteps(max_steps=5)
    assert load_config("piny-37m", ["training.length.epochs=2"]).training.length == Epochs(epochs=2)


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown preset 'pini-37m'\. Did you mean 'piny-37m'\?"):
        preset_text("pini-37m")


def test_a_yaml_file_is_a_config(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(preset_text("storybook-1m") + "seed: 5\n")
    assert load_config(str(path)).seed == 5


BROKEN = {
    "seed: 1\nseed: 2\n": "duplicate key 'seed'",
    "a: &x [1]\nb: *x\n": r"aliases \(\*name\) are not allowed",
    "a: !!python/object/apply:os.system [echo]\n": "invalid YAML",
    "- 1\n": "a config must be a mapping of sections",
    "a: [": "line 1: invalid YAML",
    "1: 2": "a config must be a mapping of sections",
    "": "a config must be a mapping of sections",
}


@pytest.mark.parametrize(("text", "message"), BROKEN.items())
def test_unsafe_or_broken_yaml_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text, where="mine.yaml")


def test_a_missing_a_large_and_a_binary_config_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Cannot read config file .*none\.yaml: No such file or directory"):
        load_config(str(tmp_path / "none.yaml"))
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        load_config(str(tmp_path / "large.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_config(str(tmp_path / "binary.yaml"))


def test_every_key_of_every_preset_can_be_overridden() -> None:
    for name in preset_names():
        run = preset(name)
        keys = known_keys(run.model.family)
        assert {f"model.{key}" for key in type(run.model).model_fields} <= keys
        assert {"optimizer.lr", "training.micro_batch_size", "checkpoint.every_steps", "seed"} <= keys


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)
KEYS = sorted(known_keys("llama"))
OVERRIDES = st.text(max_size=40) | st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=20))


@pytest.mark.fault("G7", cases=2500)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(KEYS) | st.text(min_size=1, max_size=30), value=VALUES)
def test_any_value_for_any_key_gives_a_run_or_a_config_error(key: str, value: object) -> None:
    values = preset("storybook-1m").model_dump(mode="json")
    section = values
    *path, last = key.split(".")
    for name in path:
        inner = section.get(name)
        section[name] = section = inner if isinstance(inner, dict) else {}
    section[last] = value
    with contextlib.suppress(ConfigError):  # anything else fails the test
        assert validate_config(values)


@pytest.mark.fault("G7", cases=2500)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=60), override=OVERRIDES)
def test_any_yaml_and_any_override_gives_a_run_or_a_config_error(text: str, override: str) -> None:
    values = preset("storybook-1m").model_dump(mode="json")
    with contextlib.suppress(ConfigError):
        values |= parse_yaml(text, where="fuzz")
    with contextlib.suppress(ConfigError):
        assert validate_config(apply_overrides(values, [override]))


MIXTURE = (
    "data.source={kind: mixture, parts: [{weight: 1, source: {kind: storybook}}, "
    "{weight: 1, source: {kind: files, paths: [a]}}]}"
)


def test_a_setting_of_one_item_of_a_list_is_set_by_its_number() -> None:
    run = load_config(
        "storybook-1m", [MIXTURE, "data.source.parts.1.source.paths=[b]", "data.source.parts.0.weight=2.5"]
    )
    assert isinstance(run.data.source, MixtureSource)
    first, second = run.data.source.parts
    assert (first.weight, second.source) == (2.5, FilesSource(paths=("b",)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source.parts.2.weight=1", r"data\.source\.parts has no item 2\. It has 2"),
        ("data.source.parts.0.weigth=1", r"Unknown setting .*weigth"),
        ("data.source.part.0.weight=1", r"Unknown setting 'data\.source\.part\.0\.weight'"),
        ("data.mode.0.weight=1", r"data\.mode has no item 0"),
    ],
)
def test_an_item_that_does_not_exist_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("storybook-1m", [MIXTURE, override])


def test_a_text_that_is_parsed_twice_gives_two_values() -> None:
    first = parse_yaml("a: {b: [1]}", where="a.yaml")
    first["a"]["b"].append(2)
    assert parse_yaml("a: {b: [1]}", where="b.yaml") == {"a": {"b": [1]}}
    for where in ("a.yaml", "b.yaml"):
        with pytest.raises(ConfigError, match=f"{where}, line 1: invalid YAML"):
            parse_yaml("a: [", where=where)
