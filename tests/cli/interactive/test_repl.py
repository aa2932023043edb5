"""Tests that every command of the interactive session does what its help says, and that no line loses the story."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fabella.cli.interactive.repl import HELP, SEPARATOR, Repl, ReplIO
from fabella.cli.interactive.story_session import StorySession
from fabella.config.data import Packed
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams
from fabella.text.chat.template import named
from fabella.tokenizers.bytes import ByteTokenizer
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Hashing, Parrot

Interrupt = KeyboardInterrupt


def generator() -> TextGenerator:
    """Return a generator whose completion differs for every text."""
    config = Config(vocab_size=256, context_length=4096, endless=True)
    letters = [ord(letter) for letter in "abcdefgh "]
    model = Hashing(config)
    model.table[:, [token for token in range(256) if token not in letters]] = -1e9
    return TextGenerator(
        model, tiny_run.tokenizer(), config=config, sequences=Packed(length=4096, stride=4096), engine="torch"
    )


def chat_session() -> StorySession:
    """Return a chat with a model that answers every message with "Hello"."""
    template = named("chatml")
    tokenizer = ByteTokenizer(template.special_tokens)
    tokenizer.chat_template = template
    config = Config(vocab_size=258, context_length=4096)
    length = len(b"user\nHi\nassistant\n") + 4  # three special tokens, and EOS before the document
    model = Parrot(config, [*b"Hello", 257], prompt=length)
    sequences = Packed(length=4096, stride=4096)
    answering = TextGenerator(model, tokenizer, config=config, sequences=sequences, engine="torch")
    return StorySession(answering, SamplingParams(temperature=0), max_tokens=30, chat=True)


@dataclass
class Session:
    """Session of a user who types these lines (``Interrupt`` is Ctrl-C), and its output."""

    lines: list[str | type[BaseException]]
    echo: bool = True
    session: StorySession = field(
        default_factory=lambda: StorySession(generator(), SamplingParams(seed=3), max_tokens=12)
    )
    written: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    stop_at: int = -1
    """Number of the piece of text at which Ctrl-C is pressed."""

    def run(self, prompt: str = "") -> "Session":
        lines: Iterator[str | type[BaseException]] = iter(self.lines)

        def read() -> str | None:
            line = next(lines, None)
            if isinstance(line, type):
                raise line
            return line

        Repl(self.session, ReplIO(read, self.write, self.messages.append, self.echo)).run(prompt)
        return self

    def write(self, text: str) -> None:
        self.written.append(text)
        if len(self.written) == self.stop_at:
            raise KeyboardInterrupt

    @property
    def out(self) -> str:
        return "".join(self.written)


def test_prompts_and_completions_alternate() -> None:
    session = Session(["Once", "", "there was", "."]).run()
    turns = session.session.turns
    assert [turn.prompt for turn in turns] == [
        "Once",
        "",
        " there was" if turns[1].completion[-1] != " " else "there was",
        ".",
    ]
    assert all(len(turn.completion) == 12 for turn in turns)
    assert session.out == session.session.text
    assert session.messages == []


def test_text_that_the_terminal_echoes_is_not_written_again() -> None:
    session = Session(["Once", "there was"], echo=False).run()
    assert session.out == "".join(turn.completion + "\n" for turn in session.session.turns)


def test_the_first_prompt_may_come_from_the_command_line() -> None:
    assert Session([]).run("Once").session.turns[0].prompt == "Once"
    assert Session([]).run("Once").session.text == Session(["Once"]).run().session.text, (
        "the same seed generates the same text"
    )


@pytest.mark.parametrize(
    ("story", "prompt", "joined"),
    [("", "Once", "Once"), ("Once", "there", " there"), ("Once ", "there", "there"), ("Once", ", there", ", there"),
     ("Once\n", "there", "there"), ("Once", "", ""), ("Once", " there", " there"), ("Once", "!", "!")],
)  # fmt: skip
def test_a_space_separates_words_but_not_punctuation(story: str, prompt: str, joined: str) -> None:
    session = StorySession(generator(), SamplingParams(), max_tokens=1)
    session.add(story)
    assert session.add(prompt) == joined


def test_regenerate_replaces_only_the_last_completion() -> None:
    once = Session(["Once", "there"]).run().session.turns
    again = Session(["Once", "there", "/regenerate"]).run()
    assert [turn.prompt for turn in again.session.turns] == [turn.prompt for turn in once]
    assert again.session.turns[0] == once[0]
    assert again.session.turns[1].completion != once[1].completion
    assert again.out.endswith(SEPARATOR + again.session.text)
    assert Session(["Once", "there", "/regenerate", "/regenerate"]).run().session.text not in {again.session.text}


def test_undo_removes_prompt_and_completion() -> None:
    session = Session(["Once", "there", "/undo"]).run()
    assert session.session.turns == Session(["Once"]).run().session.turns
    assert Session(["Once", "/undo", "/undo"]).run().messages == [
        "There is nothing to undo. Write the beginning of a story."
    ]


def test_new_starts_an_empty_story() -> None:
    session = Session(["Once", "/new Twice"]).run()
    assert [turn.prompt for turn in session.session.turns] == ["Twice"]
    assert Session(["Once", "/new"]).run().session.text == ""


def test_ctrl_c_stops_the_generation_but_not_the_program() -> None:
    session = Session(["Once", "there"], stop_at=5).run()
    first, second = session.session.turns
    assert first.finish_reason is None
    assert 0 < len(first.completion) < 12
    assert (second.finish_reason, len(second.completion)) == ("length", 12)
    assert session.messages == ["(stopped)"]


def test_ctrl_c_at_the_prompt_prints_how_to_exit() -> None:
    session = Session([Interrupt, "Once", Interrupt]).run()
    assert session.messages == ["\nPress Ctrl-D to exit; /help lists the commands."] * 2
    assert len(session.session.turns) == 1


def test_settings_are_shown_changed_and_checked() -> None:
    session = Session(
        ["/set", "/set temperature 0.25", "/set top-p=0.5", "/set max_tokens 3", "/set seed 9", "Once"]
    ).run()
    assert session.session.settings | {"seed": 9} == session.session.settings
    assert (session.session.settings["temperature"], session.session.settings["top_p"]) == (0.25, 0.5)
    assert len(session.session.turns[0].completion) == 3
    assert session.messages[0].startswith("max_tokens 12  repetition_penalty 1  frequency_penalty 0")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/set temperatur 1", "Unknown setting 'temperatur'. Did you mean 'temperature'?"),
        ("/set temperature hot", "temperature = 'hot' is not a number. The current value is 0.8."),
        ("/set temperature -1", "temperature = -1.0 is out of range"),
        ("/set temperature nan", "temperature = nan is out of range"),
        ("/set seed 1.5", "seed = '1.5' is not an integer."),
        ("/set seed 99999999999999999999", "seed = 99999999999999999999 is out of range"),
        ("/set max-tokens 0", "max_tokens = 0 is less than 1."),
        ("/set max_tokens", "/set max_tokens needs a value."),
        ("/regenrate", "Unknown command /regenrate. Did you mean 'regenerate'? /help lists the commands."),
        ("/regenerate", "Nothing has been generated yet. Write the beginning of a story."),
        ("/", "Unknown command /. "),
        ("/save", "/save needs a file name."),
        ("/save a\0b", "/save needs a file name."),
        ("/save! /nowhere/at/all", "writing all failed at /nowhere/at/all: no such file or directory."),
        ("/save " + "x" * 5000, "looking for it failed at xxx"),
        ("/help", HELP),
    ],
)  # fmt: skip
def test_an_invalid_line_prints_an_error_and_keeps_the_session(line: str, message: str) -> None:
    session = Session([line, "Once"]).run()
    assert session.messages[0].startswith(message)
    assert len(session.session.turns) == 1


def test_two_slashes_start_text_with_a_slash() -> None:
    assert Session(["//regenerate"]).run().session.turns[0].prompt == "/regenerate"


def test_save_writes_the_story_and_does_not_overwrite_files(tmp_path: Path) -> None:
    file = tmp_path / "my story.txt"
    session = Session(["Once 🐉", f"/save {file}"]).run()
    assert file.read_text(encoding="utf-8") == session.session.text + "\n"
    assert session.messages == [f"Saved to {file}."]
    refused = Session(["Twice", f"/save {file}"]).run()
    assert refused.messages == [f"{file} exists. Choose another name, or overwrite it with /save! FILE."]
    assert file.read_text(encoding="utf-8") == session.session.text + "\n"
    over = Session(["Twice", f"/save! {file}"]).run()
    assert file.read_text(encoding="utf-8") == over.session.text + "\n"


def test_the_end_of_a_story_is_announced() -> None:
    def ending(session: StorySession) -> Callable[[], Iterator[str]]:
        def generate() -> Iterator[str]:
            yield " end"
            session.turns[-1].finish_reason = "eos"

        return generate

    session = Session(["Once"])
    session.session.generate = ending(session.session)  # type: ignore[method-assign]
    assert session.run().messages == ["(the end)"]


def test_story_shows_the_whole_story() -> None:
    session = Session(["Once", "", "/story"]).run()
    assert session.out == session.session.text + SEPARATOR + session.session.text


def test_a_chat_answers_in_the_template_and_stops_at_the_end_of_the_turn() -> None:
    session = Session(["Hi", "", "/help"], session=chat_session()).run()
    assert session.session.text == "Hi\n\nHello"
    assert "".join(session.written) == "Hi\n\nHello"
    assert any("The message is empty" in message for message in session.messages)
    assert any("answers in the chat template" in message for message in session.messages)
