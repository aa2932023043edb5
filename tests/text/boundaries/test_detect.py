"""Tests that a separator is detected only with evidence: novels, plays, verse and transcripts are running text."""

import itertools

import pytest

from fabella.text.boundaries.detect import MARKERS, detect_boundary
from fabella.text.storybook.generator import stories

STORY = "Once upon a time a fox ran.\nIt was late."
STORIES = [" ".join(story.split()) for story in itertools.islice(stories(60, seed=3), 60)]
PARAGRAPHS = [
    f"{opening} of the house went down to the water, where number {number} lay in the reeds and waited."
    for number, opening in enumerate(
        f"{a} {b}"
        for a in (
            "Old",
            "Then the",
            "My",
            "Nobody",
            "After that, the",
            "Rain",
            "“We",
            "At noon the",
            "Her",
            "Still the",
        )
        for b in ("man", "aunt", "sister", "brother", "dog", "cook")
    )
]
NOVEL = "CHAPTER I\n\n" + "\n\n".join(PARAGRAPHS)
PLAY = "\n\n".join(f"{name}:\nSpeak number {n}, speak." for n in range(20) for name in ("ROMEO", "JULIET"))
POEM = "\n\n".join(f"And the {word} in the wood\nSaid nothing but good\nAnd under a tree" for word in "abcdefghijklmn")
DIARY = "\n\n".join(f"{n} May 1897\n\nDear diary, today number {n} went out." for n in range(1, 30))
CHAT = "\n".join(f"12/03/23, 10:{n:02} - {'Anna' if n % 2 else 'Tom'}: And so it is." for n in range(60))
IPHONE_CHAT = "\n".join(
    f"\u200e[12/03/23, 10:{n:02}:09] Anna: And so it is, as it was on each of the days." for n in range(60)
)
VERSES = "\n".join(
    f"Genesis 1:{n}\tAnd number {n} said to the others what it had said the day before." for n in range(1, 40)
)
SCENES_OF_A_PLAY = "\n\n".join(
    f"ACT I. SCENE {n}.\n\n    HENRY. So be it, {n}.\n    ANNA. No, never." for n in range(1, 9)
)
NAMES = "\n".join(["emma", "olivia", "ava", "isabella", "mia", "jo"] * 20)
SCENES = "\n\n* * *\n\n".join(PARAGRAPHS)


@pytest.mark.parametrize(
    "text",
    [
        NOVEL,
        PLAY,
        POEM,
        DIARY,
        CHAT,
        IPHONE_CHAT,
        VERSES,
        SCENES_OF_A_PLAY,
        SCENES,
        "One long line. " * 500,
        "",
        "a fox",
        "\n".join(PARAGRAPHS),
    ],
    ids=[
        "novel",
        "play",
        "poem",
        "diary",
        "chat",
        "iPhone",
        "verses",
        "acts",
        "scenes",
        "one line",
        "empty",
        "short",
        "a paragraph a line",
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\n \n"], ids=["plain", "spaced"])
def test_prose_verse_and_transcripts_are_running_text(text: str, line_end: str) -> None:
    assert detect_boundary(text.replace("\n\n", f"\n{line_end}")).separator == "file"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{STORY}\n<|endoftext|>\n{STORY}\n", "<|endoftext|>"),
        (f"{STORY}</s>{STORY}", "</s>"),
        ("emma<eos>olivia<eos>ava", "<eos>"),
        ("\n\n".join(STORIES), "blank-lines"),
        ("\n".join(STORIES), "lines"),
        (NAMES, "lines"),
        ("\n---\n".join(STORIES), "\n---\n"),
        ("\n\n=====\n\n".join(STORIES), "\n=====\n"),
        ("\n%\n".join(PARAGRAPHS), "\n%\n"),
        ("\n\n***\n\n".join(f"The Fox\n\n{story}" for story in STORIES), "\n***\n"),
    ],
)
def test_documents_that_are_told_apart_are_separated(text: str, expected: str) -> None:
    assert detect_boundary(text).separator == expected


@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize(
    "mention",
    ["The token {} marks the end of a story.", "It ends with `{}`.", 'We write "{}" at the end.', "Use {}, they say."],
)
def test_a_mention_of_a_marker_separates_nothing(marker: str, mention: str) -> None:
    text = "\n\n".join([*PARAGRAPHS[:20], mention.format(marker), *PARAGRAPHS[20:]])
    assert detect_boundary(text).separator == "file"


@pytest.mark.parametrize("marker", MARKERS)
def test_a_mention_among_separators_stays_in_its_document(marker: str) -> None:
    text = f"\n{marker}\n".join([*STORIES, f"The token {marker} marks an end."])
    assert detect_boundary(text).separator == f"\n{marker}\n"


@pytest.mark.parametrize(
    "text",
    [
        '{"id": 1, "text": "Once upon a time."}\n{"id": 2, "text": "One day."}\n',
        '[\n  {\n    "title": "A tale",\n    "text": "Once upon a time."\n  }\n]',
        '\ufeff [{"text": "Once upon a time."}]',
    ],
)
def test_json_in_a_text_file_is_named(text: str) -> None:
    for one_text in (False, True):
        boundary = detect_boundary(text, one_text=one_text)
        assert boundary.separator == "file"
        assert "it holds JSON: name it .jsonl" in boundary.hint


def test_text_with_braces_is_no_json() -> None:
    for text in ('{ "Once," she said, "upon a time." }', "[Enter FOX: he sleeps]", '{"a"}', "{x: 1}", '"text": "a"'):
        assert "JSON" not in detect_boundary(text).hint


def test_markdown_and_each_of_many_files_are_one_document() -> None:
    text = "\n\n".join(STORIES)
    assert detect_boundary(text).separator == "blank-lines"
    assert detect_boundary(text, one_text=True).separator == "file"
    assert detect_boundary(f"{text}<|endoftext|>{text}", one_text=True).separator == "<|endoftext|>"


def test_chapters_keep_lines_of_dashes_in_a_novel() -> None:
    text = "\n---\n".join(f"CHAPTER {n}\n\n{PARAGRAPHS[n]}" for n in range(1, 20))
    boundary = detect_boundary(text)
    assert boundary.separator == "file"
    assert boundary.hint == "lines of '---' are part of the text; --separator '\\n---\\n' separates at them"


@pytest.mark.parametrize(
    ("sample", "hint"),
    [
        ("id,title,text\n" + '1,A fox,"Once, a fox ran home."\n' * 40, "a table of 3 columns"),
        ("id;text\n" + "1;Once a fox ran home.\n" * 40, "a table of 2 columns"),
        ("Go.\tVa !\tCC-BY\n" * 40, "a table of 3 columns"),
        ('<?xml version="1.0"?>\n<stories><story>Once.</story></stories>', "holds XML"),
        ("<mediawiki xmlns='http://www.mediawiki.org/xml/'>\n<page><title>A</title></page>", "holds XML"),
        ("Once, a fox ran home.\n" * 40, ""),
        ("Fox, bear\nOnce, a fox ran home, and slept.\nThe end.\n" * 40, ""),
        ("A line with a\ttab.\nAnd one without.\n" * 40, ""),
        ("\tAn indented line of verse.\n" * 40, ""),
        ("Xavier went home <text> and slept.\n" * 40, ""),
    ],
)
def test_a_text_in_another_format_is_read_as_it_is_and_named(sample: str, hint: str) -> None:
    boundary = detect_boundary(sample)
    named = "it holds" in boundary.hint
    assert (hint in boundary.hint, named) == (True, bool(hint))
    assert boundary.separator in ("file", "lines") or not named
