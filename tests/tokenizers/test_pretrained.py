"""Imported tokenizers are found and follow the protocol."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Library

from fabella.config.data import Pretrained
from fabella.errors import TokenizerError
from fabella.tokenizers import loading, pretrained
from tests.tokenizers.samples import corpus, foreign_values, trained

END = "<|endoftext|>"


def gpt2_files(folder: Path) -> Path:
    """Write vocab.json and merges.txt as GPT-2 has them, from a BPE tokenizer trained here."""
    values = foreign_values()
    (folder / "vocab.json").write_text(json.dumps(values["model"]["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in values["model"]["merges"]), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_two_files_of_gpt2_are_loaded(tmp_path: Path) -> None:
    tokenizer = pretrained.load(Pretrained(source=str(gpt2_files(tmp_path))))
    expected = trained("bpe", 400)
    assert tokenizer.vocab_size == expected.vocab_size
    assert tokenizer.eos_id == expected.eos_id
    for text in corpus()[:20]:
        assert tokenizer.encode(text).tolist() == expected.encode(text).tolist()


def test_a_directory_and_a_file_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign_values()), encoding="utf-8")
    by_folder = pretrained.load(Pretrained(source=str(tmp_path)))
    by_file = pretrained.load(Pretrained(source=str(tmp_path / "tokenizer.json")))
    assert by_folder.fingerprint == by_file.fingerprint == trained("pretrained").fingerprint


def test_its_own_pretokenizer_is_kept() -> None:
    tokenizer, library = trained("pretrained"), Library.from_str(json.dumps(foreign_values()))
    for text in corpus()[:50]:
        assert tokenizer.encode(text).tolist() == library.encode(text, add_special_tokens=False).ids


def loaded(change: dict[str, Any], end: str = END) -> Any:
    values = {**foreign_values(), **change}
    return pretrained.from_json(json.dumps(values).encode(), end, "tokenizer.json")


def test_padding_truncation_and_added_tokens_are_switched_off() -> None:
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": END}  # fmt: skip
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    sequence = [{"SpecialToken": {"id": END, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {"type": "TemplateProcessing", "single": sequence, "pair": sequence,
                "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}}}  # fmt: skip
    tokenizer = loaded({"padding": padding, "truncation": truncation, "post_processor": template})
    text = corpus()[0]
    assert tokenizer.encode(text).tolist() == trained("pretrained").encode(text).tolist()
    assert tokenizer.encode_many([text, "a"])[0].tolist() == trained("pretrained").encode(text).tolist()


def test_dropout_is_switched_off() -> None:
    tokenizer = loaded({"model": {**foreign_values()["model"], "dropout": 0.9}})
    assert tokenizer.encode(corpus()[0]).tolist() == trained("pretrained").encode(corpus()[0]).tolist()


def test_an_eos_token_that_was_a_plain_added_token_becomes_special() -> None:
    added = [{**foreign_values()["added_tokens"][0], "special": False}]
    tokenizer = loaded({"added_tokens": added})
    assert tokenizer.eos_id not in tokenizer.encode(f"a{END}b")
    assert tokenizer.decode(tokenizer.encode(f"a{END}b").tolist()) == f"a{END}b"
    assert tokenizer.token_bytes(tokenizer.eos_id) == b""


def test_an_unknown_eos_token_is_refused_with_the_special_tokens() -> None:
    with pytest.raises(
        TokenizerError,
        match=r"has no EOS token '</s>'\. Name one: --end-token TOKEN .*Its special tokens: <\|endoftext\|>\.",
    ):
        loaded({}, "</s>")


def test_ids_without_a_token_are_unknown() -> None:
    values = foreign_values()
    values["model"]["vocab"]["far"] = 500
    tokenizer = pretrained.from_json(json.dumps(values).encode(), END, "tokenizer.json")
    assert tokenizer.vocab_size == 501
    with pytest.raises(TokenizerError, match="Unknown token id 450"):
        tokenizer.decode([450])


@pytest.mark.parametrize(
    ("make", "expected_message"),
    [
        (lambda path: path / "nothing.json", r"Cannot find a tokenizer at .*nothing\.json\. Give a tokenizer\.json"),
        (
            lambda path: path,
            r"contains no tokenizer\. It needs one of: tokenizer\.json, vocab\.json, ",
        ),
    ],
)
def test_a_missing_tokenizer_is_an_error(make: Any, expected_message: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=expected_message):
        pretrained.load(Pretrained(source=str(make(tmp_path))))


def test_merges_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (gpt2_files(tmp_path) / "merges.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(TokenizerError, match=r"merges\.txt is not text"):
        pretrained.load(Pretrained(source=str(tmp_path)))


def test_merges_that_are_not_pairs_are_refused(tmp_path: Path) -> None:
    (gpt2_files(tmp_path) / "merges.txt").write_text("a b c\n")
    with pytest.raises(TokenizerError, match="is not a valid tokenizer"):
        pretrained.load(Pretrained(source=str(tmp_path)))


def test_a_hub_name_needs_the_hub_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TokenizerError, match=r"need .*huggingface-hub\. pip install 'fabella\[hub\]'"):
        pretrained.load(Pretrained(source="someone/something"))


class FakeHub:
    """A fake of ``huggingface_hub``."""

    def __init__(self, files: dict[str, Path], error: type[OSError] = ConnectionError) -> None:
        self.files, self.error = files, error
        self.requests: list[tuple[str, bool]] = []

    def hf_hub_download(self, name: str, file: str, *, local_files_only: bool) -> str:
        self.requests.append((file, local_files_only))
        if file not in self.files:
            raise self.error(f"no connection for {name}. Please check\nand so on")
        return str(self.files[file])


def test_an_unreachable_hub_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", FakeHub({}))
    expected_message = (
        r"'a/b' cannot be downloaded from the hub \(tokenizer\.json: no connection for a/b; .*\)\. Give the path .*bpe"
    )
    with pytest.raises(TokenizerError, match=expected_message):
        pretrained.load(Pretrained(source="a/b"))


def test_an_unreachable_hub_is_not_tried_for_the_other_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection and nothing in the cache is a FileNotFoundError (LocalEntryNotFoundError), after half a minute."""
    hub = FakeHub({}, FileNotFoundError)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(TokenizerError, match=r"\(tokenizer\.json: no connection for a/b; tokenizer\.model: "):
        pretrained.load(Pretrained(source="a/b"))
    assert hub.requests == [("tokenizer.json", False), ("tokenizer.model", True)]


def test_a_hub_name_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(foreign_values()), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "huggingface_hub", FakeHub({"tokenizer.json": tmp_path / "tokenizer.json"}))
    tokenizer = loading.open_any("gpt2")
    assert tokenizer.fingerprint == trained("pretrained").fingerprint


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config.json": {"eos_token": "[END]"}}, "[END]"),
        ({"tokenizer_config.json": {"eos_token": {"content": "[END]", "lstrip": False}}}, "[END]"),
        ({"special_tokens_map.json": {"sep_token": "[END]", "cls_token": "[CLS]"}}, "[END]"),
        ({}, "</s>"),
    ],
)
def test_the_files_of_a_tokenizer_say_what_ends_a_document(
    tmp_path: Path, files: dict[str, Any], expected: str
) -> None:
    text = json.dumps(foreign_values(), ensure_ascii=False).replace(END, "</s>")
    values = json.loads(text)
    extra = {**values["added_tokens"][0], "content": "[END]", "id": 400}
    values["added_tokens"].append(extra)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    ids = {"[END]": 400, "</s>": values["added_tokens"][0]["id"]}
    assert pretrained.load(Pretrained(source=str(tmp_path))).eos_id == ids[expected]
    assert pretrained.load(Pretrained(source=str(tmp_path), eos_token="</s>")).eos_id == ids["</s>"]


def test_the_tokenizer_of_a_run_is_used_again_with_its_own_eos_token(tmp_path: Path) -> None:
    for kind in ("bytes", "bpe", "sentencepiece", "pretrained"):
        trained(kind).save(tmp_path / kind / "tokenizer")
        again = pretrained.load(Pretrained(source=str(tmp_path / kind)))
        assert again.fingerprint == trained(kind).fingerprint
