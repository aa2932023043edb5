"""Tests of Hugging Face folders: logits are those of transformers, tensors survive the way back, damage is named."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import fabella
from fabella.errors import FabellaError
from fabella.interop.export import export
from fabella.interop.import_model import import_model
from fabella.interop.tensor_files_torch import read_tensors
from fabella.interop.tokenizer_json import tokenizer_json
from fabella.runs.verify import verify
from tests.interop.tiny_exports import bpe, make_run

pytestmark = pytest.mark.needs("transformers")
SIZES = {"vocab_size": 304, "max_position_embeddings": 40, "hidden_size": 24, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {**SIZES, **HEADS}),
    "llama, tied": ("LlamaConfig", {**SIZES, **HEADS, "tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    "llama 3.1": (
        "LlamaConfig",
        {**SIZES, **HEADS, "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}},
    ),
    "llama, linear": ("LlamaConfig", {**SIZES, **HEADS, "rope_parameters": {"rope_type": "linear", "factor": 2.0}}),
    "llama, head_dim": ("LlamaConfig", {**SIZES, **HEADS, "head_dim": 8}),
    "mistral": ("MistralConfig", {**SIZES, **HEADS, "sliding_window": None}),
    "qwen2": ("Qwen2Config", {**SIZES, **HEADS, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {**SIZES, **HEADS, "head_dim": 8}),
    "gpt2": ("GPT2Config", {"vocab_size": 304, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 4}),
    "gpt2, gelu": (
        "GPT2Config",
        {
            "vocab_size": 304, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_inner": 36,
            "activation_function": "gelu", "tie_word_embeddings": False,
        },
    ),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "vocab_size": 304, "max_position_embeddings": 40, "hidden_size": 24, "num_layers": 4, "num_heads": 4,
            "attention_types": [[["global", "local"], 2]], "window_size": 6,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", {**SIZES, "num_attention_heads": 3, "intermediate_size": 40, "rotary_pct": 0.5}),
}  # fmt: skip


def make_folder(path: Path, name: str, **changes: Any) -> Any:
    """Save a random model of transformers with a tokenizer; return the model."""
    import transformers

    class_name, settings = MODELS[name]
    torch.manual_seed(1)
    config = getattr(transformers, class_name)(**{**settings, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0).add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(path)
    tokenizer_json(bpe()).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    return model


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers_and_tensors_come_back_unchanged(name: str, tmp_path: Path) -> None:
    model = make_folder(tmp_path / "theirs", name)
    run = import_model(tmp_path / "theirs", out=tmp_path / "run").path
    assert [finding.problem for finding in verify(run) if finding.level != "remark"] == []
    ours = fabella.load(run)
    ids = torch.arange(36)[None] * 7 % 300
    with torch.inference_mode():
        expected, actual = model(ids).logits, ours.model(ids)
    assert (expected - actual).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()) / 10)
    assert ours.generate("Once", max_tokens=5)[0].tokens <= 5
    again = export(run, to="hf", out=tmp_path / "again")
    assert again.comparison.target.endswith(type(model).__name__.replace("Mistral", "Llama"))
    before, after = (read_tensors(tmp_path / folder / "model.safetensors") for folder in ("theirs", "again"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("family", ["mingru", "hybrid", "minigpt"])
def test_an_export_with_its_own_modelling_file_is_imported_without_running_it(family: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family, bpe())
    export(run, to="hf", out=tmp_path / "folder")
    (tmp_path / "folder" / "modeling_fabella.py").write_text("raise SystemExit('executed')")
    again = import_model(tmp_path / "folder", out=tmp_path / "again").path
    greedy = fabella.SamplingParams(temperature=0.0)
    texts = [fabella.load(path).generate("The dog", greedy, max_tokens=20)[0].completion for path in (run, again)]
    assert texts[0] == texts[1]


def truncate(path: Path, size: int) -> None:
    """Cut a file."""
    path.write_bytes(path.read_bytes()[:size])


def change_config(**values: Any) -> Callable[[Path], None]:
    """Return a fault that changes values of config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(config))

    return change


def only_pickle(folder: Path) -> None:
    """Replace the weights by a pickle."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def rewrite_header(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Return a fault that changes the header of the safetensors file."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))

    return change


def huge_header(folder: Path) -> None:
    """Announce a header of 2**60 bytes."""
    path = folder / "model.safetensors"
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


def index_outside(folder: Path) -> None:
    """List a file outside the folder."""
    shutil.move(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../outside.safetensors"}}')


DAMAGED = "not a valid safetensors file"


def other_scale(folder: Path) -> None:
    """Store a norm in int8, with scales of another shape."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    tensors["model.norm.weight.scale"] = torch.ones(7, 3)
    save_file(tensors, folder / "model.safetensors")


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "half of the weights": (lambda folder: truncate(folder / "model.safetensors", 9000), DAMAGED),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "empty weights": (lambda folder: truncate(folder / "model.safetensors", 0), DAMAGED),
    "huge header": (huge_header, DAMAGED),
    "overlapping tensors": (rewrite_header(b'"data_offsets":[0,', b'"data_offsets":[4,'), DAMAGED),
    "unknown dtype": (rewrite_header(b'"F32"', b'"F99"'), DAMAGED),
    "integer weights": (rewrite_header(b'"F32"', b'"I32"'), "is stored as int32"),
    "renamed tensor": (rewrite_header(b"model.norm.weight", b"model.torm.weight"), "model.norm.weight is missing"),
    "only a pickle": (only_pickle, "refusing pickle"),
    "pickle as safetensors": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps([1])), "refusing pickle",
    ),
    "index outside the folder": (index_outside, "does not list the files"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "is not a model that Fabella can import"),
    "damaged config": (lambda folder: truncate(folder / "config.json", 30), "is not a JSON object"),
    "nested config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "is not a JSON object"),
    "remote code": (change_config(auto_map={"AutoModel": "x.Y"}), "which Fabella does not execute"),
    "unknown architecture": (change_config(model_type="t5"), "Cannot import a model of type 't5'"),
    "unknown rotary": (change_config(rope_parameters={"rope_type": "yarn"}), "rope_type = yarn"),
    "unknown activation": (change_config(hidden_act="relu"), "hidden_act = relu"),
    "other size": (change_config(intermediate_size=48), "is 40 x 24, not 48 x 24"),
    "absurd size": (change_config(hidden_size=10**9), "is not that of a model"),
    "no size": (change_config(hidden_size=None), "config.json has no hidden_size"),
    "text as size": (change_config(vocab_size="many"), "is not an integer of at least 1"),
    "too few ids": (change_config(vocab_size=2), "x 24, not 2 x 24"),
    "rotary in both forms": (
        change_config(rope_scaling={"rope_type": "yarn", "factor": 2.0}, rope_parameters={"rope_type": "default"}),
        "rope_type = yarn",
    ),
    "rotary as a list": (change_config(rope_scaling=["yarn"]), "rope_scaling is not an object"),
    "rotary of GPT-NeoX as a list": (
        change_config(model_type="gpt_neox", attention_bias=True, rope_scaling=["yarn"]), "is not an object"
    ),
    "list as architecture": (change_config(model_type=["llama"]), r"type \"\['llama'\]\""),
    "text as tied": (change_config(tie_word_embeddings="true"), "tie_word_embeddings = true is not true or false"),
    "window of a Mistral": (change_config(model_type="mistral", sliding_window=16), "sliding_window = 16"),
    "default window of a Mistral": (
        change_config(model_type="mistral", max_position_embeddings=8192), "sliding_window = 4096"
    ),
    "scale of another shape": (other_scale, "norm.weight.scale does not have one value per row"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "contains no tokenizer"),
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "mistral", "sliding_window": 40},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral"},
        {"architectures": 5},
        {"tie_word_embeddings": None},
    ],
)
def test_settings_that_change_nothing_are_read(changes: dict[str, Any], intact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(intact, folder)
    change_config(**changes)(folder)
    run = import_model(folder, out=tmp_path / "run").path
    weights = read_tensors(intact / "model.safetensors")
    assert np.array_equal(fabella.load(run).model.embedding.weight.detach(), weights["model.embed_tokens.weight"])


def test_a_chat_template_that_cannot_be_applied_is_left_out_with_a_warning(intact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(intact, folder)
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "chat_template": "{% for"}')
    result = import_model(folder, out=tmp_path / "run")
    assert "unexpected 'end of template'" in "".join(result.warnings)
    assert fabella.load(result.path).generate("Once", max_tokens=3)[0].tokens <= 3


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "llama"
    make_folder(folder, "llama")
    return folder


@pytest.mark.fault("E17", cases=len(FAULTS))
@pytest.mark.parametrize("name", FAULTS)
def test_a_damaged_or_hostile_folder_gives_one_error_and_no_run(name: str, intact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(intact, folder)
    fault, message = FAULTS[name]
    fault(folder)
    with pytest.raises(FabellaError, match=message):
        import_model(folder, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
