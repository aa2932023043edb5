"""Tests of sources: parsing, description, documents, nested mixtures, and errors with hints."""

from pathlib import Path

import pytest

from fabella.config.data import FilesSource, HubSource, MixtureSource, Source, StorybookSource, WeightedSource
from fabella.errors import TextError
from fabella.text.read_report import ReadReport
from fabella.text.source import describe, documents, parse_source, source_files


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("storybook", StorybookSource()),
        ("storybook:5000", StorybookSource(stories=5000)),
        ("hub:roneneldan/TinyStories", HubSource(name="roneneldan/TinyStories")),
        ("hub:roneneldan/TinyStories:validation", HubSource(name="roneneldan/TinyStories", split="validation")),
        ("hub:wikitext@wikitext-2-v1", HubSource(name="wikitext", subset="wikitext-2-v1")),
        ("hub:wikitext@wikitext-2-v1:test", HubSource(name="wikitext", subset="wikitext-2-v1", split="test")),
        ("hub:wikitext:train[:10%]", HubSource(name="wikitext", split="train[:10%]", streaming=False)),
    ],
)
def test_sources_are_parsed(text: str, source: Source) -> None:
    assert parse_source(text) == source


def test_a_path_expands_to_its_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("story")
    for text in (str(tmp_path), str(tmp_path / "a.txt"), str(tmp_path / "*.txt")):
        assert parse_source(text) == FilesSource(paths=(text,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storybook:many", "Cannot parse the number of stories in 'storybook:many'. Write storybook"),
        ("storybook:0", "Cannot parse the number of stories in 'storybook:0'."),
        ("storybook:-5", "Cannot parse the number of stories in"),
        ("storybook:99999999999", "Cannot parse the number of stories in"),
        ("storybook:٣", "Cannot parse the number of stories in"),
        ("hub:", "'hub:' has no dataset name. Write hub:OWNER/NAME"),
        ("storybok", "There is no file storybok."),
    ],
)
def test_invalid_sources_are_refused(text: str, message: str) -> None:
    with pytest.raises(TextError) as error:
        parse_source(text)
    assert message in str(error.value)


def mixture(*parts: tuple[float, Source]) -> MixtureSource:
    return MixtureSource(parts=tuple(WeightedSource(weight=weight, source=source) for weight, source in parts))


def book(stories: int, seed: int = 1) -> StorybookSource:
    return StorybookSource(stories=stories, seed=seed)


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (StorybookSource(), "storybook (20,000 stories, seed 1)"),
        (FilesSource(paths=("a.txt", "b/*.txt")), "a.txt, b/*.txt"),
        (HubSource(name="tiny"), "hub dataset tiny, split train"),
        (
            HubSource(name="tiny", subset="en", revision="abc"),
            "hub dataset tiny, subset en, split train, revision abc",
        ),
        (
            mixture((3, book(5)), (1, FilesSource(paths=("a.txt",)))),
            "mixture (75 % storybook (5 stories, seed 1); 25 % a.txt)",
        ),
    ],
)
def test_a_source_is_described_in_one_line(source: Source, line: str) -> None:
    assert describe(source) == line


def test_the_storybook_source_yields_its_stories() -> None:
    notes = ReadReport()
    found = list(documents(book(7), notes=notes))
    assert len(set(found)) == 7
    assert found == list(documents(book(9)))[:7]
    assert notes.documents == 7


def test_a_mixture_contains_all_documents_of_nested_mixtures() -> None:
    outer = mixture((1, mixture((1, book(10, seed=2)), (1, book(10, seed=3)))), (2, book(40)))
    notes = ReadReport()
    found = list(documents(outer, notes=notes))
    everything = [*documents(book(10, seed=2)), *documents(book(10, seed=3)), *documents(book(40))]
    assert sorted(found) == sorted(everything)
    assert notes.documents == 60


def test_the_parts_of_a_mixture_have_their_shares_of_the_bytes_or_of_the_documents_from_the_start(
    tmp_path: Path,
) -> None:
    (tmp_path / "long.txt").write_text("\n".join(["a" * 100] * 50))
    (tmp_path / "short.txt").write_text("\n".join(["b" * 10] * 500))
    parts = [(1.0, FilesSource(paths=(str(tmp_path / name),), separator="lines")) for name in ("long.txt", "short.txt")]
    by_tokens = mixture(*parts)
    for source, long_documents in ((by_tokens, 10), (by_tokens.model_copy(update={"by": "documents"}), 50)):
        head = list(documents(source))[: 110 if source is by_tokens else 100]
        assert sum(text.startswith("a") for text in head) == long_documents


def test_source_files_lists_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("story")
    files = FilesSource(paths=(str(tmp_path / "a.txt"),))
    assert source_files(files) == [tmp_path / "a.txt"]
    assert source_files(mixture((1, files), (1, book(5)))) == [tmp_path / "a.txt"]
    assert source_files(HubSource(name="tiny")) == []


def test_two_passes_are_equal(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n" * 12)
    source = parse_source(str(tmp_path))
    assert list(documents(source)) == list(documents(source))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.txt", " \n\n ", "Give a file that contains text."),
        ("a.txt", "</s>\n</s>\n</s>", "Skipped documents: 3 empty."),
        ("a.jsonl", '{"text": " "}\n{"text": null}', "Skipped documents: 2 empty."),
        ("a.csv", "text\n", "Give a file that contains text."),
    ],
)
def test_a_source_without_documents_is_an_error(tmp_path: Path, name: str, content: str, why: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=f"{name}") as error:
        list(documents(parse_source(str(tmp_path / name))))
    assert why in str(error.value)


def test_a_part_of_a_mixture_without_documents_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" ")
    empty = FilesSource(paths=(str(tmp_path / "empty.txt"),))
    with pytest.raises(TextError, match=r"There is no text in .*empty\.txt"):
        list(documents(mixture((1, book(50)), (1, empty))))


def test_the_limit_of_bad_lines_applies_to_the_whole_source(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "fine"}\nbroken\n')
    source = parse_source(str(tmp_path))
    assert list(documents(source, max_bad_lines=2)) == ["fine", "fine"]
    with pytest.raises(TextError, match=r"b\.jsonl, line 2: .* exceeds --max-bad-lines 1"):
        list(documents(source, max_bad_lines=1))
