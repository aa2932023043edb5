"""Tests of ``fabella generate``: text on standard output, messages on standard error, control characters escaped."""

import io
import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fabella.cli import generate
from fabella.cli.main import run as fabella
from fabella.config.data import Packed
from fabella.generation.decoder.native import build
from fabella.generation.generator import TextGenerator
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Parrot
from tests.processes import started

CSI, OSC, BEL = "\x1b[", "\x1b]", "\x07"
ATTACKS = [
    CSI + "2J",  # clear the screen
    CSI + "31mred" + CSI + "0m",
    CSI + "?1049h",  # the other screen
    CSI + "6n",  # answers on standard input
    CSI + "20t",  # reports the icon's title as input
    CSI + "1A\r overwritten",
    CSI + "8m hidden",
    OSC + "0;title" + BEL,
    OSC + "0;title\x1b\\",
    OSC + "8;;http://evil.example\x1b\\click" + OSC + "8;;\x1b\\",
    OSC + "52;c;cm0gLXJm" + BEL,  # writes the clipboard
    OSC + "1337;File=inline=1:AAAA" + BEL,
    "\x1bP$q\x1b\\",  # DCS
    "\x1b_G payload\x1b\\",  # APC
    "\x1b^ private\x1b\\",  # PM
    "\x1bc",  # full reset
    "\x1b(0lqqk",  # line drawing
    "\x1bN\x1bO",
    "\x9b31m",  # CSI in one character
    "\x9d0;title\x9c",
    "\x90q\x9c",
    "\x84\x85\x8d",
    BEL * 5,
    "\b\b\b rewritten",
    "right\rleft",
    "\x0e shifted \x0f",
    "\x7f\x00\x0b\x0c",
    "\u202e txt.exe",  # right-to-left override
    "\u2066\u2067\u2068\u2069\u200e\u200f\u061c",
    "\u2028\u2029\ufeff\U000e0041\u206a",
]


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def generator_of(text: str) -> TextGenerator:
    """Return a generator that completes the prompt ``A`` with ``text``."""
    config = Config(vocab_size=256, context_length=1024)
    ids = tiny_run.tokenizer()
    model = Parrot(config, [*text.encode(), ids.eos_id], prompt=2)
    return TextGenerator(model, ids, config=config, sequences=Packed(length=1024, stride=1024), engine="torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build.library()  # build the native decoder before the tests: its first use on a machine prints a message
    return tiny_run.make(tmp_path_factory.mktemp("runs") / "tiny")


def run_generate(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of ``fabella generate …``."""
    code = fabella(["generate", *map(str, words)])
    return code, *capsys.readouterr()


# ---------------------------------------------------------------- terminals


@pytest.mark.fault("G5", cases=30)
@pytest.mark.parametrize("attack", ATTACKS, ids=[f"{number:02}" for number in range(len(ATTACKS))])
def test_generated_control_sequences_are_escaped_on_a_terminal(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(ATTACKS) == 30
    terminal = Terminal()
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(attack + " end"))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert fabella(["generate", "run", "A"]) == 0
    text = terminal.getvalue()
    assert text.startswith("A")
    assert text.endswith(" end\n")
    assert "\\x" in text or "\\u" in text or "\\U" in text, "the control character is visible in escaped form"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff]", text)
    assert "\U000e0041" not in text


def test_control_sequences_in_the_prompt_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(" end"))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert fabella(["generate", "run", CSI + "2J", "--max-tokens", "1"]) == 0
    assert terminal.getvalue().startswith(r"\x1b[2J")


def test_no_escape_writes_control_sequences_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(CSI + "31mred"))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert fabella(["generate", "run", "A", "--no-escape"]) == 0
    assert terminal.getvalue() == "A" + CSI + "31mred\n"


def test_output_to_a_pipe_is_not_escaped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(CSI + "31mred\u202e"))
    assert run_generate(capsys, "run", "A")[1] == "A" + CSI + "31mred\u202e\n"


def test_a_character_outside_the_terminals_encoding_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(" 🐉 end"))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert fabella(["generate", "run", "A"]) == 0
    terminal.seek(0)
    assert terminal.read() == "A \\U0001f409 end\n"


def test_the_text_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token is written before the next one is sampled."""
    flushed: list[str] = []

    class Watched(Terminal):
        def flush(self) -> None:
            flushed.append(self.getvalue())

    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(" 🐉!"))
    monkeypatch.setattr(sys, "stdout", Watched())
    fabella(["generate", "run", "A"])
    assert [text for text in dict.fromkeys(flushed) if text] == ["A", "A ", "A 🐉", "A 🐉!", "A 🐉!\n"]


# ---------------------------------------------------------------- completions


def test_the_same_seed_generates_the_same_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run_generate(capsys, folder, "Once", "--seed", "7", "--max-tokens", "20")
    again = run_generate(capsys, folder, "Once", "--seed", "7", "--max-tokens", "20")
    other = run_generate(capsys, folder, "Once", "--seed", "8", "--max-tokens", "20")
    assert first[0] == 0
    assert first[1].startswith("Once")
    assert first[1] == again[1] != other[1]


def test_without_a_seed_the_text_differs_and_the_seed_is_printed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, err = run_generate(capsys, folder, "Once", "--max-tokens", "20", "--temperature", "1")
    seed = re.search(r"--seed (\d+) generates the same text again", err)
    assert seed
    assert run_generate(capsys, folder, "Once", "--max-tokens", "20", "--temperature", "1", "--seed", seed[1])[1] == out
    assert run_generate(capsys, folder, "Once", "--max-tokens", "20", "--temperature", "1")[1] != out


def test_completions_are_printed_in_the_order_of_the_prompts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [folder, "Once", "The dragon", "--seed", "1", "--max-tokens", "9"]
    code, out, _ = run_generate(capsys, *words, "--n", "2")
    stories = out.removesuffix("\n").split(generate.SEPARATOR)
    assert (code, len(stories)) == (0, 4)
    assert [story.startswith(("Once", "The dragon")[number // 2]) for number, story in enumerate(stories)] == [True] * 4
    assert run_generate(capsys, *words)[1].removesuffix("\n").split(generate.SEPARATOR) == stories[::2]


def test_json_has_the_sampling_parameters_and_the_completions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_generate(
        capsys, folder, "Once", "--json", "--n", "2", "--max-tokens", "9", "--seed", "7", "--top-k", "5",
        "--top-p", "0.9",
        "--min-p", "0.01", "--temperature", "0.7", "--repetition-penalty", "1.2", "--checkpoint", "latest",
        "--frequency-penalty", "0.5", "--presence-penalty", "-0.5",
    )  # fmt: skip
    value = json.loads(out)
    assert (code, err, value["step"]) == (0, "", 20)
    assert value["sampling"] == {
        "repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5, "logit_bias": [],
        "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "seed": 7,
    }  # fmt: skip
    assert [set(story) for story in value["completions"]] == [
        {"text", "prompt", "completion", "finish_reason", "tokens", "seconds", "context_shifts"}
    ] * 2
    first = value["completions"][0]
    assert (first["text"], first["tokens"]) == ("Once" + first["completion"], 9)


def test_json_on_a_terminal_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of("\x1b[2J\x9b31m\u202e"))
    monkeypatch.setattr(sys, "stdout", terminal)
    assert fabella(["generate", "run", "A", "--json"]) == 0
    assert json.loads(terminal.getvalue())["completions"][0]["completion"] == "\x1b[2J\x9b31m\u202e"
    assert terminal.getvalue().isascii()
    assert "\x1b" not in terminal.getvalue()


def test_greedy_decoding_prints_no_seed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [run_generate(capsys, folder, "Once", "--temperature", "0", "--max-tokens", "9") for _ in range(2)]
    assert runs[0] == runs[1]
    assert "seed" not in runs[0][2]


def test_a_stop_sequence_ends_the_completion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(" Tom ran. Tim sat."))
    assert run_generate(capsys, "run", "A", "--stop", "Zoe", "--stop", ". T")[1] == "A Tom ran\n"


def test_a_prompt_is_an_argument_or_an_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--max-tokens", "5", "--seed", "7")
    arguments = run_generate(capsys, folder, "Once", "The dog", *common)
    options = run_generate(capsys, folder, *common, "--prompt", "Once", "--prompt", "The dog")
    assert arguments == options
    assert arguments[0] == 0


def test_without_a_prompt_the_model_starts_a_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_generate(capsys, folder, "--max-tokens", "5", "--seed", "1")
    assert code == 0
    assert out.strip()


def test_truncation_and_context_shifts_are_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run_generate(capsys, folder, "Once", "--max-tokens", "60", "--seed", "2")
    assert "1 completion reached --max-tokens before an end." in err
    assert "A text exceeded the context of 32 tokens; each time, generation continued from its last 16." in err


# ---------------------------------------------------------------- interactive


def test_lines_from_a_pipe_are_part_of_the_story(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "story.txt"
    typed = f"Once\n\nthere was\n/save {file}\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed + b"a \xff byte"), encoding="utf-8"))
    code, out, err = run_generate(
        capsys, folder, "--interactive", "--max-tokens", "9", "--seed", "7", "--temperature", "0"
    )
    assert code == 0
    assert out.startswith(file.read_text(encoding="utf-8").removesuffix("\n"))
    assert out.startswith("Once")
    assert " a \ufffd byte" in out
    assert out.endswith("\n")
    assert err == f"Saved to {file}.\n"


def test_control_sequences_are_escaped_in_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(generate, "load", lambda *_, **__: generator_of(CSI + "2J"))
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"A\n")))
    assert fabella(["generate", "run", "-i"]) == 0
    assert terminal.getvalue() == "A" + r"\x1b[2J" + "\n"


@pytest.mark.parametrize("more", [["--json"], ["--n", "2"], ["Twice"]])
def test_interactive_rejects_options_for_several_completions(
    folder: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run_generate(capsys, folder, "Once", "--interactive", *more)
    assert (code, out) == (2, "")
    assert err == "fabella: --interactive generates one story. Leave out --json and --n, and give at most one prompt.\n"


@pytest.mark.slow
def test_on_a_terminal_ctrl_c_stops_the_generation_and_ctrl_d_exits(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    user_side, terminal = os.openpty()
    command = [sys.executable, "-m", "fabella", "generate", str(folder), "-i", "--max-tokens", "1000000", "--seed", "1"]
    with started(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        os.close(terminal)
        screen = Screen(user_side)
        screen.wait_for(b"> ")
        screen.type(b"Once\n")
        screen.wait_for(b"Once\r\n", then=20)
        process.send_signal(signal.SIGINT)
        screen.wait_for(b"(stopped)\r\n> ")
        # Between showing its prompt and waiting for keys, a line editor receives no signal: press again.
        while not screen.shows(b"Press Ctrl-D", within=5):
            process.send_signal(signal.SIGINT)
        screen.wait_for(b"Press Ctrl-D")
        screen.type(b"/set max_tokens 5\n")
        screen.wait_for(b"tokens 5")
        screen.type(b"there\n")
        screen.wait_for(b"there\r\n", then=5)
        screen.type(f"/save {file}\n".encode())
        screen.wait_for(b"Saved to")
        screen.wait_for(b"> ")  # before, the terminal would keep Ctrl-D to itself
        screen.type(b"\x04")
        assert process.wait(timeout=60) == 0
    os.close(user_side)
    assert file.read_text(encoding="utf-8").startswith("Once")


@pytest.mark.slow
def test_on_a_terminal_sigterm_ends_the_session(folder: Path) -> None:
    user_side, terminal = os.openpty()
    command = [sys.executable, "-m", "fabella", "generate", str(folder), "-i"]
    with started(command, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True) as process:
        os.close(terminal)
        screen = Screen(user_side)
        screen.wait_for(b"> ")
        while not screen.shows(b"fabella: interrupted.\r\n", within=5):
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    os.close(user_side)


class Screen:
    """User's side of a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._seen = descriptor, b""

    def type(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def wait_for(self, text: bytes, *, then: int = 0) -> None:
        """Wait for ``text`` and ``then`` more bytes; forget the output before it."""
        assert self.shows(text, then=then, within=60), f"{text!r} never came after {self._seen[-500:]!r}"
        self._seen = self._seen.partition(text)[2]

    def shows(self, text: bytes, *, then: int = 0, within: float) -> bool:
        """Return whether ``text`` and ``then`` more bytes appear before ``within`` seconds without output."""
        while text not in self._seen or len(self._seen.partition(text)[2]) < then:
            ready, _, _ = select.select([self._descriptor], [], [], within)
            if not ready:
                return False
            self._seen += os.read(self._descriptor, 65536)
        return True


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--temperature", "-1"], 2, "temperature = -1.0 is out of range: it must be at least 0 and at most 100."),
        (["--top-p", "0"], 2, "top_p = 0.0 is out of range"),
        (["--n", "0"], 2, "n = 0 is less than 1."),
        (["--max-tokens", "0"], 2, "max_tokens = 0 is out of range"),
        (["--seed", "-3"], 2, "seed = -3 is out of range"),
        (["--stop", ""], 2, "A stop string is empty"),
        (["--checkpoint", "newest"], 2, "Unknown checkpoint 'newest'."),
        (["--checkpoint", "15"], 4, "step-00000015"),
        (["--device", "abacus"], 2, "abacus"),
    ],
)
def test_an_invalid_option_value_is_reported(
    folder: Path, words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run_generate(capsys, folder, "Once", *words)
    assert (found, out) == (code, "")
    assert text in err
    assert "Traceback" not in err


def test_a_missing_run_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run_generate(capsys, tmp_path / "nothing", "Once")
    assert (code, out) == (4, "")
    assert err == (
        f"fabella: No run directory at {tmp_path / 'nothing'}. Give a run directory. To train a small model in two "
        "minutes: fabella quickstart\n"
    )


def test_a_run_without_a_checkpoint_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_generate(capsys, tiny_run.make(tmp_path / "new", steps=()), "Once")
    assert code == 4
    assert "has no valid checkpoint" in err


def test_a_mismatched_tokenizer_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run_generate(capsys, tiny_run.make(tmp_path / "run", tiny_run.run(vocab_size=100)), "Once")
    assert code == 3
    assert "The tokenizer has 256 ids, the model only 100" in err


def test_a_closed_pipe_ends_the_command_without_a_message(folder: Path) -> None:
    """As in ``fabella generate … | head -c 1``."""
    words = [sys.executable, "-m", "fabella", "generate", str(folder), "Once", "--max-tokens", "400", "--seed", "1"]
    with started(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) >= 0, "it ends by itself, not by a signal"
