"""Tests of the modelling file: what it imports, and what it leaves out."""

import ast

import pytest

from fabella.interop.modeling.source import config_values, modeling_source
from fabella.models.registry import family_names, tiny_config


@pytest.mark.parametrize("family", family_names())
def test_the_file_of_every_family_needs_torch_and_transformers_only(family: str) -> None:
    tree = ast.parse(modeling_source(tiny_config(family)))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    roots = {name.partition(".")[0] for name in imported if name}
    assert roots <= {
        "abc",
        "dataclasses",
        "torch",
        "transformers",
        "types",
        "typing",
        "collections",
        "itertools",
        "math",
        "difflib",
    }
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert len(defined) == len(set(defined))
    assert "Model" in defined
    methods = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert not methods & {"loss", "token_losses"}


def test_the_config_has_fields_and_properties_of_the_network() -> None:
    values = config_values(tiny_config("hybrid"))
    assert values["layer_pattern"] == "ma"
    assert values["kinds"] == "mam"
    assert values["unlimited_context"] is False
