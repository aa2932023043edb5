"""Laws of reading text: an option means the same in every command, and advice works when pasted into a command."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabella.cli import batch_size, compare_architectures, main, plan, train, tune
from fabella.config.data import Source
from fabella.errors import FabellaError
from fabella.training import api
from fabella.training.fine_tuning import request as training_request
from fabella.training.setup.request import resolve_request
from tests.text.languages import LANGUAGES, encoded

REQUESTS = {
    "train": training_request, "plan": plan, "tune": tune, "compare-architectures": compare_architectures,
    "batch-size": batch_size,
}  # fmt: skip
"""Commands that resolve a request as ``fabella train`` does, and the modules in which they do."""
ADVICE = re.compile(r"(--[a-z][a-z-]+) ('[^']*'|[^\s'][^\s]*?)(?=[.,;:)]?(?:\s|$))")
READING = ("--separator", "--column", "--encoding", "--boilerplate", "--limit", "--decode-errors", "--max-bad-lines")
PLACEHOLDERS = {"NAME": "text", "FILE": "a.txt"}


class Resolved(Exception):  # noqa: N818 - ends a command early
    def __init__(self, source: Source) -> None:
        self.source = source


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands end as soon as they know their source, before they train."""

    def resolve(request: Any) -> Any:
        raise Resolved(resolve_request(request).run.data.source)

    for module in REQUESTS.values():
        monkeypatch.setattr(module, "resolve_request", resolve)

    def on_devices(devices: str, engine: str, work: Callable[[], None]) -> None:
        work()

    def distributed(rank: object, plan: Callable[[], object], **_: object) -> object:
        return plan()

    monkeypatch.setattr(train, "run_on_devices", on_devices)
    monkeypatch.setattr(api, "run_distributed", distributed)


def source_of(command: str, *words: str) -> Source:
    with pytest.raises(Resolved) as ended:
        main.run([command, *words])
    return ended.value.source


@pytest.mark.parametrize("command", REQUESTS)
@pytest.mark.parametrize(
    ("option", "value", "field", "expected"),
    [
        ("--separator", "lines", "separator", "lines"),
        ("--column", "{title}\\n{text}", "column", "{title}\\n{text}"),
        ("--encoding", "Windows-1251", "encoding", "cp1251"),
        ("--boilerplate", "keep", "boilerplate", "keep"),
        ("--limit", "7", "limit", 7),
    ],
)
@pytest.mark.usefixtures("resolved")
def test_an_option_sets_the_source_in_every_command(
    command: str, option: str, value: str, field: str, expected: object, tmp_path: Path
) -> None:
    text, other = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("Once upon a time. " * 50)
    other.write_text("The end. " * 50)
    source = source_of(command, str(text), str(other), option, value, "optimizer.lr=1e-3")
    assert getattr(source, field) == expected
    assert getattr(source, "paths", ()) == (str(text), str(other))


@pytest.mark.parametrize("command", REQUESTS)
@pytest.mark.usefixtures("resolved")
def test_a_mixture_in_a_yaml_is_a_text_in_every_command(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time. " * 50)
    mixture = tmp_path / "mix.yaml"
    mixture.write_text(
        "kind: mixture\nparts:\n"
        f"  - {{weight: 1, source: {{kind: files, paths: [{tmp_path / 'a.txt'}]}}}}\n"
        "  - {weight: 2, source: {kind: storybook, stories: 10}}\n"
    )
    assert source_of(command, str(mixture)).kind == "mixture"


@pytest.mark.parametrize("command", REQUESTS)
def test_a_word_without_a_text_that_it_belongs_to_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([command, "storybook-1m", "b.txt"]) == 2
    assert "Cannot parse override 'b.txt'. Write section.key=value" in capsys.readouterr().err


PROBLEMS: dict[str, bytes] = {
    "legacy.txt": b"Once upon a time. " * 20 + b"caf\xe9 noir\n",
    "czech.txt": encoded("czech", "iso8859-2"),
    "broken.jsonl": b'{"text": "A fox ran."}\n{"text": "a\n' * 3,
    "ids.jsonl": b'{"id": "a1", "doc": {"body": "A fox ran home."}}\n' * 30,
    "columns.jsonl": b'{"title": "A tale of a fox", "text": "Once upon a time there was a fox."}\n' * 30,
    "zero.txt": b"Once\0 upon a time.\n",
    "paragraphs.txt": b"\n\n".join(b"Paragraph %d is here." % n for n in range(40)),
    "book.md": b"---\ntitle: A\n---\nOnce upon a time.\n" * 2,
    "semicolons.csv": b"id;text\n" + b"".join(b"%d;A tale of a fox, and a bear.\n" % n for n in range(30)),
    "missing-separator.txt": b"Once upon a time.\n",
    "russian.txt": encoded("russian", "cp1251") * 20,
}
GIVEN = {"missing-separator.txt": ["--separator", "###"]}


def advice_of(shown: str, command: str = "") -> Iterator[tuple[str, str]]:
    """Yield the options with their values in a message; those for ``prepare`` only there."""
    shown = re.sub(r"\(prepare: ([^()]*)\)", r"\1" if command == "prepare" else "", shown)
    for option, value in ADVICE.findall(shown):
        (word,) = shlex.split(value)
        yield option, PLACEHOLDERS.get(word, word)


READERS = ("check-data", "prepare", "tokenizer train", "tokenizer compare")
"""Commands that read a text and print advice."""


def reading(command: str, text: Path, out: Path) -> list[str]:
    """Return the words of a command that reads ``text``."""
    words = command.split()
    if command == "tokenizer compare":
        return [*words, "bytes", "--text", str(text)]
    tokenizer = {"prepare": ["--tokenizer", "bytes"], "tokenizer train": ["--tokenizer", "bpe:260"]}.get(command)
    return [*words, str(text), *([*tokenizer, "--out", str(out)] if tokenizer else [])]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.usefixtures("resolved")
def test_advice_is_accepted_by_the_command_that_gives_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / name
    text.write_bytes(PROBLEMS[name])
    found = 0
    for command in READERS:
        given = GIVEN.get(name, [])
        main.run([*reading(command, text, tmp_path / "out" / command), *given])
        for number, (option, value) in enumerate(dict.fromkeys(advice_of(capsys.readouterr().err, command))):
            found += 1
            without = [] if option in given else given
            code = main.run([*reading(command, text, tmp_path / f"again {command} {number}"), *without, option, value])
            shown = capsys.readouterr().err
            assert code != 2, (command, option, value, shown)
            for other in REQUESTS if option in READING else ():
                try:
                    code = main.run([other, str(text), *without, option, value])
                except Resolved:
                    continue
                except FabellaError:
                    pass
                assert code != 2, (other, option, value, capsys.readouterr().err)
    assert found, "no command gives advice about this file"


def test_the_encoding_that_is_named_reads_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "czech.txt"
    text.write_bytes(encoded("czech", "iso8859-2") * 3)
    command = ["tokenizer", "train", str(text), "--tokenizer", "bpe:260", "--out"]
    assert main.run([*command, str(tmp_path / "a")]) == 3
    likely, runner_up = (value for option, value in advice_of(capsys.readouterr().err) if option == "--encoding")
    assert (likely, runner_up) == ("iso8859-2", "cp1250")
    assert main.run([*command, str(tmp_path / "b"), "--encoding", likely]) == 0
    capsys.readouterr()
    assert main.run(["check-data", str(text), "--encoding", "iso8859-2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preview"][0]["beginning"] == LANGUAGES["czech"][1][:60]
