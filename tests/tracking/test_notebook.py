"""Tests of what a Jupyter notebook shows: tables, colored tokens, and a progress line that is rewritten."""

import io
import sys
from pathlib import Path

import pytest

from fabella.tracking.console import ProgressLine
from fabella.tracking.notebook import html_png, html_table, html_tokens, is_notebook

PNG = b"\x89PNG\r\n"


def notebook_stream() -> io.StringIO:
    """Return a stream of the kind that a kernel has in the place of a terminal."""
    return type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()


def test_a_stream_of_a_kernel_is_a_notebook_and_others_are_not() -> None:
    assert is_notebook(notebook_stream())
    assert not is_notebook(io.StringIO())
    assert not is_notebook(None)


def test_the_progress_line_is_rewritten_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = notebook_stream()
    monkeypatch.setattr(sys, "stderr", stream)
    line = ProgressLine()
    line.update("step 10")
    line.update("step 20")
    line.close()
    assert stream.getvalue() == "\rstep 10\rstep 20\n"


def test_texts_of_a_table_are_escaped() -> None:
    assert html_table(["<run>"], [["a & b"]]) == (
        "<table><tr><th>&lt;run&gt;</th></tr><tr><td>a &amp; b</td></tr></table>"
    )


def test_a_token_is_stronger_the_harder_it_is_and_keeps_its_text() -> None:
    html = html_tokens(["<b>", " fox"], [0.0, float("inf")])
    assert "0.00)" in html
    assert "0.75)" in html
    assert "&lt;b&gt;" in html
    assert html.index("&lt;b&gt;") < html.index(" fox")


def test_an_image_is_in_the_page_itself_or_left_out(tmp_path: Path) -> None:
    (tmp_path / "loss.png").write_bytes(PNG)
    assert "data:image/png;base64,iVBORw0K" in html_png(tmp_path / "loss.png", "loss")
    assert html_png(tmp_path / "missing.png", "loss") == ""
