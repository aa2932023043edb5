"""Tests of Hugging Face folders: stock classes, the modelling file, the tokenizer, and code that never runs."""

import json
from pathlib import Path

import pytest
import torch

import fabella
from fabella.config.data import BPE
from fabella.errors import FabellaError, NumericsError, StorageError, UsageError
from fabella.interop.export import export, export_checkpoints, verify_export
from fabella.interop.formats import hf
from fabella.storage import MANIFEST, dump_manifest, sha256_of
from fabella.text.chat.template import Message, named
from fabella.tokenizers.bpe import train
from tests.interop.tiny_exports import TEXTS, add_checkpoints, bpe, make_run

pytestmark = pytest.mark.needs("transformers")
STOCK = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel"}
OWN = ("hybrid", "mingru", "mingru_plain", "minigpt", "modern")


@pytest.mark.parametrize("family", [*STOCK, *OWN])
def test_an_export_of_every_family_equals_its_run(family: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family, bpe())
    result = export(run, to="hf", out=tmp_path / "out")
    measured = result.comparison
    assert measured.max_logit_difference <= 1e-4
    assert measured.greedy_equal == measured.prompts == 20
    assert measured.tokenizer == "equal"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [STOCK.get(family, "FabellaForCausalLM")]
    assert ("auto_map" in config) == (family in OWN) == (tmp_path / "out" / "modeling_fabella.py").exists()
    assert verify_export(tmp_path / "out", against=run).comparison.greedy_equal == 20


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("tied", [True, False])
def test_an_export_of_gpt2_keeps_its_activation_and_tying(activation: str, tied: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "gpt2", activation=activation, tie_embeddings=tied)
    assert export(run, to="hf", out=tmp_path / "out").comparison.greedy_equal == 20


@pytest.mark.parametrize("family", ["llama", "mingru", "hybrid"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_less_precision_changes_bits_per_byte_little(precision: str, family: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", family, bpe())
    full = export(run, to="hf", out=tmp_path / "full")
    half = export(run, to="hf", out=tmp_path / "half", precision=precision)
    assert 0 < half.comparison.bits_difference <= 0.005
    weights = "model.safetensors"
    assert (tmp_path / "half" / weights).stat().st_size < 0.6 * (tmp_path / "full" / weights).stat().st_size
    assert full.comparison.bits_difference < half.comparison.bits_difference


@pytest.mark.parametrize("family", ["llama", pytest.param("mingru", marks=pytest.mark.slow)])
def test_transformers_loads_each_exported_checkpoint_with_its_own_weights(family: str, tmp_path: Path) -> None:
    run = add_checkpoints(make_run(tmp_path / "run", family), 20)
    exports = export_checkpoints(run, to="hf", out=tmp_path / "out").exports
    import transformers

    options = {"trust_remote_code": family == "mingru", "local_files_only": True}
    ids = torch.arange(12)[None]
    for result in exports:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(str(result.path), **options)
        ours = fabella.load(run, checkpoint=str(result.step)).model
        with torch.inference_mode():
            assert torch.allclose(theirs(ids).logits.float(), ours(ids).float(), atol=1e-4)
        assert f"from step {result.step}" in (result.path / "README.md").read_text()
    assert [result.step for result in exports] == [10, 20]


def test_ids_without_a_token_are_never_generated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama", bpe())
    export(run, to="hf", out=tmp_path / "out")
    tokens = bpe().vocab_size
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["suppress_tokens"] == [tokens, tokens + 1, tokens + 2]


def test_the_model_card_names_run_family_and_licence(tmp_path: Path) -> None:
    export(make_run(tmp_path / "run", "llama"), to="hf", out=tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "license: " in card
    assert "family `llama`" in card
    assert "from step 10" in card


def test_an_export_that_differs_from_its_run_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", "llama")
    write = hf.save_tensors

    def change_one(path: Path, tensors: dict, precision: str) -> None:
        changed = dict(tensors) | {"model.norm.weight": tensors["model.norm.weight"] * 1.001}
        write(path, changed, precision)

    monkeypatch.setattr(hf, "save_tensors", change_one)
    with pytest.raises(NumericsError, match=r"the logits differ by up to .*, more than 0\.0001"):
        export(run, to="hf", out=tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def reseal(directory: Path) -> None:
    """Write the manifest of a folder again, as its attacker would."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST]
    entries = {
        path.relative_to(directory).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files
    }
    (directory / MANIFEST).write_bytes(dump_manifest({"files": entries}))


@pytest.mark.fault("E14", cases=4)
@pytest.mark.parametrize("how", ["changed file", "other file", "stock", "auto_map"])
def test_code_in_an_export_is_executed_only_if_fabella_would_write_it(how: str, tmp_path: Path) -> None:
    """Load an export with foreign code, whose manifest is valid."""
    run = make_run(tmp_path / "run", "llama" if how == "stock" else "mingru")
    out = tmp_path / "out"
    export(run, to="hf", out=out)
    canary = tmp_path / "canary"
    attack = f"\nopen({str(canary)!r}, 'w').close()\n"
    config = json.loads((out / "config.json").read_text())
    if how == "changed file":
        with (out / "modeling_fabella.py").open("a") as file:
            file.write(attack)
    else:
        (out / "other.py").write_text(attack + "class FabellaForCausalLM: pass\nclass FabellaConfig: pass\n")
    if how in ("auto_map", "stock"):
        config["auto_map"] = {"AutoConfig": "other.FabellaConfig", "AutoModelForCausalLM": "other.FabellaForCausalLM"}
        config["model_type"] = "fabella"
        (out / "config.json").write_text(json.dumps(config))
    reseal(out)
    with pytest.raises(FabellaError):
        verify_export(out, against=run)
    assert not canary.exists()


def test_an_export_of_another_run_or_with_a_changed_file_is_refused(tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "run", "llama"), make_run(tmp_path / "other", "llama", dim=36)
    out = tmp_path / "out"
    export(run, to="hf", out=out)
    with pytest.raises(StorageError, match="was not exported from step 10"):
        verify_export(out, against=other)
    data = bytearray((out / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (out / "model.safetensors").write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        verify_export(out, against=run)


def test_a_family_outside_the_package_is_exported_with_its_code(tmp_path: Path) -> None:
    source = Path(__file__).parents[3] / "src/fabella/models"
    for suffix in ("", "_torch"):
        text = (source / f"mingru_plain{suffix}.py").read_text()
        text = text.replace("from fabella.models.mingru_plain import", "from .own import")
        text = text.replace('Literal["mingru_plain"] = "mingru_plain"', 'str = "own"')
        (tmp_path / f"own{suffix}.py").write_text(text)
    run = make_run(tmp_path / "run", str(tmp_path / "own_torch.py"))
    assert export(run, to="hf", out=tmp_path / "out").comparison.greedy_equal == 20


@pytest.mark.fault("E15", cases=3)
@pytest.mark.parametrize("options", [{"to": "xyz"}, {"to": "hf", "precision": "int3"}, {"to": "hf", "checkpoint": "x"}])
def test_an_unknown_format_or_precision_is_refused(options: dict[str, str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "llama")
    with pytest.raises(UsageError, match=r"Choose from|Did you mean|Use best"):
        export(run, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_chat_template_is_exported_and_writes_the_same_ids(tmp_path: Path) -> None:
    template = named("chatml")
    tokenizer = train(BPE(vocab_size=300), TEXTS, template.special_tokens)
    tokenizer.chat_template = template
    run = make_run(tmp_path / "run", "llama", tokenizer)
    export(run, to="hf", out=tmp_path / "out")
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "out"))
    messages = [{"role": "user", "content": "The dog"}]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    generator = fabella.load(run)
    assert generator.chat is not None
    ours = generator.prepend_prefix(generator.chat.encode([Message("user", "The dog")]))
    assert ids == ours.tolist()
