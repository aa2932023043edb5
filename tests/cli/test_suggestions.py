"""Tests that commands and options of other tools get a suggestion, and that every suggestion exists."""

import re
import shlex

import pytest

from fabella.cli import main
from fabella.cli.main import command_files, run
from fabella.cli.suggestions import (
    COMMANDS,
    FIRST_ARGUMENT,
    OPTIONS,
    WITHOUT_COUNTERPART,
    suggest_command,
    suggest_option,
)
from fabella.run_config.files import known_keys
from fabella.run_config.synonyms import SYNONYMS, key_for

FAMILIES = ("llama", "hybrid", "gpt2")
HINTS = [*COMMANDS, *WITHOUT_COUNTERPART.values()]
NAMES = [name for names in COMMANDS.values() for name in names]


def params_of(command: str) -> dict[str, object]:
    """Return every option of a command and of its subcommands."""
    found = main.Commands().get_command(None, command)
    groups = [found, *getattr(found, "commands", {}).values()]
    return {name: param for group in groups for param in group.params for name in (*param.opts, *param.secondary_opts)}


LONG_OPTIONS = sorted(
    {name for command in command_files() for name in params_of(command) if re.fullmatch("--[a-z-]{4,}", name)}
)


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(words) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("hint", HINTS)
def test_every_command_and_option_of_a_hint_exists(hint: str) -> None:
    for line in re.findall(r"fabella ([\w-]+(?: [^:;(,]*)?)", hint):
        command, *words = shlex.split(line.rstrip("."))
        if command.startswith("--"):
            continue
        assert command in command_files(), f"{hint!r} names an unknown command"
        options = [word for word in words if word.startswith("--")]
        assert set(options) <= set(params_of(command)), f"{hint!r} names an option that {command} lacks"
        settings = [word.split("=")[0] for word in words if "=" in word]
        assert set(settings) <= known_keys("llama")


def test_a_name_of_another_tool_is_not_a_command_and_has_one_suggestion() -> None:
    assert not set(NAMES) & set(command_files()), "the command exists now: remove the suggestion"
    assert len(NAMES) == len(set(NAMES))


def test_every_suggested_option_exists() -> None:
    existing = {name for command in command_files() for name in params_of(command)}
    assert set(OPTIONS) <= existing
    assert not {f"--{name}" for name in WITHOUT_COUNTERPART} & existing
    assert FIRST_ARGUMENT


def test_every_suggested_setting_exists() -> None:
    known = frozenset().union(*(known_keys(family) for family in FAMILIES))
    assert set(SYNONYMS) <= known
    names = [name for names in SYNONYMS.values() for name in names]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("finetune", "fabella train TEXT --init-from RUN"),
        ("infer", "Use: fabella generate RUN PROMPT."),
        ("chat", "fabella generate RUN --interactive"),
        ("play", "fabella generate RUN --interactive"),
        ("eval", "Use: fabella evaluate RUN."),
        ("tokenize", "fabella prepare TEXT --out DIRECTORY"),
        ("Sample", "Use: fabella generate RUN PROMPT."),
        ("lm_eval", "Did you mean 'lm-eval'?"),
        ("check_data", "Did you mean 'check-data'?"),
        ("genrate", "Did you mean 'generate'?"),
        ("trian", "Did you mean 'train'?"),
        ("finetuning", "fabella train TEXT --init-from RUN"),
        ("train_lm", "Did you mean 'train'?"),
        ("continue-training", "Use: fabella resume RUN."),
        ("convert_hf_to_gguf", "Use: fabella export RUN"),
        ("lora-train", "Fabella fine-tunes all weights"),
        ("tail", "fabella report RUN --terminal"),
        ("prune", "A run is a directory"),
        ("quantize", "--dtype int8"),
        ("clear-cache", "fabella --help lists the commands."),
        ("translate", "fabella --help lists the commands."),
    ],
)
def test_a_command_of_another_tool_gets_a_suggestion(
    command: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"Unknown command '{command}'. " in (error := error_of([command, "x.txt"], capsys))
    assert expected in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train x.txt --learning-rate 1e-3", "Use --lr."),
        ("train x.txt --max_steps 10", "Use --steps."),
        ("train x.txt --pretrained runs/a", "Use --init-from."),
        ("train x.txt --num-workers 2", "leave it out"),
        ("train x.txt --batch_size 8", "Use --batch-size."),
        ("train x.txt --num-train-epochs 3", "Use --epochs."),
        ("train x.txt --output-dir out", "Use --out."),
        ("train x.txt --weight-decay 0.1", "write optimizer.weight_decay=VALUE"),
        ("train x.txt --n_layer 6", "write model.layers=VALUE"),
        ("train x.txt --block-size 256", "write data.sequences.length=VALUE"),
        ("train x.txt --optimizer.lr 1e-3", "write optimizer.lr=VALUE"),
        ("train x.txt --lora", "Fabella fine-tunes all weights"),
        ("train --model piny-37m", "It is the first argument: fabella train MODEL."),
        ("train x.txt --freeze a", "write training.freeze=VALUE"),
        ("train x.txt --betas 0.9", "write optimizer.betas=VALUE"),
        ("train x.txt --optimizer muon", "write optimizer.kind=VALUE"),
        ("train x.txt --parallel fsdp", "write training.parallel.kind=VALUE"),
        ("train x.txt --run-name a", "write name=VALUE"),
        ("train x.txt --test-size 0.1", "write data.validation.fraction=VALUE"),
        ("train x.txt --setps 10", "Did you mean '--steps'?"),
        ("train x.txt --overwrite", "A run is never overwritten"),
        ("train x.txt --eos x", "fabella train --help lists the options."),
        ("generate run Once --output story.txt", "add > FILE"),
        ("generate run Once --num-beams 4", "There is no beam search"),
        ("evaluate run --samples 3", "Did you mean '--num-samples'?"),
        ("serve run --cors '*'", "Use --allowed-origin."),
        ("serve run --bind 0.0.0.0", "Use --host."),
        ("export run --format gguf", "Use --to."),
        ("export run --bits 8", "Use --precision."),
        ("generate run Once --quantize int8", "Use --dtype."),
        ("serve run --timeout 3", "Did you mean '--receive-timeout' or '--request-timeout' or"),
        ("serve run --rate 3", "fabella serve --help lists the options."),
        ("generate run Once --tokens 30", "Use --max-tokens."),
        ("generate run Once --max_new_tokens 30", "Use --max-tokens."),
        ("generate run Once --temp 0.5", "Use --temperature."),
        ("generate run Once --num-return-sequences 3", "Use --n."),
        ("generate run Once --stream", "Text is always printed while it is generated."),
        ("generate run Once --weight-decay 3", "fabella generate --help lists the options."),
        ("tokenizer train x.txt --out-dir y", "Use --out."),
        ("train x.txt --vocab-size 1000", "that of the tokenizer: --tokenizer bpe:4096."),
        ("prepare x.txt --vocab_size 1000", "that of the tokenizer: --tokenizer bpe:4096."),
        ("presets --nonsense", "fabella presets --help lists the options."),
    ],
)
def test_an_option_of_another_tool_gets_a_suggestion(
    words: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = error_of(words.split(), capsys)
    assert error.startswith("fabella: Unknown option --")
    assert expected in error


@pytest.mark.parametrize("key", sorted(known_keys("llama")))
def test_the_last_part_of_a_setting_leads_to_a_setting_of_this_name_or_to_none(key: str) -> None:
    """A name by which a setting would be found in the documentation never leads to an option of another meaning."""
    last = key.rpartition(".")[2]
    hint = suggest_option(f"--{last.replace('_', '-')}", {"--json"}, "train", takes_settings=True)
    setting = re.search(r"write ([\w.]+)=VALUE", hint)
    if setting is None:
        without_setting = {"fabella train --help lists the options.", *WITHOUT_COUNTERPART.values()}
        assert hint in without_setting or "It is the first argument" in hint
    else:
        assert setting[1] in known_keys("llama")
        assert setting[1].removesuffix(".kind").endswith(last) or setting[1] == key_for(last)


@pytest.mark.parametrize("name", ["split", "ema", "eos", "text", "echo", "random", "tasks", "rate", "deepspeed", "n"])
def test_a_name_that_is_only_similar_is_not_suggested(name: str) -> None:
    for command in ("train", "generate", "serve", "evaluate"):
        options = set(params_of(command))
        if f"--{name}" not in options:
            assert "Did you mean" not in suggest_option(f"--{name}", options, command, takes_settings=True)


@pytest.mark.parametrize("option", LONG_OPTIONS)
def test_a_misspelled_option_is_recognized(option: str) -> None:
    typo = f"{option[:4]}{option[5]}{option[4]}{option[6:]}"  # two letters exchanged
    if typo != option:
        assert option in suggest_option(typo, {option, "--json"}, "train", takes_settings=False)


def test_a_hint_names_only_options_that_the_command_has() -> None:
    assert suggest_option("--tokens", {"--steps"}, "train", takes_settings=False).startswith("fabella train --help")
    assert suggest_option("--tokens", {"--max-tokens"}, "generate", takes_settings=False) == "Use --max-tokens."
    assert suggest_command("nothing-like-it", ["train", "serve"]) == "Choose from: serve, train."
