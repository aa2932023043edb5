"""Tests of llama.cpp as the target of a GGUF file, with a module that computes what ggml computes in its place."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import fabella
from fabella.cli.main import run as fabella_command
from fabella.errors import NumericsError
from fabella.interop.export import export, read_record
from fabella.interop.formats.gguf_torch import HalfGELU
from fabella.interop.import_model import import_model
from fabella.interop.tokenizer_json import sentencepiece_of
from fabella.tokenizers.chat.encode import prefix_id
from fabella.tokenizers.vocab_bytes import SPACE_MARK
from tests.interop.tiny_exports import bpe, make_run, sentencepiece

pytestmark = pytest.mark.needs("transformers", "gguf", "accelerate")
GELU: dict[str, Any] = {"activation": "gelu_tanh", "ffn_dim": 96}


def table() -> NDArray[np.float16]:
    """Return GELU of every number of float16, as ggml's table has it."""
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        inner = np.float32(0.79788456080286535587989211986876) * x * (1 + np.float32(0.044715) * x * x)
        return (np.float32(0.5) * x * (1 + np.tanh(inner))).astype(np.float16)


def look_up(x: torch.Tensor) -> torch.Tensor:
    """Return GELU as ``ggml_vec_gelu_f32`` of ggml returns it."""
    values = table()[x.numpy().astype(np.float16).view(np.uint16)].astype(np.float32)
    return torch.from_numpy(np.where(x.numpy() <= -10, 0.0, np.where(x.numpy() >= 10, x.numpy(), values)))


class Llama:
    """What the comparison calls of ``llama_cpp.Llama``: Fabella's model of the file, with ggml's GELU."""

    error = 0.0
    """Added to one weight: an error in the file, or in llama.cpp."""

    def __init__(self, path: str, *, n_ctx: int, type_k: int, type_v: int, **options: Any) -> None:
        assert (type_k, type_v, options["logits_all"], options["flash_attn"]) == (0, 0, True, False)
        run = import_model(Path(path), out=Path(path).parents[1] / f"read-{Path(path).parent.name}").path
        loaded = fabella.load(run)
        self.model, self.tokenizer = loaded.model.float().eval(), loaded.tokenizer
        with torch.no_grad():
            next(iter(self.model.parameters()))[:, 0] += self.error
        self.ids: list[int] = []
        self.scores = np.zeros((n_ctx, 0), dtype=np.float32)

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    def reset(self) -> None:
        self.ids = []

    def eval(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.scores = self.model(torch.tensor([self.ids]))[0].float().numpy()

    def tokenize(self, text: bytes, *, add_bos: bool, special: bool) -> list[int]:
        assert (add_bos, special) == (True, False)
        read = text.decode().replace(SPACE_MARK, " ") if sentencepiece_of(self.tokenizer) else text.decode()
        return [prefix_id(self.tokenizer), *self.tokenizer.encode(read).tolist()]

    def detokenize(self, ids: list[int]) -> bytes:
        return self.tokenizer.decode(ids).encode()


@pytest.fixture
def llama(monkeypatch: pytest.MonkeyPatch) -> type[Llama]:
    """Install a module ``llama_cpp`` whose models look GELU up in a table of float16."""
    module: Any = ModuleType("llama_cpp")
    module.__spec__ = importlib.util.spec_from_loader("llama_cpp", None)
    module.__version__ = "0"
    module.Llama = type("Installed", (Llama,), {})
    forward = torch.inference_mode()(Llama.eval)

    def with_table(self: Llama, ids: Sequence[int]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "gelu", gelu)
            forward(self, ids)

    def gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
        assert approximate == "tanh"
        return look_up(x)

    module.Llama.eval = with_table
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    return module.Llama


def test_gelu_in_float16_is_what_the_table_of_ggml_gives() -> None:
    x = torch.cat([torch.linspace(-12, 12, 20_001), torch.tensor([-10.0, 10.0, 1e-6, -1e-6, 0.0, 9.9999, 1e4])])
    with HalfGELU():
        found = torch.nn.functional.gelu(x, approximate="tanh")
    different = found - look_up(x)
    # tanh of another library differs by an ulp: by 2^-21 where 1 + tanh is near 0, else up to a neighbor in float16.
    assert (different.abs() <= 2**-10 * found.abs() + 2**-21).all()
    assert (different[x > -3] != 0).float().mean() < 0.01
    assert not torch.equal(found, torch.nn.functional.gelu(x, approximate="tanh"))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_the_gelu_of_llama_cpp_is_named_and_measured_not_refused(
    family: str, llama: type[Llama], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", family, bpe(), **GELU)
    assert fabella_command(["export", str(run), "--to", "gguf", "--out", str(tmp_path / "out")]) == 0
    measured = read_record(tmp_path / "out")["comparison"]
    assert measured["target"] == "llama.cpp by llama-cpp-python 0"
    assert measured["max_logit_difference"] > 1e-4
    rounding = measured["rounding"]
    assert rounding["name"] == "GELU in float16"
    assert rounding["rest"] <= 0.25 * rounding["effect"]
    assert measured["greedy_explained"] == measured["prompts"] == 20
    assert measured["tokenizer"] == "equal"
    assert "on average if both compute GELU in float16" in capsys.readouterr().out


def test_a_model_without_gelu_has_no_rounding(llama: type[Llama], tmp_path: Path) -> None:
    measured = export(make_run(tmp_path / "run", "llama", bpe()), to="gguf", out=tmp_path / "out").comparison
    assert measured.rounding is None
    assert measured.max_logit_difference <= 1e-4
    assert measured.greedy_equal == measured.greedy_explained == 20


def test_the_mark_of_a_space_is_left_out_of_the_compared_texts_and_named(llama: type[Llama], tmp_path: Path) -> None:
    result = export(make_run(tmp_path / "run", "llama", sentencepiece()), to="gguf", out=tmp_path / "out")
    assert result.comparison.tokenizer == "equal, without ▁, which it reads as a space"
    assert result.warnings == ("llama.cpp reads ▁ (U+2581) as a space. Other text has the same tokens.",)


def test_a_tokenizer_that_differs_is_refused_with_the_first_other_ids(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenize = llama.tokenize

    def with_another_end(self: Llama, text: bytes, **options: bool) -> list[int]:
        return tokenize(self, text + b"!", **options)

    monkeypatch.setattr(llama, "tokenize", with_another_end)
    with pytest.raises(NumericsError, match=r"the tokenizer differs: 'Once upon a time.* from id [1-9]"):
        export(make_run(tmp_path / "run", "llama", bpe()), to="gguf", out=tmp_path / "out")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_error_that_the_rounding_does_not_explain_is_refused(
    family: str, llama: type[Llama], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "error", 0.01)
    run = make_run(tmp_path / "run", family, bpe(), **(GELU if family == "gpt2" else {}))
    with pytest.raises(NumericsError, match=r"the logits differ by up to .* more than 0\.0001"):
        export(run, to="gguf", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
