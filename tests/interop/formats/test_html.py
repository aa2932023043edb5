"""Tests of the page of one file: it generates the text of Fabella's int8 decoder, and no other code runs in it."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabella.config.data import BPE
from fabella.engine.build_model_torch import load_model
from fabella.errors import UsageError
from fabella.generation.decoder.backends_torch import NativeBackend, compile_decoder, decode_backend
from fabella.generation.generate_torch import generate
from fabella.generation.sampling import SamplingParams
from fabella.interop.export import export, verify_export
from fabella.interop.formats import html
from fabella.interop.page.node import node_command
from fabella.interop.page.render import render
from fabella.interop.source import open_source
from fabella.models import gpt2_torch
from fabella.tokenizers import loading
from fabella.tokenizers.tokenizer import Tokenizer
from tests.interop.tiny_exports import LENGTH, MODELS, bpe, make_run, sentencepiece

needs_node = pytest.mark.skipif(not node_command(), reason="needs Node.js")


@needs_node
@pytest.mark.parametrize(("family", "changes"), MODELS, ids=str)
def test_a_page_has_the_logits_and_the_text_of_the_int8_decoder(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", family, **changes)
    result = export(run, to="html", out=tmp_path / "out")
    measured = result.comparison
    assert {file.name for file in result.path.iterdir()} == {"story.html", "export.json", "manifest.json"}
    assert measured.bits_difference <= 0.005
    source = open_source(run, "best")
    model = load_model(source.config, source.weights, "cpu")
    compile_decoder(model, "int8")
    backend = decode_backend(model, 1, LENGTH)
    if not isinstance(backend, NativeBackend):
        pytest.skip("the native decoder cannot be built here")
    assert (measured.decoder, measured.greedy_equal, measured.greedy_ties) == ("int8", measured.prompts, 0)
    ids = np.random.default_rng(3).integers(0, source.tokenizer.vocab_size, (1, LENGTH - 1))
    logits = html.open_target(source, tmp_path / "out").logits(ids)[0]
    backend.reset(0)
    for position, token in enumerate(ids[0].tolist()):
        assert torch.equal(backend.decode([token], [position])[0], torch.from_numpy(logits[position].copy()))


@needs_node
@pytest.mark.parametrize("make_tokenizer", [bpe, sentencepiece])
def test_a_page_has_the_tokenizer_of_the_run(make_tokenizer: Callable[[], Tokenizer], tmp_path: Path) -> None:
    result = export(make_run(tmp_path / "run", "llama", make_tokenizer()), to="html", out=tmp_path / "out")
    assert result.comparison.tokenizer == "equal"
    assert verify_export(tmp_path / "out", against=tmp_path / "run").comparison.greedy_equal == 20


@needs_node
@pytest.mark.parametrize("family", ["llama", "hybrid", "mingru", "modern"])
def test_a_full_context_is_shifted_as_in_fabella(family: str, tmp_path: Path) -> None:
    source = open_source(make_run(tmp_path / "run", family), "best")
    html.write(source, tmp_path, "int8")
    model = load_model(source.config, source.weights, "cpu")
    compile_decoder(model, "int8")
    prompt = np.arange(8, dtype=np.int32)
    limit = {} if source.config.unlimited_context else {"context_length": LENGTH}
    steps = generate(
        model,
        [prompt],
        SamplingParams(temperature=0.0),
        rows=[0],
        max_tokens=4 * LENGTH,
        vocab_size=source.tokenizer.vocab_size,
        **limit,
    )
    ids = html.open_target(source, tmp_path).greedy(prompt[None].astype(np.int64), 4 * LENGTH)
    assert ids[0].tolist() == [token for step in steps for token in step]


class Scripts(HTMLParser):
    """Tags, attributes that run code, and the text outside scripts, as a browser finds them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str | None] = []
        self.handlers: list[str] = []
        self.title = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "svg", "object"):
            self.ids.append(dict(attrs).get("id"))
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if not self.title and data.strip():
            self.title = data


@pytest.mark.fault("E19", cases=6)
@pytest.mark.parametrize(
    "hostile",
    [
        "</script><script>hacked=1</script>", "<!--<script>", "</title><img src=x onerror=hacked=1>",
        "--><svg onload=x>", "\u2028</SCRIPT >", "%%MODEL%% {{x}} ${x} \\u003cscript> &lt;script&gt;",
    ],
)  # fmt: skip
def test_markup_in_a_run_is_text_in_its_page(hostile: str, tmp_path: Path) -> None:
    tokenizer = loading.train(BPE(vocab_size=320), [hostile] * 50)
    run = make_run(tmp_path / "run", "mingru", tokenizer, prompts=(hostile,))
    page = render(open_source(run, "best"))
    found = Scripts(page)
    assert found.ids == ["model", "weights", "decoder", "tokenizer", "page"]
    assert found.handlers == []
    start = page.index(">", page.index('<script id="model"')) + 1
    model = json.loads(page[start : page.index("</script>", start)])
    assert model["prompts"] == [hostile]
    tokens = [token.encode("latin-1") for token in model["tokenizer"]["tokens"]]
    assert max(tokens, key=len) in hostile.encode()


@needs_node
@pytest.mark.fault("E14", cases=3)
@pytest.mark.parametrize("change", ["</body>", "hidden[r]", '"name"'])
def test_a_changed_page_is_refused_and_never_executed(change: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "mingru")
    source = open_source(run, "best")
    html.write(source, tmp_path, "int8")
    file = tmp_path / html.FILE
    file.write_text(file.read_text().replace(change, f"<script>process.exit(1)</script>{change}"))
    with pytest.raises(UsageError, match="was not executed"):
        html.open_target(source, tmp_path)


@pytest.mark.fault("E15", cases=1)
def test_without_node_the_export_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", "mingru")
    find = importlib.util.find_spec
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("fabella.interop.page.node.find_spec", lambda name: None if "node" in name else find(name))
    with pytest.raises(UsageError, match=r"needs Node.js.*pip install .*\[export\]"):
        export(run, to="html", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("E15", cases=1)
def test_a_model_without_an_int8_decoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", "gpt2")
    monkeypatch.setattr(gpt2_torch.Block, "parallel_residual", True, raising=False)  # which its forward contradicts
    with pytest.raises(UsageError, match="cannot hold family 'gpt2': the int8 decoder does not support"):
        render(open_source(run, "best"))
