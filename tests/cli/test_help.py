"""Tests that help texts have readable types, full sentences, and defaults in words."""

import re
from typing import Any

import pytest

from fabella.cli import main
from fabella.cli.help import readable_help, readable_name
from fabella.cli.main import command_files, run

COMMANDS = sorted(command_files())


def commands_of(name: str) -> list[Any]:
    found: Any = main.Commands().get_command(None, name)
    return list(found.commands.values()) if hasattr(found, "commands") else [found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_option_is_described_by_a_sentence(name: str) -> None:
    for command in commands_of(name):
        for param in command.params:
            text = param.help or ""
            assert re.match(r"^[A-Z].*[.]$", text, re.DOTALL), f"{name} {param.name}: {text!r}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_no_python_types_no_ranges_and_no_defaults_that_mean_nothing(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [[name, command.name] for command in commands_of(name)] if name == "tokenizer" else [[name]]
    for line in words:
        assert run([*line, "--help"]) == 0
        out = capsys.readouterr().out
        assert not re.search(r"<\w+|x[<>]=|default: (0|0\.0|None)\]", out), out


def test_every_command_names_the_same_devices() -> None:
    helps = {param.help for name in COMMANDS for command in commands_of(name) for param in command.params
             if param.name == "device"}  # fmt: skip
    (text,) = helps
    assert all(device in text for device in ["auto", "cpu", "cuda", "cuda:N", "mps"])


def test_types_become_placeholders() -> None:
    assert readable_name("--steps <int range>") == "--steps N"
    assert readable_name("--lr <float>") == "--lr NUMBER"
    assert readable_name("overrides... <list[str]>") == "[KEY=VALUE]..."
    assert readable_help("Training steps.  [default: 0; x>=0]") == "Training steps."
    assert readable_help("Trials.  [default: 20; x>=1]") == "Trials.  [default: 20]"
    assert readable_help("Share.  [default: 0.5; 0.0<=x<=1.0]") == "Share.  [default: 0.5]"
    assert readable_help("Source.  [required]") == "Source.  [required]"
