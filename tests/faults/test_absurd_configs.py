"""Tests that a well-formed config with absurd values is refused with an error, before anything is allocated for it.

Row E6 of the fault matrix.
"""

import copy
import hashlib
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fabella.errors import CheckpointError
from fabella.models.field_types import MAX_PARAMETERS
from fabella.models.parameters import count
from fabella.runs.run_dir import RunDir
from tests.runs import stub

CASES = 1000
MAX_MEMORY_BYTES = 200_000_000
LARGEST_VALUE = 2**63 - 1
MAX_ERROR_CHARS = 1500

MODELS: list[dict[str, Any]] = [
    {"family": "gpt2", "vocab_size": 256, "context_length": 8, "dim": 4, "layers": 1, "heads": 2, "ffn_dim": 4},
    {
        "family": "minigpt",
        "vocab_size": 256,
        "context_length": 8,
        "embedding": 4,
        "dim": 8,
        "layers": 1,
        "heads": 2,
        "ffn_dim": 4,
    },
    {
        "family": "llama",
        "vocab_size": 256,
        "context_length": 8,
        "dim": 4,
        "layers": 1,
        "heads": 2,
        "kv_heads": 1,
        "ffn_dim": 4,
    },
    {"family": "mingru", "vocab_size": 256, "context_length": 8, "dim": 4, "layers": 1, "ffn_dim": 4},
]
ABSURD = st.one_of(
    st.sampled_from([0, -1, 1, 3, 7, 10**9, 2**31, 2**31 - 1, LARGEST_VALUE, -(2**63), 10**30]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, -0.5, 1.5, 1e308, 1e-320]),
    st.sampled_from([None, True, "", "8", "nan", [], [8], {}, {"kind": "bytes"}, "\x1b[2J", "x" * 10_000]),
    st.integers(),
    st.floats(),
)


def leaves(values: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        leaf
        for key, value in values.items()
        for leaf in (leaves(value, (*prefix, key)) if isinstance(value, dict) else [(*prefix, key)])
    ]


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Generate the config of a run with one to three absurd values, mostly in its model section."""
    values = copy.deepcopy(stub.VALUES)
    values["model"] = dict(draw(st.sampled_from(MODELS)))
    model_leaves = [leaf for leaf in leaves(values) if leaf[0] == "model" and leaf[1] != "family"]
    for _ in range(draw(st.integers(1, 3))):
        *sections, key = draw(st.sampled_from(model_leaves) | st.sampled_from(leaves(values)))
        section = values
        for name in sections:
            section = section[name]
            if not isinstance(section, dict):
                break
        else:
            section[key] = copy.deepcopy(draw(ABSURD))  # later draws change it
    return values


def signed(values: dict[str, Any]) -> bytes:
    text = yaml.dump(values, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode()
    return text + f"# sha256 of the lines above: {hashlib.sha256(text).hexdigest()}\n".encode()


@pytest.fixture
def folder(quick_path: Path) -> Path:
    return stub.folder(quick_path).path


def error_for(folder: Path) -> str:
    """Return the error that refuses the config, or an empty string if its model can be built."""
    try:
        run = RunDir.open(folder).run
    except CheckpointError as error:
        return str(error)
    assert count(run.model.parameters()) <= MAX_PARAMETERS
    return ""


@pytest.mark.fault("E6", cases=CASES)
def test_an_absurd_config_is_refused_or_harmless(folder: Path) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    refused = list[str]()

    @settings(max_examples=CASES)
    @given(configs())
    def check_config(values: dict[str, Any]) -> None:
        (folder / "config.yaml").write_bytes(signed(values))
        error = error_for(folder)
        refused.extend([error] if error else [])
        assert len(error) < MAX_ERROR_CHARS
        assert process.memory_info().rss - before < MAX_MEMORY_BYTES

    check_config()
    assert len(refused) > CASES // 2, "too few of the generated configs are absurd"
    assert all("is not the config of a run: " in message and message.isprintable() for message in refused)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("layers", 10**9),
        ("vocab_size", 2**31),
        ("heads", 0),
        ("heads", 3),
        ("norm_eps", float("nan")),
        ("dim", 2**40),
        ("context", -1),
        ("dropout", float("inf")),
    ],
)
def test_the_error_names_the_value(key: str, value: object, folder: Path) -> None:
    values = {**stub.VALUES, "model": {**MODELS[2], key: value}}
    (folder / "config.yaml").write_bytes(signed(values))
    with pytest.raises(CheckpointError, match=rf"is not the config of a run: .*{key}"):
        RunDir.open(folder)


def test_yaml_aliases_that_expand_to_gigabytes_are_refused(folder: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    text = ("\n".join(lines) + "\n").encode()
    digest = f"# sha256 of the lines above: {hashlib.sha256(text).hexdigest()}\n".encode()
    (folder / "config.yaml").write_bytes(text + digest)
    with pytest.raises(CheckpointError, match=r"aliases \(\*name\) are not allowed"):
        RunDir.open(folder)
