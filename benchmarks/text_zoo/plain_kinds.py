"""Kinds of plain text: prose, separators, encodings, damage."""

from benchmarks.text_zoo.kind import Kind
from benchmarks.text_zoo.material import (
    GUTENBERG,
    LINES,
    SENTENCES,
    STORIES,
    chat,
    diary,
    novel,
    play,
    verse,
    wrapped,
)

NOVEL, PLAY = novel(), play()
ONE_TEXT = "file, each file is one running text"
FRENCH = (
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Où vas-tu, demanda la vieille fée.\n" * 9
)
RUSSIAN = "Жила-была девочка, и было у неё три медведя. Пошла она в лес за грибами и заблудилась.\n" * 9
JAPANESE = "昔々、あるところにおじいさんとおばあさんが住んでいました。おじいさんは山へ芝刈りに行きました。\n" * 9
CHINESE = "从前有一只小狐狸，住在森林旁边的山洞里。有一天，它遇见了一个迷路的小女孩，就带她回家。\n" * 9
GREEK = "Μια φορά κι έναν καιρό ήταν ένας βασιλιάς που είχε τρεις κόρες και ένα μεγάλο παλάτι.\n" * 9
QUOTES = "“It’s late,” said the fox — “don’t go.” The bear didn’t answer…\n" * 9


def text(name: str, content: str, texts: list[str] | None = None, **more: object) -> Kind:
    """Return a kind of one UTF-8 file, one document by default."""
    return Kind(name, {"a.txt": content.encode()}, [content.strip("\n")] if texts is None else texts, "a.txt", **more)  # type: ignore[arg-type]


def legacy(name: str, content: str, encoding: str, note: str, **more: object) -> Kind:
    """Return a kind of one file in another encoding."""
    return Kind(name, {"a.txt": content.encode(encoding)}, [content.strip()], "a.txt", notes=[note], **more)  # type: ignore[arg-type]


def cut(content: str, size: int = 2**20) -> list[str]:
    """Return a long document in parts, each cut at the last blank line of its second half."""
    parts: list[str] = []
    while len(content) > size:
        end = content.rindex("\n\n", size // 2, size) + 2
        parts.append(content[:end].strip())
        content = content[end:]
    return [*parts, content.strip()]


LONG = ((NOVEL + "\n\n") * 400).strip()
PROSE = [
    text("novel with blank lines", NOVEL, notes=[ONE_TEXT]),
    text("novel with hard line ends", wrapped(NOVEL), notes=[ONE_TEXT]),
    text("novel on one line", " ".join(NOVEL.split()), notes=[ONE_TEXT]),
    text("novel with a paragraph a line", NOVEL.replace("\n\n", "\n"), notes=["--separator lines"]),
    text("novel with Windows line ends", NOVEL.replace("\n", "\r\n"), [NOVEL], notes=["Windows or Macintosh line end"]),
    text("novel with Macintosh line ends", NOVEL.replace("\n", "\r"), [NOVEL], notes=["Windows or Macintosh line end"]),
    text("play", PLAY, notes=[ONE_TEXT]),
    text("verse", verse(), notes=[ONE_TEXT]),
    text("diary", diary(), notes=[ONE_TEXT]),
    text("exported chat", chat(), notes=[ONE_TEXT]),
    text(
        "book of Project Gutenberg",
        GUTENBERG.format(text=NOVEL),
        [NOVEL],
        notes=["Project Gutenberg of", "--boilerplate keep"],
    ),
    text(
        "book of Project Gutenberg, kept",
        GUTENBERG.format(text=NOVEL),
        [GUTENBERG.format(text=NOVEL).strip()],
        options={"boilerplate": "keep"},
    ),
    text(
        "a novel with scenes between stars",
        "\n\n* * *\n\n".join(NOVEL.split("\n\nCHAPTER")),
        notes=["part of the text"],
    ),
    text("one sentence", SENTENCES[0]),
    text("one long document and markers in it", f"The token <|endoftext|> ends a story.\n\n{NOVEL}", notes=[ONE_TEXT]),
    text("a text over 1 MiB", LONG, cut(LONG), notes=["longer than 1 MiB, cut into several"]),
]

SEPARATED = [
    text("stories between markers", "<|endoftext|>".join(STORIES), STORIES, notes=["separator of"]),
    text("stories and markers on lines", "\n<|endoftext|>\n".join(STORIES) + "\n<|endoftext|>\n", STORIES),
    text("stories that end with </s>", "</s>\n".join(STORIES) + "</s>\n", STORIES),
    text("stories between lines of dashes", "\n---\n".join(STORIES), STORIES, notes=["lines of ---"]),
    text("stories between lines of equal signs", "\n======\n".join(STORIES), STORIES, notes=["lines of ======"]),
    text("stories, one a line", "\n".join(LINES), LINES, notes=["lines"]),
    text("paragraphs that begin alike", "\n\n".join(LINES), LINES, notes=["blank-lines"]),
    text("names, one a line", "\n".join(f"Fox{n}" for n in range(60)), [f"Fox{n}" for n in range(60)], notes=["lines"]),
    text("lines by choice", "\n".join(SENTENCES[:30]), SENTENCES[:30], options={"separator": "lines"}, silent=True),
    text(
        "a separator typed in a shell", "\n@@\n".join(STORIES), STORIES, options={"separator": "\\n@@\\n"}, silent=True
    ),
    text(
        "a separator that occurs nowhere",
        STORIES[0],
        options={"separator": "###"},
        warnings=["The separator ### does not occur in"],
    ),
    text("empty documents between markers", "<|endoftext|>\n\n".join([*STORIES, "", ""]), STORIES),
    text("repeated stories", "\n<|endoftext|>\n".join(STORIES * 3), STORIES * 3, warnings=["exact duplicates"]),
]

ENCODED = [
    legacy("UTF-8 with a mark", NOVEL, "utf-8-sig", "byte order mark of"),
    legacy("UTF-16 with a mark", FRENCH, "utf-16", "utf-16-le (byte order mark)"),
    legacy("UTF-16 without a mark", RUSSIAN, "utf-16-be", "utf-16-be (detected)"),
    legacy("UTF-16 of Chinese without a mark", CHINESE, "utf-16-le", "utf-16-le (detected)"),
    legacy("UTF-32 with a mark", FRENCH, "utf-32", "utf-32-le (byte order mark)"),
    legacy("UTF-32 without a mark", JAPANESE, "utf-32-le", "utf-32-le (detected)"),
    legacy("Windows-1252, French", FRENCH, "cp1252", "cp1252 (detected)"),
    legacy("Windows-1252, only quotation marks", QUOTES, "cp1252", "cp1252 (detected)"),
    legacy("Windows-1251, Russian", RUSSIAN, "cp1251", "cp1251 (detected)"),
    legacy("KOI8-R, Russian", RUSSIAN, "koi8-r", "(detected)"),
    legacy("Windows-1253, Greek", GREEK, "cp1253", "(detected)"),
    legacy("Shift-JIS", JAPANESE, "shift_jis", "cp932 (detected)"),
    legacy("EUC-JP", JAPANESE, "euc_jp", "(detected)"),
    legacy("ISO-2022-JP", JAPANESE, "iso2022_jp", "(detected)"),
    legacy("GB18030", CHINESE, "gb18030", "gb18030 (detected)"),
    Kind(
        "Windows-1251 by choice",
        {"a.txt": "Лес.\n".encode("cp1251")},
        ["Лес."],
        "a.txt",
        {"encoding": "windows-1251"},
    ),
    Kind(
        "UTF-8 in a wrong encoding by choice",
        {"a.txt": FRENCH.encode()},
        [FRENCH.strip().encode().decode("cp1252", "replace")],
        "a.txt",
        {"encoding": "cp1252", "decode_errors": "replace"},
        notes=["is valid UTF-8, but is read as cp1252"],
    ),
    Kind(
        "one byte of Windows-1252",
        {"a.txt": "A fox in a café.".encode("cp1252")},
        source="a.txt",
        refused="--encoding cp1252",
    ),
    Kind(
        "two encodings in one file",
        {"a.txt": (FRENCH.encode() + FRENCH.encode("cp1252"))},
        source="a.txt",
        refused="is not UTF-8",
    ),
]

DAMAGED = [
    Kind(
        "a broken byte in UTF-8, replaced",
        {"a.txt": RUSSIAN.encode() + b"\xff"},
        [RUSSIAN + "\ufffd"],
        "a.txt",
        {"decode_errors": "replace"},
        notes=["1 damaged document kept with 1 U+FFFD inserted"],
    ),
    Kind(
        "a broken line, left out",
        {"a.txt": "\n".join([*LINES, "x"]).encode() + b"\xff\n"},
        LINES,
        "a.txt",
        {"decode_errors": "skip", "separator": "lines"},
        notes=["1 damaged document skipped"],
    ),
    Kind("a NUL character", {"a.txt": b"Once\0upon a time."}, source="a.txt", refused="a NUL character"),
    Kind("an empty file", {"a.txt": b""}, source="a.txt", refused="There is no text in"),
    Kind("white space only", {"a.txt": b"\n \n\t\n"}, source="a.txt", refused="There is no text in"),
    Kind(
        "a picture named .txt", {"a.txt": b"\x89PNG\r\n\x1a\n" + bytes(50)}, source="a.txt", refused="it is a picture"
    ),
    Kind("a PDF", {"a.pdf": b"%PDF-1.7\n"}, source="a.pdf", refused="pdftotext"),
    Kind("noise", {"a.txt": bytes((7 * n * n) % 256 for n in range(4000))}, source="a.txt", refused="is not text"),
]

KINDS = [*PROSE, *SEPARATED, *ENCODED, *DAMAGED]
