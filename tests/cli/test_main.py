"""Tests of the command line: help of every command, messages and exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.cli import presets
from fabella.cli.main import command_files, run
from tests.processes import started

COMMANDS = sorted(command_files())


def run_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command. Return exit code, standard output and standard error."""
    code = run(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.fault("G9", cases=len(COMMANDS))
@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_command([verb, "--help"], capsys)
    assert (code, err) == (0, "")
    assert f"fabella {verb}" in out
    assert "Examples:" in out


def test_the_list_of_commands_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"]):
        code, out, _ = run_command(words, capsys)
        assert code == 0
        assert all(f"\n  {verb} " in out for verb in COMMANDS)


@pytest.mark.parametrize(
    "words",
    [
        ["train", "storybook-1m", "--steps", "three"],
        ["train", "storybook-1m", "--steps", "-1"],
        ["serve", "run", "--port", "99999"],
        ["generate", "run", "--seed"],
        ["resume"],
        ["plan", "storybook-1m", "--json=yes"],
    ],
    ids=" ".join,
)
def test_the_way_to_the_help_is_a_sentence_of_its_own(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_command(words, capsys)
    assert code == 2
    assert re.search(r"[\w')]\. fabella [a-z ]*--help shows how to use it\.$", err.strip()), err
    assert ": Input" not in err


MISTAKES = {
    ("tarin",): (2, "Unknown command 'tarin'. Did you mean 'train'?"),
    ("doctor", "story.txt"): (2, "Unknown command 'doctor'. Use: fabella check-data TEXT."),  # old name
    ("tasks", "run"): (2, "Unknown command 'tasks'. Use: fabella lm-eval RUN TASK."),
    ("train",): (2, "Nothing to train on was given. Give a text, a preset or a .yaml config."),
    ("train", "--stpes", "3"): (2, "Unknown option --stpes. Did you mean '--steps'?"),
    ("train", "storybook-1m", "--steps", "3", "--epochs", "2"): (2, "--steps 3 and --epochs 2 both set the length."),
    ("train", "storybook-1m", "--steps", "three"): (2, "Invalid value for '--steps'"),
    ("train", "storybok-1m"): (2, "Unknown preset 'storybok-1m'. Did you mean 'storybook-1m'?"),
    ("train", "storybook-1m", "optimizer.lrr=1"): (2, "Did you mean 'optimizer.lr'?"),
    ("train", "storybook-1m", "engine=jaxx"): (2, "engine = 'jaxx'"),
    **{
        (verb, "storybook-1m", "--engine", "jaxx"): (2, "engine = 'jaxx'")
        for verb in ("train", "plan", "batch-size", "tune", "compare-architectures")
    },
    ("bench", "storybook-1m", "--engine", "jaxx"): (2, "Unknown engine 'jaxx'. Did you mean 'jax'?"),
    ("train", "nothing.txt"): (3, "nothing.txt"),
    ("train", "empty.txt"): (3, "empty"),
    ("train", "binary.bin"): (3, "binary.bin"),
    ("train", "mine.yaml"): (2, "Cannot read config file mine.yaml: No such file or directory."),
    ("train", "storybook-1m", "--data", "nothing.txt"): (3, "nothing.txt"),
    ("presets", "piny"): (2, "Did you mean 'piny-37m'?"),
    ("resume", "nothing"): (4, "nothing"),
    ("resume", "a-folder"): (4, "a-folder"),
    ("resume",): (2, "Missing argument"),
    ("generate", "nothing", "Once"): (4, "nothing"),
    ("generate", "a-folder", "Once"): (4, "a-folder"),
    ("generate", "empty.txt", "Once"): (4, "empty.txt"),
    ("generate", "nothing", "Once", "--temperature", "-1"): (2, "temperature = -1.0"),
    ("generate",): (2, "Missing argument"),
    ("perplexity", "nothing", "Once"): (4, "nothing"),
    ("verify",): (2, "Missing argument"),
    ("prepare", "nothing.txt", "--out", "out"): (3, "nothing.txt"),
    ("prepare", "empty.txt", "--out", "out"): (3, "empty"),
    ("prepare", "story.txt", "--out", "a-folder"): (4, "a-folder"),
    ("check-data", "nothing.txt"): (3, "nothing.txt"),
    ("quickstart", "--minutes", "-1"): (2, "Cannot train for --minutes -1."),
}


@pytest.mark.fault("G9", cases=len(MISTAKES))
@pytest.mark.parametrize(("words", "expected"), MISTAKES.items(), ids=[" ".join(words) for words in MISTAKES])
def test_a_mistake_ends_with_a_message_and_its_exit_code(
    words: tuple[str, ...],
    expected: tuple[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "story.txt").write_text("Once upon a time there was a fox.\n\n" * 20)
    (tmp_path / "a-folder").mkdir()
    (tmp_path / "a-folder" / "something").write_text("else")
    code, out, err = run_command(list(words), capsys)
    assert (code, out) == (expected[0], "")
    assert expected[1] in err
    assert "Traceback" not in err


def test_with_debug_an_error_comes_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["presets", "pini"], debug=True) == 2
    assert "Traceback" in capsys.readouterr().err


def test_presets_as_json_have_both_counts(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_command(["presets", "piny-37m", "--json"], capsys)
    facts = json.loads(out)
    assert (code, err) == (0, "")
    assert (facts["parameters"], facts["non_embedding_parameters"]) == (37_362_432, 24_779_520)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_result_that_cannot_be_written_is_an_error() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "fabella", "presets", "--json"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    expected_message = (
        "fabella: Cannot write the result to standard output: no space left on device. Redirect it to a disk "
    )
    assert (done.returncode, done.stderr) == (4, f"{expected_message}with more space.\n")


def test_ctrl_c_prints_a_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(presets, "command", command)
    assert run_command(["presets"], capsys) == (130, "", "\nfabella: interrupted.\n")


@pytest.mark.fault("G9", cases=1)
def test_ctrl_c_while_training_saves_and_ends_with_130(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fabella", "train", "storybook-1m", "tokenizer.kind=bytes", "model.vocab_size=256"]
    words += [
        "data.source.stories=50",
        "model.dim=16",
        "model.heads=2",
        "model.kv_heads=2",
        "training.micro_batch_size=4",
    ]
    words += ["training.log_every_steps=1", "training.length.max_steps=100000"]
    with started(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ.copy()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 1/" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
    assert process.returncode == 130
    assert "everything is saved. Resume with: fabella resume runs/storybook-1m" in rest
    assert "Traceback" not in rest
