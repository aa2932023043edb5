"""Tests of llama2.c files: exported, imported, exported again with the same weights; damaged files are refused."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import fabella
from fabella.errors import FabellaError, TokenizerError, UsageError
from fabella.interop.export import export
from fabella.interop.formats.llama2c import HEADER
from fabella.interop.import_model import import_model
from fabella.interop.llama2c_tokenizer import Llama2CTokenizer
from tests.interop.tiny_exports import TEXTS, bpe, make_run, sentencepiece


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_goes_out_and_back_with_the_same_weights_and_text(tied: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama", sentencepiece(), tie_embeddings=tied)
    out = export(run, to="llama2c", out=tmp_path / "out")
    assert out.comparison.max_logit_difference <= 1e-4
    assert out.comparison.greedy_equal == 20
    assert "a space before each prompt" in out.comparison.tokenizer
    back = import_model(tmp_path / "out" / "model.bin", out=tmp_path / "back").path
    before, after = fabella.load(run), fabella.load(back)
    ours = dict(before.model.named_parameters())
    assert all(np.array_equal(ours[name], weight) for name, weight in after.model.named_parameters())
    again = export(back, to="llama2c", out=tmp_path / "again")
    assert "misreads characters without a token" in again.comparison.tokenizer
    assert (tmp_path / "again/model.bin").read_bytes() == (tmp_path / "out/model.bin").read_bytes()


def test_an_imported_tokenizer_reads_texts_as_run_c_does(tmp_path: Path) -> None:
    export(make_run(tmp_path / "run", "llama", sentencepiece()), to="llama2c", out=tmp_path / "out")
    theirs = Llama2CTokenizer.read(tmp_path / "out/tokenizer.bin")
    ours = fabella.load(import_model(tmp_path / "out", out=tmp_path / "back").path).tokenizer
    known = {character for character in "".join(TEXTS[:3]) if character.encode() in theirs.ids}
    for text in [*TEXTS[:3], "a", "", "  two"]:
        text = "".join(character for character in text if character in known)
        assert ours.encode(text).tolist() == theirs.encode(text)
        assert ours.decode(ours.encode(text)).lstrip() == text.lstrip()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gpt2", {}, "computes Llama only"),
        ("llama", {"norm_eps": 1e-6}, "fixes model.rotary_base"),
        ("llama", {"rotary_base": 500.0}, "fixes model.rotary_base"),
    ],
)
def test_a_model_that_run_c_does_not_compute_is_refused(
    family: str, changes: dict[str, float], message: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", family, sentencepiece(), **changes)
    with pytest.raises(UsageError, match=message):
        export(run, to="llama2c", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_run_c_cannot_apply_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="needs a SentencePiece tokenizer"):
        export(make_run(tmp_path / "run", "llama", bpe()), to="llama2c", out=tmp_path / "out")


def cut(size: int) -> Callable[[bytes], bytes]:
    """Return a fault that cuts a file."""
    return lambda data: data[:size]


def sizes(*values: int) -> Callable[[bytes], bytes]:
    """Return a fault that writes another header."""
    return lambda data: struct.pack("<7i", *values) + data[HEADER.size :]


def with_nan(data: bytes) -> bytes:
    """Return the model with one weight that is not a number."""
    return data[: HEADER.size] + struct.pack("<f", float("nan")) + data[HEADER.size + 4 :]


MODEL_FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (cut(-4), "a model of its sizes has"),
    "longer": (lambda data: data + b"\0", "a model of its sizes has"),
    "header only": (cut(HEADER.size), "a model of its sizes has"),
    "half a header": (cut(9), "is not a model"),
    "empty": (cut(0), "is not a model"),
    "absurd sizes": (sizes(2**30, 2**30, 2**30, 8, 4, 512, 512), "is not a model"),
    "negative sizes": (sizes(-24, 40, 2, 6, 2, 343, 40), "is not"),
    "huge sizes": (sizes(2**14, 2**16, 512, 8, 8, 2**23, 2**20), "is not that of a model|a model of its sizes"),
    "later version": (lambda data: b"24ka" + data[4:], "format 1 or 2"),
    "not a number": (with_nan, "not finite"),
}
TOKENIZER_FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": cut(-2),
    "empty": cut(0),
    "absurd length": lambda data: data[:8] + struct.pack("<i", 2**30) + data[12:],
    "negative length": lambda data: data[:8] + struct.pack("<i", -9) + data[12:],
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    export(make_run(folder / "run", "llama", sentencepiece()), to="llama2c", out=folder / "out")
    return folder / "out"


@pytest.mark.fault("E17", cases=len(MODEL_FAULTS))
@pytest.mark.parametrize("name", MODEL_FAULTS)
def test_a_damaged_model_is_refused(name: str, intact: Path, tmp_path: Path) -> None:
    fault, message = MODEL_FAULTS[name]
    (tmp_path / "model.bin").write_bytes(fault((intact / "model.bin").read_bytes()))
    (tmp_path / "tokenizer.bin").write_bytes((intact / "tokenizer.bin").read_bytes())
    with pytest.raises(FabellaError, match=message):
        import_model(tmp_path / "model.bin", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("E17", cases=len(TOKENIZER_FAULTS))
@pytest.mark.parametrize("name", TOKENIZER_FAULTS)
def test_a_damaged_tokenizer_is_refused(name: str, intact: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes((intact / "model.bin").read_bytes())
    (tmp_path / "tokenizer.bin").write_bytes(TOKENIZER_FAULTS[name]((intact / "tokenizer.bin").read_bytes()))
    with pytest.raises(FabellaError, match=r"is not a tokenizer of llama2\.c, or is damaged"):
        import_model(tmp_path / "model.bin", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
