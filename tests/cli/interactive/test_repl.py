"""A story told in turns: every line does what it says, and no line loses the story."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fabella.cli.interactive.repl import BETWEEN, HELP, Dialogue, Place
from fabella.cli.interactive.story_session import Conversation
from fabella.config.data import Packed
from fabella.generation.generator import TextGenerator
from fabella.generation.sampling import SamplingParams
from tests.generation import tiny_run
from tests.generation.fake_model import Config, Hashing

Interrupt = KeyboardInterrupt


def teller() -> TextGenerator:
    """Says something else after every text."""
    config = Config(vocab_size=256, context_length=4096, endless=True)
    letters = [ord(letter) for letter in "abcdefgh "]
    model = Hashing(config)
    model.table[:, [token for token in range(256) if token not in letters]] = -1e9
    windows = Packed(length=4096, stride=4096)
    return TextGenerator(model, tiny_run.tokenizer(), config=config, sequences=windows, engine="torch")


@dataclass
class Typed:
    """Somebody who types these lines (``Interrupt``: Ctrl-C), and what they see."""

    lines: list[str | type[BaseException]]
    echo: bool = True
    talk: Conversation = field(default_factory=lambda: Conversation(teller(), SamplingParams(seed=3), tokens=12))
    written: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    stop_at: int = -1
    """The piece at which Ctrl-C is pressed"""

    def run(self, beginning: str = "") -> "Typed":
        left: Iterator[str | type[BaseException]] = iter(self.lines)

        def read() -> str | None:
            line = next(left, None)
            if isinstance(line, type):
                raise line
            return line

        Dialogue(self.talk, Place(read, self.write, self.said.append, self.echo)).run(beginning)
        return self

    def write(self, text: str) -> None:
        self.written.append(text)
        if len(self.written) == self.stop_at:
            raise KeyboardInterrupt

    @property
    def out(self) -> str:
        return "".join(self.written)


def test_words_and_telling_take_turns() -> None:
    typed = Typed(["Once", "", "there was", "."]).run()
    turns = typed.talk.turns
    assert [turn.words for turn in turns] == [
        "Once",
        "",
        " there was" if turns[1].told[-1] != " " else "there was",
        ".",
    ]
    assert all(len(turn.told) == 12 for turn in turns)
    assert typed.out == typed.talk.text
    assert typed.said == []


def test_what_a_person_sees_being_typed_is_not_written_again() -> None:
    typed = Typed(["Once", "there was"], echo=False).run()
    assert typed.out == "".join(turn.told + "\n" for turn in typed.talk.turns)


def test_a_beginning_may_come_from_the_command_line() -> None:
    assert Typed([]).run("Once").talk.turns[0].words == "Once"
    assert Typed([]).run("Once").talk.text == Typed(["Once"]).run().talk.text, "the same seed tells the same"


@pytest.mark.parametrize(
    ("story", "words", "joined"),
    [("", "Once", "Once"), ("Once", "there", " there"), ("Once ", "there", "there"), ("Once", ", there", ", there"),
     ("Once\n", "there", "there"), ("Once", "", ""), ("Once", " there", " there"), ("Once", "!", "!")],
)  # fmt: skip
def test_a_space_is_put_where_one_belongs(story: str, words: str, joined: str) -> None:
    talk = Conversation(teller(), SamplingParams(), tokens=1)
    talk.add(story)
    assert talk.add(words) == joined


def test_again_tells_the_last_part_anew_and_only_that() -> None:
    once = Typed(["Once", "there"]).run().talk.turns
    again = Typed(["Once", "there", "/again"]).run()
    assert [turn.words for turn in again.talk.turns] == [turn.words for turn in once]
    assert again.talk.turns[0] == once[0]
    assert again.talk.turns[1].told != once[1].told
    assert again.out.endswith(BETWEEN + again.talk.text)
    assert Typed(["Once", "there", "/again", "/again"]).run().talk.text not in {again.talk.text}


def test_back_takes_words_and_telling_away() -> None:
    typed = Typed(["Once", "there", "/back"]).run()
    assert typed.talk.turns == Typed(["Once"]).run().talk.turns
    assert Typed(["Once", "/back", "/back"]).run().said == [
        "There is nothing to take back. Write how the story begins."
    ]


def test_a_new_story_begins_from_nothing() -> None:
    typed = Typed(["Once", "/new Twice"]).run()
    assert [turn.words for turn in typed.talk.turns] == ["Twice"]
    assert Typed(["Once", "/new"]).run().talk.text == ""


def test_ctrl_c_stops_the_telling_and_not_the_program() -> None:
    typed = Typed(["Once", "there"], stop_at=5).run()
    first, second = typed.talk.turns
    assert first.finish_reason is None
    assert 0 < len(first.told) < 12
    assert (second.finish_reason, len(second.told)) == ("length", 12)
    assert typed.said == ["(stopped)"]


def test_ctrl_c_while_nothing_is_told_says_how_to_end() -> None:
    typed = Typed([Interrupt, "Once", Interrupt]).run()
    assert typed.said == ["\nCtrl-D ends; /help tells the rest."] * 2
    assert len(typed.talk.turns) == 1


def test_settings_are_shown_changed_and_checked() -> None:
    typed = Typed(["/set", "/set temperature 0.25", "/set top-p=0.5", "/set tokens 3", "/set seed 9", "Once"]).run()
    assert typed.talk.settings | {"seed": 9} == typed.talk.settings
    assert (typed.talk.settings["temperature"], typed.talk.settings["top_p"]) == (0.25, 0.5)
    assert len(typed.talk.turns[0].told) == 3
    assert typed.said[0].startswith("tokens 12  repetition_penalty 1  temperature 0.8")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temperatur 1", "There is no setting 'temperatur'. Did you mean 'temperature'?"),
        ("/set temperature hot", "temperature = 'hot' is not a number. It is 0.8 now."),
        ("/set temperature -1", "temperature = -1.0 is out of range"),
        ("/set temperature nan", "temperature = nan is out of range"),
        ("/set seed 1.5", "seed = '1.5' is not a whole number."),
        ("/set seed 99999999999999999999", "seed = 99999999999999999999 is out of range"),
        ("/set tokens 0", "tokens = 0 is less than 1."),
        ("/set tokens", "/set tokens needs a value."),
        ("/agian", "There is no /agian. Did you mean 'again'? /help tells them all."),
        ("/again", "Nothing has been told yet. Write how the story begins."),
        ("/", "There is no /. "),
        ("/save", "/save needs the name of a file."),
        ("/save a\0b", "/save needs the name of a file."),
        ("/save! /nowhere/at/all", "writing all failed at /nowhere/at/all: no such file or directory."),
        ("/save " + "x" * 5000, "looking for it failed at xxx"),
        ("/help", HELP),
    ],
)  # fmt: skip
def test_a_line_that_is_no_good_is_told_and_the_story_goes_on(line: str, said: str) -> None:
    typed = Typed([line, "Once"]).run()
    assert typed.said[0].startswith(said)
    assert len(typed.talk.turns) == 1


def test_a_slash_can_be_written() -> None:
    assert Typed(["//again"]).run().talk.turns[0].words == "/again"


def test_a_story_is_saved_and_nothing_is_overwritten_by_chance(tmp_path: Path) -> None:
    kept = tmp_path / "my story.txt"
    typed = Typed(["Once 🐉", f"/save {kept}"]).run()
    assert kept.read_text(encoding="utf-8") == typed.talk.text + "\n"
    assert typed.said == [f"Saved to {kept}."]
    refused = Typed(["Twice", f"/save {kept}"]).run()
    assert refused.said == [f"{kept} exists. Choose another name, or overwrite it with /save! FILE."]
    assert kept.read_text(encoding="utf-8") == typed.talk.text + "\n"
    over = Typed(["Twice", f"/save! {kept}"]).run()
    assert kept.read_text(encoding="utf-8") == over.talk.text + "\n"


def test_the_end_of_a_story_is_told() -> None:
    def ending(talk: Conversation) -> Callable[[], Iterator[str]]:
        def tell() -> Iterator[str]:
            yield " end"
            talk.turns[-1].finish_reason = "eos"

        return tell

    typed = Typed(["Once"])
    typed.talk.tell = ending(typed.talk)  # type: ignore[method-assign]
    assert typed.run().said == ["(the end)"]


def test_the_story_can_be_read_again() -> None:
    typed = Typed(["Once", "", "/story"]).run()
    assert typed.out == typed.talk.text + BETWEEN + typed.talk.text
