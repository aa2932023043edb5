"""Tests of GGUF files: exported, read by another library, imported with the same weights and tokenizer; damage."""

import importlib.util
import re
import struct
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from tokenizers import Tokenizer as Library

import fabella
from fabella.errors import FabellaError, TokenizerError, UsageError
from fabella.interop.export import export
from fabella.interop.gguf_files.layout import rotary_fraction
from fabella.interop.gguf_files.vocab import CONTROL, NO_MERGES, UNUSED, USER_DEFINED, overlapping, read_vocab, vocab_of
from fabella.interop.import_model import import_model
from fabella.interop.llama2c_tokenizer import write_tokenizer as write_llama2c_tokenizer
from fabella.interop.tokenizer_json import saved_files
from fabella.tokenizers import pretrained
from fabella.tokenizers.tokenizer import Tokenizer
from tests.interop.tiny_exports import TEXTS, bpe, make_run, sentencepiece

pytestmark = pytest.mark.needs("transformers", "gguf", "accelerate")
HAS_LLAMA_CPP = importlib.util.find_spec("llama_cpp") is not None
QWEN = {"head_dim": 6, "rotary_scaling": {"kind": "none"}}
MODELS: dict[str, tuple[str, Callable[[], Tokenizer] | None, dict[str, Any]]] = {
    "llama, bytes": ("llama", None, {}),
    "llama, bpe": ("llama", bpe, {}),
    "llama, sentencepiece": ("llama", sentencepiece, {"tie_embeddings": True}),
    "gpt2": ("gpt2", bpe, {"activation": "gelu_tanh", "ffn_dim": 96}),
    "gpt_neox": ("gpt_neox", bpe, {"activation": "gelu_tanh", "norm_eps": 1e-3, "rotary_base": 500.0}),
    "gpt_neox, tied": ("gpt_neox", bpe, {"activation": "gelu_tanh", "tie_embeddings": True, "rotary_fraction": 0.75}),
    "qwen2": ("qwen", bpe, {**QWEN, "qk_norm": False}),
    "qwen3": ("qwen", bpe, {**QWEN, "qkv_bias": False}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_out_and_back_with_the_same_weights_and_ids(name: str, tmp_path: Path) -> None:
    family, tokenizer, changes = MODELS[name]
    run = make_run(tmp_path / "run", family, tokenizer() if tokenizer else None, **changes)
    measured = export(run, to="gguf", out=tmp_path / "out").comparison
    if HAS_LLAMA_CPP and "activation" in changes:  # it rounds GELU
        assert measured.rounding is not None
        assert measured.rounding.explains()
        assert measured.greedy_explained == 20
    else:
        assert measured.max_logit_difference <= 1e-4
        assert measured.greedy_equal == 20
    assert measured.tokenizer.startswith("equal" if HAS_LLAMA_CPP else "written")
    back = fabella.load(import_model(tmp_path / "out" / "model.gguf", out=tmp_path / "back").path)
    ours = fabella.load(run)
    weights = dict(ours.model.named_parameters())
    assert all(torch.equal(weights[key], weight) for key, weight in back.model.named_parameters())
    for text in TEXTS[:3]:
        assert back.tokenizer.encode(text).tolist() == ours.tokenizer.encode(text).tolist()
    assert back.tokenizer.eos_id == ours.tokenizer.eos_id


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.7), ("bfloat16", 0.7), ("q8_0", 0.5)])
def test_less_precision_is_smaller_and_close(precision: str, share: float, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama", bpe(), dim=64, ffn_dim=96, heads=4)
    out = export(run, to="gguf", out=tmp_path / "out", precision=precision)
    assert 0 < out.comparison.bits_difference <= 0.005
    full = 4 * sum(weight.numel() for weight in fabella.load(run).model.parameters())
    vocab = 20_000
    assert (tmp_path / "out/model.gguf").stat().st_size < share * full + vocab
    back = fabella.load(import_model(tmp_path / "out", out=tmp_path / "back").path)
    ours = dict(fabella.load(run).model.named_parameters())
    assert all(np.allclose(ours[key], weight, atol=0.02) for key, weight in back.model.named_parameters())


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mingru", {}, "no architecture of GGUF that computes this model of family mingru"),
        ("gpt2", {"activation": "gelu"}, "the tanh form of GELU only"),
        ("gpt_neox", {"activation": "gelu"}, "gptneox computes the tanh form of GELU only"),
        ("qwen", {"qk_norm": False}, "no architecture"),
    ],
)
def test_a_model_that_llama_cpp_does_not_compute_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        export(make_run(tmp_path / "run", family, **changes), to="gguf", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_without_merges_has_one_that_never_applies(tmp_path: Path) -> None:
    """Test what llama.cpp needs: without merges it does not load a file."""
    import gguf

    run = make_run(tmp_path / "run", "llama")
    export(run, to="gguf", out=tmp_path / "out")
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    assert fields["tokenizer.ggml.merges"].contents() == [NO_MERGES]
    back = fabella.load(import_model(tmp_path / "out", out=tmp_path / "back").path).tokenizer
    assert back.encode("no merges, nomerges").tolist() == list(b"no merges, nomerges")
    export(tmp_path / "back", to="gguf", out=tmp_path / "again")


def test_a_precision_that_the_library_does_not_write_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the gguf library reads it but does not write it"):
        export(tmp_path, to="gguf", precision="q4_k")


def test_a_tied_head_of_gpt_neox_is_written_and_read_as_one_matrix(tmp_path: Path) -> None:
    """Test what llama.cpp needs: its gptneox has no tied head."""
    import gguf

    run = make_run(tmp_path / "run", "gpt_neox", activation="gelu_tanh", tie_embeddings=True)
    export(run, to="gguf", out=tmp_path / "out")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "out/model.gguf").tensors}
    assert np.array_equal(tensors["output.weight"], tensors["token_embd.weight"])
    back = fabella.load(import_model(tmp_path / "out", out=tmp_path / "back").path)
    assert "head.weight" not in dict(back.model.named_parameters())


def test_a_file_of_gpt_neox_with_attention_before_the_mlp_is_refused(tmp_path: Path) -> None:
    export(make_run(tmp_path / "run", "gpt_neox", activation="gelu_tanh"), to="gguf", out=tmp_path / "out")
    parallel = b"gptneox.use_parallel_residual\x07\x00\x00\x00"
    change = replace(parallel + b"\x01", parallel + b"\x00")
    (tmp_path / "other.gguf").write_bytes(change((tmp_path / "out/model.gguf").read_bytes()))
    with pytest.raises(UsageError, match="use_parallel_residual = False"):
        import_model(tmp_path / "other.gguf", out=tmp_path / "back")


def test_the_rotated_share_of_a_head_gives_exactly_the_dimensions_of_the_file() -> None:
    for head_dim in range(2, 513):
        for rotated in range(2, head_dim + 1, 2):
            share = rotary_fraction(rotated, head_dim)
            assert 0 < share <= 1
            assert int(head_dim * share) == rotated


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("models")
    export(make_run(folder / "run", "llama", bpe()), to="gguf", out=folder / "out")
    return (folder / "out" / "model.gguf").read_bytes()


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return a fault that changes bytes of the header."""

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new, 1)

    return change


def with_counts(tensors: int, entries: int) -> Callable[[bytes], bytes]:
    """Return a fault that announces other numbers of tensors and entries."""
    return lambda data: data[:8] + struct.pack("<QQ", tensors, entries) + data[24:]


FAULTS: dict[str, Callable[[bytes], bytes]] = {
    "a byte short": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "within the vocabulary": lambda data: data[:2000],
    "within the header": lambda data: data[:12],
    "absurd number of tensors": with_counts(2**60, 20),
    "absurd number of entries": with_counts(21, 2**60),
    "one entry too many": with_counts(21, 60),
    "one tensor too many": with_counts(200, 26),
    "absurd length of a string": lambda data: data[:24] + struct.pack("<Q", 2**60) + data[32:],
    "unknown version": lambda data: data[:4] + struct.pack("<I", 99) + data[8:],
    "unknown architecture": replace(b"llama", b"lxama"),
    "renamed tensor": replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"),
    "renamed size": replace(b"llama.block_count", b"llama.blxck_count"),
    "unknown tokenizer": replace(b"\x04\x00\x00\x00\x00\x00\x00\x00gpt2", b"\x04\x00\x00\x00\x00\x00\x00\x00gptX"),
    "not a number": lambda data: data[:-8] + struct.pack("<ff", float("nan"), 1.0),
}


@pytest.mark.fault("E17", cases=len(FAULTS))
@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_or_hostile_file_gives_one_error_and_no_run(name: str, intact: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(FAULTS[name](intact))
    with pytest.raises(FabellaError):
        import_model(tmp_path / "model.gguf", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("pre", ["olmo", "mpt", "jais", "default"])
def test_pretokenizers_with_the_pattern_of_gpt2_are_read_as_that(pre: str, intact: bytes, tmp_path: Path) -> None:
    import gguf

    (tmp_path / "model.gguf").write_bytes(intact)
    values = {name: entry.contents() for name, entry in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()}
    expected, found = (read_vocab({**values, "tokenizer.ggml.pre": name}, "model.gguf") for name in ("gpt-2", pre))
    for text in TEXTS[:3]:
        assert found.encode(text).tolist() == expected.encode(text).tolist()


def changed(path: Path, values: dict[str, Any], factors: Sequence[float] = ()) -> Path:
    """Write another file with the tensors of ``path`` and other values in its header."""
    import gguf

    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(path.with_name("changed.gguf"), reader.fields["general.architecture"].contents())
    for name, entry in reader.fields.items():
        if name not in values and not name.startswith(("GGUF.", "general.architecture")):
            kind = entry.types[-1] if len(entry.types) > 1 else None
            writer.add_key_value(name, entry.contents(), entry.types[0], kind)
    for name, value in values.items():
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(name, value, kind, gguf.GGUFValueType.get_type(value[0]) if kind.name == "ARRAY" else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.reshape(tuple(reversed(tensor.shape.tolist()))))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name("changed.gguf")


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "part of a head is rotated": ({"llama.rope.dimension_count": 2}, "rope.dimension_count = 2"),
    "other size of values": ({"llama.attention.value_length": 8}, "value_length = 8"),
    "heads by layer": ({"llama.attention.head_count": [6, 6]}, r"head_count = \[6, 6\]"),
    "heads of keys by layer": ({"llama.attention.head_count_kv": [2, 2]}, r"head_count_kv = \[2, 2\]"),
    "text as rotary base": ({"llama.rope.freq_base": "x"}, "freq_base = x"),
    "window": ({"llama.attention.sliding_window": 16}, "sliding_window = 16"),
    "YaRN": ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type = yarn"),
    "scaling of old files": ({"llama.rope.scale_linear": 4.0}, "rope.scale_linear = 4.0"),
    "a merge of unknown tokens": ({"tokenizer.ggml.merges": ["<|endo ftext|>"]}, "the vocabulary is damaged"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_header_of_a_model_that_no_family_computes_is_refused(name: str, intact: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(intact)
    values, message = UNSUPPORTED[name]
    with pytest.raises(FabellaError, match=message):
        import_model(changed(tmp_path / "model.gguf", values), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_scaled_rotary_frequencies_of_llama_3_are_refused_and_ones_are_read(intact: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(intact)
    with pytest.raises(UsageError, match=r"rotary frequencies are scaled \(rope_freqs.weight\)"):
        import_model(changed(tmp_path / "model.gguf", {}, factors=[1, 8]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    import_model(changed(tmp_path / "model.gguf", {}, factors=[1, 1]), out=tmp_path / "run")


def with_added(texts: Sequence[str], options: dict[str, bool] | None = None, normalizer: Any = None) -> Tokenizer:
    """Return a byte-level BPE with added tokens that are not special."""
    library = Library.from_str(saved_files(bpe())["tokenizer.json"].decode())
    library.normalizer = normalizer
    library.add_tokens([AddedToken(text, special=False, **(options or {})) for text in texts])
    return pretrained.from_json(library.to_str().encode(), "<|endoftext|>", "tokenizer.json")


SPACES = [*(" " * number for number in range(24, 1, -1)), "\t", "<tool>"]
SPACED = ["a" + " " * 30 + "b", "\n\t  x", "   ", "<tool>  <|endoftext|>", " a\t\tb ", " " * 47 + "\n" + " " * 24]


@pytest.mark.parametrize("normalizer", [None, normalizers.NFC()], ids=["GPT-2", "GPT-NeoX"])
def test_added_tokens_leave_and_come_back_as_user_defined(normalizer: Any, tmp_path: Path) -> None:
    import gguf

    tokenizer = with_added(SPACES, {"normalized": True}, normalizer)
    run = make_run(tmp_path / "run", "gpt2", tokenizer, activation="gelu_tanh", ffn_dim=96)
    warnings = export(run, to="gguf", out=tmp_path / "out").warnings
    assert ["does not compose characters" in warning for warning in warnings] == ([True] if normalizer else [])
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    texts, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    assert [text for text, kind in zip(texts, types, strict=True) if kind == USER_DEFINED] == SPACES
    back = fabella.load(import_model(tmp_path / "out" / "model.gguf", out=tmp_path / "back").path).tokenizer
    assert dict(back.special_tokens).keys() >= dict(tokenizer.special_tokens).keys()
    for text in (*SPACED, *TEXTS[:3]):
        ids = tokenizer.encode(text).tolist()
        assert back.encode(text).tolist() == ids
        assert back.decode(ids) == tokenizer.decode(ids) == text
    assert len(back.encode("a" + " " * 24)) == 2
    again = export(tmp_path / "back", to="gguf", out=tmp_path / "again")
    assert again.comparison.greedy_equal == 20


def test_added_tokens_after_the_pieces_of_a_scored_vocabulary_are_kept(tmp_path: Path) -> None:
    export(make_run(tmp_path / "run", "llama", sentencepiece()), to="gguf", out=tmp_path / "out")
    plain = fabella.load(import_model(tmp_path / "out", out=tmp_path / "back").path).tokenizer
    library = Library.from_str(saved_files(plain)["tokenizer.json"].decode())
    library.add_tokens([AddedToken("   ", special=False, normalized=False)])
    library.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer = pretrained.from_json(library.to_str().encode(), "</s>", "tokenizer.json")
    vocab = vocab_of(tokenizer, tokenizer.vocab_size + 1)
    assert vocab.texts[-3:] == ["   ", "<|im_end|>", f"[PAD{tokenizer.vocab_size}]"]
    assert vocab.types[-3:] == [USER_DEFINED, CONTROL, UNUSED]
    with pytest.raises(TokenizerError, match=r"run\.c does not know the added token '   '"):
        write_llama2c_tokenizer(tmp_path / "tokenizer.bin", tokenizer, tokenizer.vocab_size)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (partial(with_added, ["<a>"], {"lstrip": True}), "the rule lstrip of the added token '<a>'"),
        (partial(with_added, ["<a>"], {"single_word": True}), "the rule single_word of the added token '<a>'"),
        (partial(with_added, ["ab", "bcd"]), "the order of the added tokens 'ab' and 'bcd', which can overlap"),
        (partial(with_added, ["  "], None, normalizers.NFKC()), "the normalizer NFKC of this tokenizer"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    tokenizer: Callable[[], Tokenizer], message: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", "gpt2", tokenizer(), activation="gelu_tanh", ffn_dim=96)
    with pytest.raises(TokenizerError, match=f"llama.cpp does not know {message}"):
        export(run, to="gguf", out=tmp_path / "out")


@given(st.lists(st.text("ab ", min_size=1, max_size=4), max_size=4, unique=True), st.text("ab ", max_size=12))
def test_texts_that_do_not_overlap_are_found_alike_from_the_left_and_from_the_longest(
    texts: list[str], text: str
) -> None:
    if overlapping(texts) is None:
        assert from_the_left(texts, text) == from_the_longest(texts, text)


def from_the_left(texts: list[str], text: str) -> list[str]:
    """Split a text as the tokenizers library does: at the leftmost of the texts, there at the longest."""
    pattern = "|".join(re.escape(item) for item in sorted(texts, key=len, reverse=True))
    return [part for part in re.split(f"({pattern})", text) if part] if texts else [text] if text else []


def from_the_longest(texts: list[str], text: str) -> list[str]:
    """Split a text as llama.cpp does: at the longest of the texts, then what is left at the next one."""
    parts = [(text, False)]
    for item in sorted(texts, key=len, reverse=True):
        parts = [
            (piece, found or piece == item)
            for part, found in parts
            for piece in ([part] if found else re.split(f"({re.escape(item)})", part))
            if piece
        ]
    return [part for part, _ in parts if part]


def test_an_unknown_pretokenizer_is_refused(intact: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(intact.replace(b"gpt-2", b"gpt-x", 1))
    with pytest.raises(TokenizerError, match="pretokenizer 'gpt-x'"):
        import_model(tmp_path / "model.gguf", out=tmp_path / "run")
