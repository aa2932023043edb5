"""MkDocs hook that generates the reference pages from the code, so that they are never out of date.

``pages()`` returns them as Markdown: path below ``docs`` → text.
"""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import fabella
from fabella import errors
from fabella.cli.help import readable_help, readable_name
from fabella.cli.main import app, command_files
from fabella.cli.presets import table
from fabella.config.base import ConfigModel
from fabella.models.registry import family_config, family_names
from fabella.run_config.files import preset_names, preset_text, sections_at
from fabella.run_config.run import RunConfig
from fabella.server.requests.schema import ChatRequest, CompletionRequest

SOURCE = Path(fabella.__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those of the docs directory."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


@cache
def pages() -> dict[str, str]:
    """Return every generated page."""
    return {
        "reference/commands.md": commands_page(),
        "reference/config.md": config_page(),
        "reference/families.md": families_page(),
        "reference/presets.md": presets_page(),
        "reference/python.md": python_page(),
        "reference/errors.md": errors_page(),
        "reference/http-api.md": http_page(),
    }


# ---------------------------------------------------------------- commands


def commands_page() -> str:
    """Return every command with its description, examples, arguments and options."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    lines = ["# Commands", "", "`fabella COMMAND --help` shows the same text.", ""]
    for name in command_files():
        command = group.get_command(context, name)
        lines += _command(command, f"fabella {name}", level=2)
    return "\n".join(lines)


def _command(command: Any, path: str, level: int) -> Iterator[str]:
    description, _, examples = inspect.cleandoc((command.help or "").replace("\b\n", "")).partition("Examples:")
    yield from (f"{'#' * level} {path}", "", description.strip(), "")
    if examples:
        yield from ("```text", inspect.cleandoc(examples), "```", "")
    context = typer.Context(command, info_name=path)
    for title, kind in (("Argument", "argument"), ("Option", "option")):
        records = [p.get_help_record(context) for p in command.get_params(context) if p.param_type_name == kind]
        rows = [(readable_name(name), readable_help(text)) for name, text in filter(None, records)]
        if rows:
            yield from _table(
                (title, "Meaning"), ((f"`{name}`", _escape(" ".join(text.split()))) for name, text in rows)
            )
    for name, inner in getattr(command, "commands", {}).items():
        yield from _command(inner, f"{path} {name}", level + 1)


# ---------------------------------------------------------------- config


def config_page() -> str:
    """Return every setting with its type, default and meaning."""
    lines = [
        "# Settings", "",
        "A config is a YAML file, or `section.key=value` after a command. Settings of a section with a `kind` are",
        "those of the chosen kind. A run's complete config is saved in its `config.yaml`.", "",
    ]  # fmt: skip
    lines += _section([RunConfig], "", 2, {})
    for family in family_names():
        lines += [f"### model.family={family}", "", _first_paragraph(family_config(family)), ""]
        lines += _fields(family_config(family), "model.")
        for name, field in family_config(family).model_fields.items():
            for section in _classes(field.annotation):
                lines += [f"#### model.{name} of {family}", "", _first_paragraph(section), ""]
                lines += _fields(section, f"model.{name}.")
    return "\n".join(lines)


def _classes(annotation: Any) -> list[type[ConfigModel]]:
    """Return the section classes in the type of a field."""
    if inspect.isclass(annotation) and issubclass(annotation, ConfigModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _classes(argument)]


def _section(sections: list[type[ConfigModel]], path: str, level: int, seen: dict[Any, str]) -> Iterator[str]:
    """Yield a table per alternative of the section at ``path``, and then its inner sections.

    ``seen``: sections with a table already, and their paths.
    """
    if (first := seen.setdefault(tuple(sections), path)) != path:
        yield from (f"{'#' * min(level, 4)} {path}", "", f"The same settings as `{first}`.", "")
        return
    inner: dict[str, None] = {}
    for section in sections:
        kind = section.model_fields["kind"].default if "kind" in section.model_fields else ""
        title = f"{path}.kind={kind}" if kind else path or "Top level"
        yield from (f"{'#' * min(level, 4)} {title}", "", _first_paragraph(section), "")
        yield from _fields(section, f"{path}." if path else "")
        inner |= dict.fromkeys(name for name in section.model_fields if _inner(path, name))
    for name in inner:
        key = f"{path}.{name}" if path else name
        if key.count(".") < 3:
            yield from _section(_inner(path, name), key, level + 1, seen)


def _inner(path: str, name: str) -> list[type[ConfigModel]]:
    """Return the section classes of a field; none for ``model``, which has a table per family, and plain settings."""
    if (path, name) == ("", "model"):
        return []
    return sections_at([*filter(None, path.split(".")), name])


def _fields(section: type[ConfigModel], prefix: str) -> Iterator[str]:
    rows = [
        (f"`{prefix}{name}`", _escape(type_name(field.annotation)), _default(field), _escape(field.description or ""))
        for name, field in section.model_fields.items()
    ]
    return _table(("Setting", "Type", "Default", "Meaning"), rows)


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required" if field.default_factory is None else "`" + _escape(repr(field.default_factory())) + "`"
    if isinstance(field.default, BaseModel):
        return f"`{getattr(field.default, 'kind', 'its defaults')}`"
    return "`" + _escape(json.dumps(field.default, ensure_ascii=False, default=str)) + "`"


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
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "section"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", type(None): "null"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


# ---------------------------------------------------------------- families, presets, Python, errors, HTTP


def families_page() -> str:
    """Return the docstring of every family: its drawing, its equations, its sources."""
    lines = ["# Every family", ""]
    for family in family_names():
        text = inspect.cleandoc(inspect.getmodule(family_config(family)).__doc__ or "")
        lines += [f"## {family}", "", text.replace("``", "`"), ""]
    return "\n".join(lines)


def presets_page() -> str:
    """Return the table of presets and the YAML of each."""
    lines = ["# Presets", "", "```text", table(), "```", ""]
    for name in preset_names():
        lines += [f"## {name}", "", "```yaml", preset_text(name).strip(), "```", ""]
    return "\n".join(lines)


def python_page() -> str:
    """Return the public functions and classes with their signatures and docstrings."""
    lines = ["# Python", "", inspect.cleandoc(fabella.__doc__ or "").partition("\n")[0], ""]
    for name in sorted(fabella.__all__):
        value = getattr(fabella, name)
        lines += [f"## fabella.{name}", "", "```python", _signature(name, value), "```", ""]
        lines += [_docstring(value), ""]
        if inspect.isclass(value):
            lines += _methods(value)
    generator = importlib.import_module("fabella.generation.generator").TextGenerator
    lines += ["## Generator", "", "The result of `fabella.load`.", "", _docstring(generator), "", *_methods(generator)]
    return "\n".join(lines)


def _methods(value: type[Any]) -> Iterator[str]:
    for name, method in vars(value).items():
        if name.startswith("_") or not inspect.isfunction(method) or not method.__doc__:
            continue
        yield from (f"### {value.__name__}.{name}", "", "```python", _signature(name, method), "```", "")
        yield from (_docstring(method), "")


def _signature(name: str, value: Any) -> str:
    try:
        text = f"{name}{inspect.signature(value)}"
    except (TypeError, ValueError):
        return name
    text = re.sub(r"<function [^>]*>", "…", text)
    return re.sub(r"(?:[a-z_]+\.)+([A-Z])", r"\1", text)


def _docstring(value: Any) -> str:
    """Return a docstring as Markdown: ``code`` as `code`, indented blocks as they are."""
    return inspect.cleandoc(value.__doc__ or "").replace("``", "`")


def errors_page() -> str:
    """Return the exit codes, the classes of errors, and every message with its advice."""
    lines = [
        "# Errors", "",
        "An error prints what is wrong, the rule, and what to do next. `--debug` adds a traceback. Search this page",
        "for a part of a message; `…` stands for a value.", "",
        "```text", inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2].partition("\n\nA message")[0], "```", "",
    ]  # fmt: skip
    for name, found in sorted(_messages().items()):
        lines += [f"## {name}", "", *_table(("Message", "What to do"), sorted(found))]
    return "\n".join(lines)


def _messages() -> dict[str, set[tuple[str, str]]]:
    """Return the messages of all errors raised in the source: class → message and hint."""
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and name.endswith("Error")}
    found: dict[str, set[tuple[str, str]]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in classes:
                continue
            message = _template(node.args[0]) if node.args else ""
            hint = next((_template(k.value) for k in node.keywords if k.arg == "hint"), "")
            if len(message.replace("…", "").strip(" .:")) > 5:
                found.setdefault(node.func.id, set()).add((_escape(message), _escape(hint)))
    return found


def _template(node: ast.expr) -> str:
    """Return the text of a string expression, with … for its values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "…"


def http_page() -> str:
    """Return the endpoints and the fields of their requests."""
    lines = [
        "# HTTP API",
        "",
        "`fabella serve RUN` speaks OpenAI's API. [The guide](../guide-serve.md) has examples.",
        "",
    ]
    for path, request in (("/v1/completions", CompletionRequest), ("/v1/chat/completions", ChatRequest)):
        lines += [f"## POST {path}", "", _docstring(request), ""]
        rows = [
            (f"`{name}`", _escape(type_name(field.annotation)), _default(field), _escape(field.description or ""))
            for name, field in request.model_fields.items()
        ]
        lines += _table(("Field", "Type", "Default", "Meaning"), rows)
    lines += ["## OpenAPI schemas of the requests", "", "```json", _schemas(), "```", ""]
    return "\n".join(lines)


def _schemas() -> str:
    requests = {model.__name__: model.model_json_schema() for model in (CompletionRequest, ChatRequest)}
    return json.dumps({"components": {"schemas": requests}}, indent=1, default=str)


# ---------------------------------------------------------------- Markdown


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def _escape(text: str) -> str:
    """Return text that stays in its cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _first_paragraph(section: type[ConfigModel]) -> str:
    return _docstring(section).split("\n\n")[0]
