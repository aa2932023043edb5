"""A conversation line by line, as at a terminal: what is typed, and what each line does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabella.cli.interactive.story_session import Conversation
from fabella.errors import StorageError, UsageError, did_you_mean
from fabella.storage.atomic_file import atomic_write
from fabella.storage.messages import storage_errors

HELP = """Write how the story begins, or how it goes on; an empty line lets the model go on alone.
  /again               tell the last part anew
  /back                take the last part back, your words too
  /story               the whole story so far
  /new                 begin another
  /set                 the settings; /set temperature 0.5 changes one
  /save FILE           keep the story; /save! FILE overwrites
  //…                  words that begin with a slash
Ctrl-C stops the telling, Ctrl-D ends."""
BETWEEN = "\n\n---\n\n"
"""Stands before a story that is shown anew"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dialogue takes place."""

    read: Callable[[], str | None]
    """The next line, without its end; None: there is no more. Raises KeyboardInterrupt for Ctrl-C"""
    write: Callable[[str], None]
    """The story"""
    say: Callable[[str], None]
    """Remarks"""
    echo: bool
    """Whether a person's words must be written, since nobody sees them being typed"""


class Dialogue:
    """Reads lines until there are no more."""

    def __init__(self, conversation: Conversation, place: Place) -> None:
        self._talk, self._place = conversation, place
        self._commands: dict[str, Callable[[str], None]] = {
            "again": self._again, "back": self._back, "story": self._story, "new": self._new, "set": self._set,
            "save": self._save, "save!": self._save_over, "help": lambda _: place.say(HELP),
        }  # fmt: skip

    def run(self, beginning: str = "") -> None:
        """Tell on from ``beginning``, if there is one; then do what each line asks for."""
        if beginning:
            self._place.write(self._talk.add(beginning))
            self._tell()
        while True:
            try:
                line = self._place.read()
            except KeyboardInterrupt:
                self._place.say("\nCtrl-D ends; /help tells the rest.")
                continue
            if line is None:
                return
            try:
                self._do(line)
            except (UsageError, StorageError) as error:  # a line that was no good is no reason to lose the story
                self._place.say(str(error))
            except KeyboardInterrupt:
                self._place.say("(stopped)")

    def _do(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            words = self._talk.add(line.removeprefix("/"))
            if self._place.echo:
                self._place.write(words)
            self._tell()
            return
        name, _, rest = line[1:].partition(" ")
        if name not in self._commands:
            raise UsageError(
                f"There is no /{name}.", hint=f"{did_you_mean(name, self._commands)} /help tells them all."
            )
        self._commands[name](rest.strip())

    def _tell(self) -> None:
        """Ctrl-C stops the telling; what was heard stays in the story."""
        try:
            for piece in self._talk.tell():
                self._place.write(piece)
        except KeyboardInterrupt:
            self._finish("stopped")
        else:
            ended = self._talk.turns[-1].finish_reason
            self._finish("the end" if ended == "eos" else "")

    def _finish(self, remark: str) -> None:
        if not self._place.echo:
            self._place.write("\n")
        if remark:
            self._place.say(f"({remark})")

    def _again(self, _: str) -> None:
        self._talk.again()
        self._place.write(BETWEEN + self._talk.text)
        self._tell()

    def _back(self, _: str) -> None:
        self._talk.back()
        self._story("")

    def _story(self, _: str) -> None:
        self._place.write(BETWEEN + self._talk.text)
        self._finish("")

    def _new(self, rest: str) -> None:
        self._talk.turns.clear()
        self._place.write(BETWEEN)
        if rest:
            self._do(rest)

    def _set(self, rest: str) -> None:
        name, _, value = rest.replace("=", " ").partition(" ")
        if value.strip():
            self._talk.set(name.replace("-", "_"), value.strip())
        elif name:
            raise UsageError(f"/set {name} needs a value.", hint=f"As in /set {name} 1.")
        self._place.say("  ".join(f"{name} {value:g}" for name, value in self._talk.settings.items()))

    def _save(self, rest: str) -> None:
        with storage_errors(rest, "looking for it"):
            there = bool(rest) and "\0" not in rest and Path(rest).exists()
        if there:
            raise UsageError(f"{rest} exists.", hint="Choose another name, or overwrite it with /save! FILE.")
        self._save_over(rest)

    def _save_over(self, rest: str) -> None:
        if not rest or "\0" in rest:
            raise UsageError("/save needs the name of a file.", hint="As in /save story.txt.")
        atomic_write(Path(rest), (self._talk.text + "\n").encode())
        self._place.say(f"Saved to {rest}.")
