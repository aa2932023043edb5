"""Tests that families inside and outside the package are found by the name of their file."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from fabella.errors import ConfigError
from fabella.models import registry
from fabella.models.registry import (
    family_module,
    family_names,
    family_source,
    kept_family,
    network_module,
    parse_model_config,
    resolve_family,
)

CONFIG = """
from fabella.models import gpt2


class Config(gpt2.Config):
    family: str = ""
"""
SIZES = {"vocab_size": 61, "context_length": 48, "dim": 24, "layers": 1, "heads": 3, "ffn_dim": 40}


@pytest.fixture
def single_file(tmp_path: Path) -> Path:
    path = tmp_path / "one_torch.py"
    path.write_text(CONFIG + "\nfrom fabella.models.gpt2_torch import Model\n")
    return path


@pytest.mark.parametrize("name", family_names())
def test_a_copy_of_a_family_that_takes_only_the_name_of_the_original_is_refused_with_the_remedy(
    name: str, tmp_path: Path
) -> None:
    folder = Path(registry.__file__).parent
    for suffix in ("", "_torch"):
        text = (folder / f"{name}{suffix}.py").read_text()
        (tmp_path / f"copy{suffix}.py").write_text(
            text.replace(f"from fabella.models.{name} import", "from .copy import")
        )
    path = str(tmp_path / "copy_torch.py")
    message = f"takes only '{name}'.* with a default: family: str = \"copy\""
    with pytest.raises(ConfigError, match=message):
        registry.tiny_config(path)
    with pytest.raises(ConfigError, match=message):
        parse_model_config({**SIZES, "family": path})
    lines = (tmp_path / "copy.py").read_text().splitlines()
    for number, (replaced, problem) in enumerate({"": "Field required", '    family: str = "copy"': ""}.items()):
        folder = tmp_path / str(number)  # a module is loaded once
        folder.mkdir()
        text = "\n".join(replaced if line.startswith("    family: Literal") else line for line in lines)
        (folder / "copy.py").write_text(text)
        shutil.copy(path, folder)
        if problem:
            with pytest.raises(ConfigError, match=f'fails: ValidationError.*{problem}.*family: str = "copy"'):
                registry.tiny_config(str(folder / "copy_torch.py"))
        else:
            assert registry.tiny_config(str(folder / "copy_torch.py")).family == str(folder / "copy_torch.py")


@pytest.fixture
def with_twins(tmp_path: Path) -> Path:
    (tmp_path / "two.py").write_text(CONFIG)
    (tmp_path / "two_torch.py").write_text("from .two import Config\nfrom fabella.models.gpt2_torch import Model\n")
    (tmp_path / "two_jax.py").write_text("class Model: ...\n")
    return tmp_path / "two_torch.py"


def test_a_family_outside_the_package_is_a_path_to_its_file(single_file: Path) -> None:
    config = parse_model_config({**SIZES, "family": str(single_file)})
    assert config.family == str(single_file)
    assert network_module(config, "torch").Model(config).config is config
    assert family_source(config.family) == [single_file]


def test_a_relative_path_is_relative_to_the_current_directory(
    single_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(single_file.parent)
    assert parse_model_config({**SIZES, "family": "./one_torch.py"}).family == "./one_torch.py"


def test_twins_next_to_the_file_are_used(with_twins: Path) -> None:
    names = [path.name for path in family_source(str(with_twins))]
    assert names == ["two.py", "two_torch.py", "two_jax.py"]
    assert Path(family_module(str(with_twins)).__file__).name == "two.py"
    config = parse_model_config({**SIZES, "family": str(with_twins)})
    assert network_module(config, "torch").Config is family_module(str(with_twins)).Config is type(config)
    assert Path(network_module(config, "jax").__file__).name == "two_jax.py"


def test_a_copy_kept_with_a_run_is_found_relative_to_the_run(with_twins: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "family").mkdir(parents=True)
    for source in family_source(str(with_twins)):
        shutil.copy(source, run / "family")
    kept = kept_family(str(with_twins), "family")
    assert kept == "./family/two_torch.py"
    family = resolve_family(kept, run)
    assert [path.parent for path in family_source(family)] == [run / "family"] * 3
    assert parse_model_config({**SIZES, "family": family})


def test_a_dotted_module_is_a_family(with_twins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = with_twins.parent / "kindergarten"
    package.mkdir()
    for name in ("two.py", "two_torch.py"):
        shutil.copy(with_twins.parent / name, package)
    monkeypatch.syspath_prepend(with_twins.parent)
    for family in ("kindergarten.two", "kindergarten.two_torch"):
        config = parse_model_config({**SIZES, "family": family})
        assert config.family == family
        assert network_module(config, "torch").Model
        assert [path.parent for path in family_source(family)] == [package] * 2
    for name in [name for name in sys.modules if name.startswith("kindergarten")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_family_of_the_package_has_no_files_to_keep() -> None:
    assert all(family_source(name) == [] and kept_family(name, "family") == name for name in family_names())
    assert resolve_family("llama", Path("/run")) == "llama"


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("lama", "Unknown model.family 'lama'"),
        ("./nowhere_torch.py", "Cannot find the family file './nowhere_torch.py'"),
        ("no_package.gla", "Unknown model.family 'no_package.gla'"),
    ],
)
def test_an_unknown_family_is_an_error(family: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        family_module(family)
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_model_config({**SIZES, "family": family})


def test_a_family_without_a_network_for_the_engine_is_an_error(single_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not implemented for engine=jax \(one_jax\.py\)"):
        network_module(parse_model_config({**SIZES, "family": str(single_file)}), "jax")


def test_a_file_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "broken_torch.py"
    path.write_text("import nothing_of_this_name\n")
    with pytest.raises(ConfigError, match=r"Cannot load model\.family = .*ModuleNotFoundError: No module named"):
        family_module(str(path))
    (tmp_path / "empty_torch.py").write_text("")
    with pytest.raises(ConfigError, match="has no class Config that extends ModelConfig"):
        parse_model_config({"family": str(tmp_path / "empty_torch.py")})
    assert not registry.is_external("llama")
