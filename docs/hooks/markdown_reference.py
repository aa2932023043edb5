"""Parts of the generated reference pages: tables, types in words, docstrings as Markdown."""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ForwardRef, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


def table_lines(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def escape(text: str) -> str:
    """Return text that stays in its cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def markdown(value: Any) -> str:
    """Return a docstring as Markdown: ``code`` as `code`, indented blocks as they are."""
    return inspect.cleandoc(value.__doc__ or "").replace("``", "`")


def first_paragraph(section: type[Any]) -> str:
    """Return the first paragraph of a docstring."""
    return markdown(section).split("\n\n")[0]


def default_text(field: Any) -> str:
    """Return the default of a pydantic field as code; ``random`` if it is another one each time."""
    if field.default is PydanticUndefined:
        if field.default_factory is None:
            return "required"
        first, second = field.default_factory(), field.default_factory()
        return "`" + escape(repr(first)) + "`" if first == second else "random"
    if isinstance(field.default, BaseModel):
        return f"`{getattr(field.default, 'kind', 'its defaults')}`"
    return "`" + escape(json.dumps(field.default, ensure_ascii=False, default=str)) + "`"


def type_name(annotation: Any) -> str:
    """Return the type of a setting in words: ``integer``, ``one of none, blocks``, ``section``, ``list of text``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in arguments)
    if origin in {tuple, list, frozenset}:
        return "list of " + type_name(arguments[0])
    if origin is dict:
        return "map to " + type_name(arguments[1])
    if origin is Union or (origin is not None and "Union" in str(origin)):
        return " or ".join(dict.fromkeys(type_name(argument) for argument in arguments))
    is_section = inspect.isclass(annotation) and issubclass(annotation, BaseModel)
    if is_section or isinstance(annotation, ForwardRef):
        return "section"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def attribute_docs(value: type[Any]) -> dict[str, str]:
    """Return name → the string below the attribute, for a class and its bases."""
    docs: dict[str, str] = {}
    for base in reversed(value.__mro__):
        if not base.__module__.startswith("fabella."):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for item, following in zip(body.body, body.body[1:], strict=False):
            is_text = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and is_text:
                docs[item.target.id] = " ".join(str(following.value.value).replace("``", "`").split())  # pyright: ignore
    return docs
