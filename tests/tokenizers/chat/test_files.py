"""What the files next to a tokenizer say of its special tokens and its chat template."""

import json
from pathlib import Path
from typing import Any

import pytest

from fabella.errors import TokenizerError
from fabella.tokenizers.chat.files import CONFIG_FILE, MAP_FILE, OLD_TEMPLATE_FILE, TEMPLATE_FILE, read


def write(folder: Path, name: str, values: Any) -> None:
    (folder / name).write_text(values if isinstance(values, str) else json.dumps(values))


@pytest.mark.parametrize(
    ("config", "special_map", "expected"),
    [
        ({"eos_token": {"content": "</s>"}, "bos_token": "<s>"}, {}, ("</s>", "<s>", "")),
        ({}, {"eos_token": "<eos>", "pad_token": {"content": "<pad>"}}, ("<eos>", "", "<pad>")),
        ({"eos_token": "<a>"}, {"eos_token": "<b>"}, ("<a>", "", "")),
        ({"sep_token": "[SEP]", "cls_token": "[CLS]"}, {}, ("[SEP]", "", "")),
        ({"eos_token": None}, {"eos_token": 3}, ("", "", "")),
    ],
)
def test_the_tokens_are_read(tmp_path: Path, config: Any, special_map: Any, expected: tuple[str, str, str]) -> None:
    write(tmp_path, CONFIG_FILE, config)
    write(tmp_path, MAP_FILE, special_map)
    found = read(tmp_path)
    assert (found.eos_token, found.bos_token, found.pad_token) == expected


def test_all_special_tokens_are_listed_once(tmp_path: Path) -> None:
    added = {"5": {"content": "<|im_end|>", "special": True}, "6": {"content": "word", "special": False}}
    config = {"eos_token": "</s>", "additional_special_tokens": ["<|user|>", {"content": "<|im_end|>"}]}
    write(tmp_path, CONFIG_FILE, {**config, "added_tokens_decoder": added})
    assert read(tmp_path).special_tokens == ("</s>", "<|user|>", "<|im_end|>")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"add_bos_token": True}, True),
        ({"add_bos_token": False, "tokenizer_class": "LlamaTokenizer"}, False),
        ({"tokenizer_class": "LlamaTokenizerFast"}, True),
        ({"tokenizer_class": "GPT2Tokenizer"}, None),
    ],
)
def test_whether_a_start_token_is_added_is_read(tmp_path: Path, config: Any, expected: bool | None) -> None:
    write(tmp_path, CONFIG_FILE, config)
    assert read(tmp_path).adds_bos is expected


def test_a_chat_template_is_read_from_the_newest_place(tmp_path: Path) -> None:
    write(tmp_path, OLD_TEMPLATE_FILE, {"chat_template": "old"})
    assert read(tmp_path).chat_template == "old"
    write(
        tmp_path,
        CONFIG_FILE,
        {"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]},
    )
    assert read(tmp_path).chat_template == "d"
    write(tmp_path, CONFIG_FILE, {"chat_template": "config"})
    assert read(tmp_path).chat_template == "config"
    write(tmp_path, TEMPLATE_FILE, "{# newest #}")
    assert read(tmp_path).chat_template == "{# newest #}"


@pytest.mark.fault("E7", cases=3)
@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, CONFIG_FILE, text)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        read(tmp_path)
