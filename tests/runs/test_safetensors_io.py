"""Tests that named arrays are saved to and loaded from safetensors unchanged, and that invalid files are refused."""

import json
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fabella.errors import CheckpointError
from fabella.runs.safetensors_io import NAMES, dump_tensors, is_pickle, load_tensors, size_of

NAMED = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__"),
    st.sampled_from(sorted(NAMES)).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(max_side=4))),
    max_size=4,
)


def dump(values: dict[str, NDArray[Any]]) -> bytes:
    return b"".join(bytes(part) for part in dump_tensors(values))


@given(NAMED)
def test_arrays_are_restored_bit_for_bit_and_are_writable(values: dict[str, NDArray[Any]]) -> None:
    data = dump(values)
    assert len(data) == size_of(values)
    loaded = load_tensors(data, where="model.safetensors")
    assert set(loaded) == set(values)
    for name, array in values.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].flags.writeable


@given(NAMED)
def test_the_safetensors_library_reads_what_is_written(values: dict[str, NDArray[Any]]) -> None:
    loaded = safetensors.numpy.load(dump(values))
    assert {name: array.tobytes() for name, array in loaded.items()} == {n: a.tobytes() for n, a in values.items()}


def test_arrays_with_another_memory_layout_are_written_row_by_row() -> None:
    contiguous = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (contiguous.T.copy().T, np.repeat(contiguous, 2, axis=0)[::2], contiguous.astype(">f4")):
        assert np.array_equal(load_tensors(dump({"w": array}), where="")["w"], contiguous)


def test_scalars_and_empty_arrays_are_supported() -> None:
    loaded = load_tensors(dump({"scale": np.float32(3).reshape(()), "none": np.zeros((0, 4), np.float32)}), where="")
    assert loaded["scale"].shape == ()
    assert float(loaded["scale"]) == 3
    assert loaded["none"].shape == (0, 4)


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(
        CheckpointError, match=r"Cannot save w with dtype complex128. A checkpoint has float64, float32"
    ):
        dump({"w": np.zeros(1, np.complex128)})
    with pytest.raises(CheckpointError, match="Cannot save w with dtype object"):
        dump({"w": np.array([{}], dtype=object)})


def header(entries: object, data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(8),
        (2**63).to_bytes(8, "little") + b"{}",
        (10**9).to_bytes(8, "little") + b"{}",
        header(b"{"),
        header(b'\xff{"'),
        header([]),
        header({"w": 7}),
        header({"w": entry("F33")}, bytes(4)),
        header({"w": entry("BF16", (2,))}, bytes(4)),
        header({"w": entry(shape=(2,))}, bytes(4)),
        header({"w": entry(shape=(-1,))}, bytes(4)),
        header({"w": entry(shape=(2**62, 8), offsets=(0, 4))}, bytes(4)),
        header({"w": entry(offsets=(4, 0))}, bytes(4)),
        header({"w": entry(offsets=(0, 4)), "v": entry(offsets=(2, 6))}, bytes(6)),
        header({"w": entry(offsets=(4, 8))}, bytes(8)),
        header({"w": entry()}, bytes(3)),
        header({"w": entry()}, bytes(5)),
        header({"w": {"dtype": "F32"}}, bytes(4)),
        header(b"[" * 100_000),
    ],
)
def test_a_hostile_header_is_an_error_of_one_line(data: bytes) -> None:
    with pytest.raises(
        CheckpointError, match=r"^step-00000120/model.safetensors is not a valid safetensors file: "
    ) as caught:
        load_tensors(data, where="step-00000120/model.safetensors")
    assert "\n" not in str(caught.value)


def test_no_safetensors_header_is_mistaken_for_a_pickle() -> None:
    for length in range(2, 2000):
        assert not is_pickle(length.to_bytes(8, "little") + b'{"model":')
    assert not is_pickle(b"")
