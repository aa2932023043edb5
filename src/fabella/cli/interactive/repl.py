"""Read-eval-print loop of an interactive story session: reads lines and runs their commands."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fabella.cli.interactive.story_session import StorySession
from fabella.errors import StorageError, UsageError, did_you_mean
from fabella.storage.atomic_file import atomic_write
from fabella.storage.messages import storage_errors

HELP = """Write the beginning of a story, or its continuation; with an empty line the model continues.
  /regenerate          generate the last completion again, with the next seed
  /undo                remove the last turn, including your text
  /story               show the whole story
  /new                 start another story
  /set                 show the settings; /set temperature 0.5 changes one
  /save FILE           save the story; /save! FILE overwrites
  //…                  text that starts with a slash
Ctrl-C stops the generation, Ctrl-D exits."""
CHAT_HELP = (
    HELP.replace(
        "Write the beginning of a story, or its continuation; with an empty line the model continues.",
        "Write a message; the model answers in the chat template that it was trained with.",
    )
    .replace("show the whole story", "show the whole chat")
    .replace("start another story", "start another chat")
)
"""Help of a chat, where the turns are messages and answers."""
SEPARATOR = "\n\n---\n\n"
"""Printed before a story that is shown again."""


@dataclass(frozen=True, slots=True)
class ReplIO:
    """Input and output of a session."""

    read: Callable[[], str | None]
    """Returns the next line without its newline, or None at the end. Raises KeyboardInterrupt for Ctrl-C."""
    write: Callable[[str], None]
    """Writes text of the story."""
    print_status: Callable[[str], None]
    """Prints a message that is not part of the story."""
    echo: bool
    """Write the user's text to the output: True if the input is not a terminal that already shows it."""


class Repl:
    """Loop over the lines of the input until it ends."""

    def __init__(self, session: StorySession, io: ReplIO) -> None:
        self._session, self._io = session, io
        self._commands: dict[str, Callable[[str], None]] = {
            "regenerate": self._regenerate, "undo": self._undo, "story": self._story, "new": self._new,
            "set": self._set, "save": self._save, "save!": self._save_over, "help": self._help,
        }  # fmt: skip

    def run(self, prompt: str = "") -> None:
        """Complete ``prompt`` unless it is empty, then run every line of the input."""
        if prompt:
            self._io.write(self._session.add(prompt))
            self._generate()
        while True:
            try:
                line = self._io.read()
            except KeyboardInterrupt:
                self._io.print_status("\nPress Ctrl-D to exit; /help lists the commands.")
                continue
            if line is None:
                return
            try:
                self._run_line(line)
            except (UsageError, StorageError) as error:  # a wrong command must not lose the story
                self._io.print_status(str(error))
            except KeyboardInterrupt:
                self._io.print_status("(stopped)")

    def _run_line(self, line: str) -> None:
        if not line.startswith("/") or line.startswith("//"):
            text = self._session.add(line.removeprefix("/"))
            if self._io.echo:
                self._io.write(text)
            self._generate()
            return
        name, _, argument = line[1:].partition(" ")
        if name not in self._commands:
            raise UsageError(
                f"Unknown command /{name}.", hint=f"{did_you_mean(name, self._commands)} /help lists the commands."
            )
        self._commands[name](argument.strip())

    def _generate(self) -> None:
        """Stream the completion; Ctrl-C stops it and keeps the text so far in the story."""
        try:
            for piece in self._session.generate():
                self._io.write(piece)
        except KeyboardInterrupt:
            self._finish("stopped")
        else:
            reason = self._session.turns[-1].finish_reason
            self._finish("the end" if reason == "eos" and not self._session.chat else "")

    def _finish(self, status: str) -> None:
        if not self._io.echo:
            self._io.write("\n")
        if status:
            self._io.print_status(f"({status})")

    def _help(self, _: str) -> None:
        self._io.print_status(CHAT_HELP if self._session.chat else HELP)

    def _regenerate(self, _: str) -> None:
        self._session.regenerate()
        self._io.write(SEPARATOR + self._session.text)
        self._generate()

    def _undo(self, _: str) -> None:
        self._session.undo()
        self._story("")

    def _story(self, _: str) -> None:
        self._io.write(SEPARATOR + self._session.text)
        self._finish("")

    def _new(self, prompt: str) -> None:
        self._session.turns.clear()
        self._io.write(SEPARATOR)
        if prompt:
            self._run_line(prompt)

    def _set(self, argument: str) -> None:
        name, _, value = argument.replace("=", " ").partition(" ")
        if value.strip():
            self._session.set(name.replace("-", "_"), value.strip())
        elif name:
            raise UsageError(f"/set {name} needs a value.", hint=f"Example: /set {name} 1.")
        self._io.print_status("  ".join(f"{name} {value:g}" for name, value in self._session.settings.items()))

    def _save(self, file: str) -> None:
        with storage_errors(file, "looking for it"):
            exists = bool(file) and "\0" not in file and Path(file).exists()
        if exists:
            raise UsageError(f"{file} exists.", hint="Choose another name, or overwrite it with /save! FILE.")
        self._save_over(file)

    def _save_over(self, file: str) -> None:
        if not file or "\0" in file:
            raise UsageError("/save needs a file name.", hint="Example: /save story.txt.")
        atomic_write(Path(file), (self._session.text + "\n").encode())
        self._io.print_status(f"Saved to {file}.")
