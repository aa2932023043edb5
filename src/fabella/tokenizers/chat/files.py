"""What the files next to a tokenizer say of it: ``tokenizer_config.json``, ``special_tokens_map.json`` and others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabella.errors import TokenizerError
from fabella.tokenizers import untrusted

CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
TEMPLATE_FILE, OLD_TEMPLATE_FILE = "chat_template.jinja", "chat_template.json"
FILES = (CONFIG_FILE, MAP_FILE, TEMPLATE_FILE, OLD_TEMPLATE_FILE)
CLASSES_WITH_BOS = ("LlamaTokenizer", "GemmaTokenizer", "CodeLlamaTokenizer")
"""Classes of Transformers that add the start token unless ``add_bos_token`` is false; also with the suffix Fast."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Special tokens and chat template that the files name; empty where they name none."""

    eos_token: str = ""
    bos_token: str = ""
    pad_token: str = ""
    special_tokens: tuple[str, ...] = ()
    """All special tokens, those above included"""
    adds_bos: bool | None = None
    """Whether the tokenizer puts the start token before a text; None if the files do not say"""
    chat_template: str = ""


def read(directory: Path) -> TokenizerFiles:
    """Read the files of a directory, those that exist. Raises TokenizerError for a damaged one."""
    config, special_map = (_object(directory / name) for name in (CONFIG_FILE, MAP_FILE))
    names = {key: _token(config, key) or _token(special_map, key) for key in ("eos_token", "bos_token", "pad_token")}
    eos_token = names["eos_token"] or _token(config, "sep_token") or _token(special_map, "sep_token")
    others = [*_listed(config), *_listed(special_map)]
    special = dict.fromkeys(token for token in (eos_token, *names.values(), *others) if token)
    return TokenizerFiles(
        eos_token=eos_token,
        bos_token=names["bos_token"],
        pad_token=names["pad_token"],
        special_tokens=tuple(special),
        adds_bos=_adds_bos(config),
        chat_template=_chat_template(directory, config),
    )


def _object(path: Path) -> Mapping[str, Any]:
    return untrusted.parse(untrusted.read(path), str(path)) if path.is_file() else {}


def _token(values: Mapping[str, Any], key: str) -> str:
    token = values.get(key)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""


def _listed(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the special tokens that a file lists in addition to those with a role."""
    more = values.get("additional_special_tokens")
    for token in more if isinstance(more, Sequence) and not isinstance(more, str) else ():
        yield token if isinstance(token, str) else _token({"token": token}, "token")
    decoder = values.get("added_tokens_decoder")
    for token in decoder.values() if isinstance(decoder, Mapping) else ():
        if isinstance(token, Mapping) and token.get("special") is True:
            yield _token({"token": token}, "token")


def _adds_bos(config: Mapping[str, Any]) -> bool | None:
    said = config.get("add_bos_token")
    if isinstance(said, bool):
        return said
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    return True if name in CLASSES_WITH_BOS else None


def _chat_template(directory: Path, config: Mapping[str, Any]) -> str:
    """Return the template of a file of its own, else that of the config; of several, the one named default."""
    path = directory / TEMPLATE_FILE
    if path.is_file():
        try:
            return untrusted.read(path, untrusted.MAX_BYTES // 64).decode()
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path} is not UTF-8.") from error
    for values in (config, _object(directory / OLD_TEMPLATE_FILE)):
        template = values.get("chat_template")
        if isinstance(template, list):
            named = {str(item.get("name")): item.get("template") for item in template if isinstance(item, Mapping)}
            template = named.get("default")
        if isinstance(template, str) and template:
            return template
    return ""
