"""Kinds of tables, of documents in other formats, of folders and of archives."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import docx
import pyarrow as arrow
import zstandard
from pyarrow import parquet

from benchmarks.text_zoo.kind import Kind
from benchmarks.text_zoo.material import LINES, SENTENCES, STORIES, novel

NOVEL = novel()


def jsonl(rows: Iterable[object]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: Iterable[Sequence[object]], separator: str = ",", **more: int) -> bytes:
    """Return rows as CSV."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator="\n", **more).writerows(rows)  # type: ignore[arg-type]
    return out.getvalue().encode()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return files as a .zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: Mapping[str, bytes]) -> bytes:
    """Return files as a .tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def parquet_of(columns: Mapping[str, object]) -> bytes:
    """Return columns as Parquet."""
    out = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns), out)
    return out.getvalue().to_pybytes()


def arrow_of(columns: Mapping[str, object]) -> bytes:
    """Return columns in Arrow's stream format, as the datasets library saves them."""
    rows = arrow.table(columns)
    out = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(out, rows.schema) as writer:
        writer.write_table(rows)
    return out.getvalue().to_pybytes()


def word_document(paragraphs: Sequence[str]) -> bytes:
    """Return paragraphs as a Word document."""
    document, out = docx.Document(), io.BytesIO()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    document.save(out)
    return out.getvalue()


STORY_ROWS = [{"id": n, "text": story} for n, story in enumerate(STORIES)]
QUESTIONS = [f"What did the fox number {n} do then?" for n in range(24)]
CHATS = [f"User: {question}\n\nAssistant: {line}" for question, line in zip(QUESTIONS, LINES, strict=True)]

JSON = [
    Kind("JSON lines", {"a.jsonl": jsonl(STORY_ROWS)}, STORIES, "a.jsonl", notes=["text column of"]),
    Kind(
        "JSON lines named .txt",
        {"a.txt": jsonl(STORY_ROWS)},
        [jsonl(STORY_ROWS).decode().strip()],
        "a.txt",
        notes=["it holds JSON: name it .jsonl"],
    ),
    Kind("JSON lines of strings", {"a.jsonl": jsonl(STORIES)}, STORIES, "a.jsonl"),
    Kind("a JSON list of objects", {"a.json": json.dumps(STORY_ROWS, indent=2).encode()}, STORIES, "a.json"),
    Kind("a JSON list of strings", {"a.json": json.dumps(STORIES).encode()}, STORIES, "a.json"),
    Kind(
        "objects over several lines",
        {"a.jsonl": "\n".join(json.dumps(row, indent=1) for row in STORY_ROWS).encode()},
        STORIES,
        "a.jsonl",
    ),
    Kind(
        "one object with all rows",
        {"a.json": json.dumps({"version": 1, "data": STORY_ROWS}).encode()},
        STORIES,
        "a.json",
    ),
    Kind(
        "columns of pandas",
        {
            "a.json": json.dumps(
                {"text": {str(n): s for n, s in enumerate(STORIES)}, "id": {str(n): n for n in range(24)}}
            ).encode()
        },
        STORIES,
        "a.json",
    ),
    Kind("JSON lines with a mark", {"a.jsonl": b"\xef\xbb\xbf" + jsonl(STORY_ROWS)}, STORIES, "a.jsonl"),
    Kind(
        "nested text",
        {"a.jsonl": jsonl({"id": n, "doc": {"body": s}} for n, s in enumerate(STORIES))},
        STORIES,
        "a.jsonl",
        {"column": "doc.body"},
    ),
    Kind(
        "a template",
        {"a.jsonl": jsonl({"title": f"Tale {n}", "text": s} for n, s in enumerate(STORIES))},
        [f"Tale {n}\n{s}" for n, s in enumerate(STORIES)],
        "a.jsonl",
        {"column": "{title}\\n{text}"},
    ),
    Kind(
        "another column of text",
        {
            "a.jsonl": jsonl(
                {"summary": other[:120], "text": line} for line, other in zip(LINES, LINES[::-1], strict=True)
            )
        },
        LINES,
        "a.jsonl",
        notes=["left out: summary"],
    ),
    Kind(
        "messages",
        {
            "a.jsonl": jsonl(
                {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
                for q, a in zip(QUESTIONS, LINES, strict=True)
            )
        },
        CHATS,
        "a.jsonl",
        notes=["conversation"],
    ),
    Kind(
        "ShareGPT",
        {
            "a.json": json.dumps(
                [
                    {"id": "x", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
                    for q, a in zip(QUESTIONS, LINES, strict=True)
                ]
            ).encode()
        },
        CHATS,
        "a.json",
        notes=["conversation"],
    ),
    Kind(
        "Alpaca",
        {
            "a.json": json.dumps(
                [{"instruction": q, "input": "", "output": a} for q, a in zip(QUESTIONS, LINES, strict=True)]
            ).encode()
        },
        CHATS,
        "a.json",
        notes=["conversation"],
    ),
    Kind(
        "prompt and response",
        {"a.jsonl": jsonl({"prompt": q, "response": a} for q, a in zip(QUESTIONS, LINES, strict=True))},
        CHATS,
        "a.jsonl",
    ),
    Kind(
        "prompt and completion as messages",
        {
            "a.jsonl": jsonl(
                {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
                for q, a in zip(QUESTIONS, LINES, strict=True)
            )
        },
        CHATS,
        "a.jsonl",
        notes=["prompt, completion, a conversation"],
    ),
    Kind(
        "preferences",
        {
            "a.jsonl": jsonl(
                {"prompt": q, "chosen": a, "rejected": f"{a} {a}"} for q, a in zip(QUESTIONS, LINES, strict=True)
            )
        },
        CHATS,
        "a.jsonl",
        notes=["prompt, chosen, a conversation"],
    ),
    Kind(
        "only ids",
        {"a.jsonl": jsonl({"id": f"a{n}b", "hash": "0f" * 16} for n in range(30))},
        source="a.jsonl",
        refused="no text column",
    ),
    Kind(
        "a broken line of JSON",
        {"a.jsonl": jsonl(STORY_ROWS) + b'{"text": "a\n'},
        source="a.jsonl",
        refused="--max-bad-lines 10",
    ),
    Kind(
        "a broken line of JSON, allowed",
        {"a.jsonl": jsonl(STORY_ROWS) + b'{"text": "a\n'},
        STORIES,
        "a.jsonl",
        {"max_bad_lines": 1},
        warnings=["1 line is broken"],
    ),
    Kind(
        "rows without text",
        {"a.jsonl": jsonl([*STORY_ROWS, {"id": 1, "text": None}, {"id": 2, "text": " "}])},
        STORIES,
        "a.jsonl",
        notes=["2 empty documents"],
    ),
    Kind("the first rows only", {"a.jsonl": jsonl(STORY_ROWS)}, STORIES[:12], "a.jsonl", {"limit": 12}),
]

CSV = [
    Kind("CSV", {"a.csv": table([("id", "text"), *enumerate(STORIES)])}, STORIES, "a.csv"),
    Kind(
        "CSV of Excel with semicolons",
        {
            "a.csv": table(
                [("id", "text, final", "Preis, EUR"), *((n, s, f"{n},5") for n, s in enumerate(STORIES))], ";"
            ).replace(b"\n", b"\r\n")
        },
        STORIES,
        "a.csv",
        {"column": "text, final"},
        notes=["separated by ';'"],
    ),
    Kind(
        "Excel's sep= line", {"a.csv": b"sep=;\r\n" + table([("id", "text"), *enumerate(LINES)], ";")}, LINES, "a.csv"
    ),
    Kind(
        "CSV in Windows-1252",
        {
            "a.csv": b"id;text\n"
            + "".join(f"{n};Über dem Fluß fährt der müde König {n}\n" for n in range(30)).encode("cp1252")
        },
        [f"Über dem Fluß fährt der müde König {n}" for n in range(30)],
        "a.csv",
        notes=["cp1252 (detected)"],
    ),
    Kind(
        "TSV", {"a.tsv": table([("id", "text"), *enumerate(LINES)], "\t")}, LINES, "a.tsv", notes=["separated by tabs"]
    ),
    Kind(
        "TSV with raw quotation marks",
        {"a.tsv": b"id\ttext\n" + "".join(f'{n}\t"{line[:40]}\n' for n, line in enumerate(LINES)).encode()},
        [f'"{line[:40]}' for line in LINES],
        "a.tsv",
        notes=["quotation marks are text"],
    ),
    Kind(
        "backslash quotes",
        {"a.csv": b"id,text\n" + "".join(f'{n},"Said \\"no\\", {n}, and left."\n' for n in range(30)).encode()},
        [f'Said "no", {n}, and left.' for n in range(30)],
        "a.csv",
        notes=["follow a backslash"],
    ),
    Kind(
        "CSV between bars",
        {"a.csv": table([("id", "text"), *enumerate(LINES)], "|")},
        LINES,
        "a.csv",
        notes=["separated by '|'"],
    ),
    Kind(
        "CSV without a header",
        {"a.csv": table([(n, line) for n, line in enumerate(LINES)])},
        LINES,
        "a.csv",
        notes=["no header"],
    ),
    Kind(
        "CSV of one column",
        {"a.csv": table([("text",), *((line,) for line in LINES)], quoting=csv.QUOTE_ALL)},
        LINES,
        "a.csv",
    ),
    Kind("CSV of one column, not quoted", {"a.csv": ("text\n" + "\n".join(LINES) + "\n").encode()}, LINES, "a.csv"),
    Kind(
        "CSV with a title before the header",
        {"a.csv": b"Stories of 2024\n\n" + table([("id", "text"), *enumerate(LINES)])},
        LINES,
        "a.csv",
        notes=["before the header left out"],
    ),
    Kind(
        "CSV of R with row names",
        {
            "a.csv": table(
                [("text", "n"), *((f"r{n}", line, n) for n, line in enumerate(LINES))], quoting=csv.QUOTE_NONNUMERIC
            )
        },
        LINES,
        "a.csv",
    ),
    Kind(
        "conversations in the cells of a CSV",
        {
            "a.csv": table(
                [
                    ("id", "messages"),
                    *(
                        (n, [{"role": "user", "content": q}, {"role": "assistant", "content": a}])
                        for n, (q, a) in enumerate(zip(QUESTIONS, LINES, strict=True))
                    ),
                ]
            )
        },
        CHATS,
        "a.csv",
        notes=["conversation"],
    ),
    Kind(
        "cells over several lines",
        {"a.csv": table([("text", "n"), *((story, n) for n, story in enumerate(STORIES))])},
        STORIES,
        "a.csv",
    ),
]

PAGE = (
    "<html><head><meta charset='{charset}'><title>No</title></head>"
    "<body><nav>Home</nav><p>{text}</p><script>x</script></body></html>"
)
EPUB = {
    "mimetype": b"application/epub+zip",
    "META-INF/container.xml": b'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
    b'<rootfiles><rootfile full-path="a.opf"/></rootfiles></container>',
    "a.opf": b'<package xmlns="http://www.idpf.org/2007/opf">'
    b'<manifest><item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
    b'<spine><itemref idref="c"/></spine></package>',
    "c.xhtml": f"<html><body><h1>One</h1><p>{SENTENCES[0]}</p><p>{SENTENCES[1]}</p></body></html>".encode(),
}
CUES = "".join(f"{n + 1}\n00:00:{n:02d},000 --> 00:00:{n:02d},900\n<i>{SENTENCES[n]}</i>\n\n" for n in range(20))
CODE = "def fox():\n    return 'a fox'\n\n\ndef bear():\n    return 'a bear'"

FORMATS = [
    Kind(
        "Markdown with front matter",
        {"a.md": f"---\ntitle: A tale\n---\n\n# A tale\n\n{STORIES[0]}\n".encode()},
        [f"# A tale\n\n{STORIES[0]}"],
        "a.md",
        notes=["front matter"],
    ),
    Kind("a web page", {"a.html": PAGE.format(charset="utf-8", text=LINES[0]).encode()}, [LINES[0]], "a.html"),
    Kind(
        "a web page in Shift-JIS",
        {"a.html": PAGE.format(charset="shift_jis", text="昔々、あるところに。").encode("shift_jis")},
        ["昔々、あるところに。"],
        "a.html",
    ),
    Kind("an EPUB", {"a.epub": zipped(EPUB)}, [f"One\n\n{SENTENCES[0]}\n\n{SENTENCES[1]}"], "a.epub"),
    Kind("a Word document", {"a.docx": word_document(SENTENCES[:9])}, ["\n".join(SENTENCES[:9])], "a.docx"),
    Kind(
        "Parquet",
        {"a.parquet": parquet_of({"id": list(range(24)), "text": STORIES})},
        STORIES,
        "a.parquet",
        notes=["text column of"],
    ),
    Kind(
        "Parquet with nested columns",
        {"a.parquet": parquet_of({"doc": [{"body": story, "n": 1} for story in STORIES]})},
        STORIES,
        "a.parquet",
        {"column": "doc.body"},
    ),
    Kind(
        "a folder of save_to_disk",
        {"data-00000-of-00001.arrow": arrow_of({"text": STORIES}), "dataset_info.json": b"{}", "state.json": b"{}"},
        STORIES,
        notes=["left out"],
    ),
    Kind("subtitles", {"a.srt": CUES.encode()}, ["\n".join(SENTENCES[:20])], "a.srt"),
    Kind(
        "subtitles in Windows-1251",
        {
            "a.srt": "".join(
                f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\nЖила-была девочка, и было у неё {n} медведя\n\n"
                for n in range(1, 9)
            ).encode("cp1251")
        },
        ["\n".join(f"Жила-была девочка, и было у неё {n} медведя" for n in range(1, 9))],
        "a.srt",
        notes=["cp1251 (detected)"],
    ),
    Kind(
        "a Jupyter notebook",
        {"a.ipynb": json.dumps({"cells": [{"source": [SENTENCES[0]]}, {"source": CODE, "outputs": [1]}]}).encode()},
        [f"{SENTENCES[0]}\n\n{CODE}"],
        "a.ipynb",
    ),
    Kind("source code", {"a.py": CODE.encode()}, [CODE], "a.py"),
    Kind("a LaTeX paper", {"a.tex": ("\\section{A}\n\n" + NOVEL).encode()}, ["\\section{A}\n\n" + NOVEL], "a.tex"),
]

STORY_FILES = {f"{n:02d}.txt": story.encode() for n, story in enumerate(STORIES)}
FOLDERS = [
    Kind("a folder of stories, one a file", STORY_FILES, STORIES),
    Kind(
        "a folder with README and licence",
        {**STORY_FILES, "README.md": b"About.", "LICENSE": b"MIT"},
        STORIES,
        notes=["left out"],
    ),
    Kind(
        "a clone of a hub dataset",
        {
            "README.md": b"# Card",
            "dataset_infos.json": b"{}",
            "data/train-00000-of-00001.jsonl": jsonl(STORY_ROWS),
            "data/test-00000-of-00001.jsonl": jsonl(STORY_ROWS[:3]),
            "data/validation-00000-of-00001.jsonl": jsonl({"text": line} for line in LINES[:4]),
        },
        STORIES,
        notes=["read the train split"],
        validation=LINES[:4],
    ),
    Kind(
        "train and valid files",
        {
            "train.txt": "\n<|endoftext|>\n".join(STORIES[4:]).encode(),
            "valid.txt": "\n<|endoftext|>\n".join(STORIES[:4]).encode(),
        },
        STORIES[4:],
        validation=STORIES[:4],
    ),
    Kind(
        "tables, pages and code",
        {"a.jsonl": jsonl(STORY_ROWS), "b.html": b"<p>x</p>", "c.py": b"x = 1"},
        STORIES,
        notes=["1 .html", "1 .py"],
    ),
    Kind("a folder of code", {"a.py": CODE.encode(), "sub/b.py": b"x = 1\ny = 2"}, [CODE, "x = 1\ny = 2"]),
    Kind(
        "files of several encodings",
        {
            "a.txt": ("Жила-была девочка, и было у неё три медведя.\n" * 9).encode("cp1251"),
            "b.txt": STORIES[0].encode(),
        },
        [("Жила-была девочка, и было у неё три медведя.\n" * 9).strip(), STORIES[0]],
        notes=["cp1251 (detected)"],
    ),
    Kind("an empty folder", {"a.png": b"\x89PNG"}, refused="There is no text in the directory"),
    Kind(
        "a mixture in a .yaml",
        {"mix.yaml": b"kind: mixture\nuntil: all\nparts:\n  - {weight: 1, source: {kind: storybook, stories: 5}}\n"},
        STORIES[:5],
        "mix.yaml",
    ),
    Kind(
        "a .yaml without a text",
        {"a.yaml": b"training: {length: {max_steps: 3}}\n"},
        source="a.yaml",
        refused="has no section data.source",
    ),
]

ARCHIVES = [
    Kind("gzip", {"a.txt.gz": gzip.compress(NOVEL.encode())}, [NOVEL], "a.txt.gz"),
    Kind("xz", {"a.jsonl.xz": lzma.compress(jsonl(STORY_ROWS))}, STORIES, "a.jsonl.xz"),
    Kind("zstd", {"a.jsonl.zst": zstandard.compress(jsonl(STORY_ROWS))}, STORIES, "a.jsonl.zst"),
    Kind("a tar.zst of stories", {"a.tar.zst": zstandard.compress(tarred(STORY_FILES))}, STORIES, "a.tar.zst"),
    Kind("bzip2", {"a.txt.bz2": bz2.compress(NOVEL.encode())}, [NOVEL], "a.txt.bz2"),
    Kind(
        "a zip of stories",
        {"a.zip": zipped({**STORY_FILES, "README.md": b"About."})},
        STORIES,
        "a.zip",
        notes=["left out: README.md"],
    ),
    Kind(
        "a tar.gz with splits",
        {
            "a.tar.gz": gzip.compress(
                tarred({"train.jsonl": jsonl(STORY_ROWS), "valid.jsonl": jsonl({"text": line} for line in LINES[:4])})
            )
        },
        STORIES,
        "a.tar.gz",
        validation=LINES[:4],
    ),
    Kind(
        "a tar.bz2 of CSV",
        {"a.tar.bz2": bz2.compress(tarred({"a.csv": table([("id", "text"), *enumerate(LINES)], ";")}))},
        LINES,
        "a.tar.bz2",
    ),
    Kind("a zip bomb", {"a.zip": zipped({"a.txt": b"a" * 40_000_000})}, source="a.zip", refused="decompression bomb"),
    Kind(
        "an archive without text",
        {"a.zip": zipped({"a.png": b"\x89PNG"})},
        source="a.zip",
        refused="There is no text in",
    ),
    Kind(
        "a text named .gz",
        {"a.txt.gz": NOVEL.encode()},
        source="a.txt.gz",
        refused="Name it a.txt.",
    ),
    Kind(
        "a zip archive named .gz",
        {"a.txt.gz": zipped({"a.txt": NOVEL.encode()})},
        source="a.txt.gz",
        refused="Name it a.txt.zip.",
    ),
    Kind(
        "a damaged gzip file",
        {"a.txt.gz": gzip.compress(NOVEL.encode())[:200]},
        source="a.txt.gz",
        refused="Cannot decompress",
    ),
]

KINDS = [*JSON, *CSV, *FORMATS, *FOLDERS, *ARCHIVES]
