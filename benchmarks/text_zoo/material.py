"""Texts from which the kinds are made: stories, a novel, a play, verse, a diary. All are generated or made up."""

from fabella.text.storybook import generator

STORIES = [story.strip() for story in generator.stories(24, seed=1)]
"""Stories of several paragraphs."""
LINES = [" ".join(story.split()) for story in STORIES]
"""Stories of one line each."""
SENTENCES = [sentence.strip() + "." for line in LINES for sentence in line.split(". ") if len(sentence) > 15]


def novel(chapters: int = 6) -> str:
    """Return a novel: chapters with headings, and paragraphs of several sentences."""
    parts: list[str] = []
    for number in range(1, chapters + 1):
        parts.append(f"CHAPTER {number}")
        parts += [" ".join(SENTENCES[(7 * number + 5 * n) % 90 :][: 3 + n % 4]) for n in range(6)]
    return "\n\n".join(parts)


def play() -> str:
    """Return a play in the form of tinyshakespeare."""
    speakers = ("FIRST CITIZEN", "MENENIUS", "THE FOX", "ALL")
    return "\n\n".join(f"{speakers[n % 4]}:\n{SENTENCES[n]}\n{SENTENCES[n + 1]}" for n in range(40))


def verse() -> str:
    """Return verses of four short lines."""
    rhymes = (
        "The fox ran over the hill",
        "and the moon stood high and still",
        "the wind sang low",
        "in the falling snow",
    )
    return "\n\n".join("\n".join(f"{line}, {n}" for line in rhymes) for n in range(12))


def diary() -> str:
    """Return the entries of a diary."""
    return "\n\n".join(f"{1 + n % 28} May 1885. {SENTENCES[n]} {SENTENCES[n + 1]}" for n in range(30))


def chat() -> str:
    """Return an exported chat."""
    return "\n".join(f"12/05/24, 10:{n:02d} - {'Ann' if n % 2 else 'Bo'}: {SENTENCES[n]}" for n in range(50))


def wrapped(text: str, width: int = 60) -> str:
    """Return a text with hard line ends, as books of Project Gutenberg have them."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        line = ""
        for word in paragraph.split():
            if len(line) + len(word) >= width:
                lines.append(line)
                line = ""
            line = f"{line} {word}".strip()
        lines += [line, ""]
    return "\n".join(lines).strip()


GUTENBERG = (
    "The Project Gutenberg eBook of A Fox, by Nobody\n\nThis eBook is for the use of anyone anywhere.\n\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK A FOX ***\n\n{text}\n\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK A FOX ***\n\nUpdated editions will replace the previous one.\n"
)
