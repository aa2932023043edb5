"""MkDocs hook that generates the reference pages from the code, so that they are never out of date.

``pages()`` returns them as Markdown: path below ``docs`` → text.
"""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import typer
from http_reference import http_page
from markdown_reference import attribute_docs, default_text, escape, first_paragraph, markdown, table_lines, type_name
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import fabella
from fabella import errors
from fabella.cli.help import readable_help, readable_name
from fabella.cli.main import app, command_files
from fabella.cli.presets import table
from fabella.config.base import ConfigModel
from fabella.models.registry import family_config, family_names
from fabella.run_config.files import preset_names, preset_text, sections_at
from fabella.run_config.run import RunConfig

SOURCE = Path(fabella.__file__).parent
Owners = dict[type[ConfigModel], list[str]]
RESULTS = (
    ("training.session", "TrainResult"),
    ("training.eval_loss", "EvalLoss"),
    ("training.loop", "TrainingStep"),
    ("training.loop", "Progress"),
    ("training.loop", "StopTraining"),
    ("generation.generator", "TextGenerator"),
    ("generation.completion", "Completion"),
    ("generation.completion", "CompletionStream"),
    ("generation.likelihood", "Perplexity"),
    ("text.chat.template", "Message"),
    ("evaluation.comparison.compare", "RunComparison"),
    ("evaluation.comparison.compare", "RunScore"),
    ("evaluation.comparison.compare", "RunPair"),
    ("evaluation.comparison.compare", "VariantScore"),
    ("evaluation.comparison.compare", "VariantPair"),
    ("evaluation.evaluate", "Evaluation"),
    ("runs.verify", "Finding"),
    ("interop.export", "ExportResult"),
    ("interop.export", "ExportedCheckpoints"),
    ("interop.import_model", "ImportResult"),
)
"""Module and name of each class that a public function takes or returns."""
_COPY = "get the file again, or restore it from a copy."
GENERAL_ADVICE = {
    "CheckpointError": "`fabella verify RUN` lists what is damaged. Use another checkpoint (`--checkpoint STEP`), or "
    + _COPY,
    "ConfigError": "[Settings](config.md) has the type and range of every setting.",
    "DistributedError": "the reason of the first process that failed is above it; "
    "[Clusters](../guide-clusters.md) describes the launchers.",
    "FabellaError": "add `--debug` for the traceback.",
    "StorageError": f"{_COPY} A prepared dataset can be prepared again.",
    "TextError": "look at the place that the message names; [Your own text](../guide-own-text.md) says what can be "
    "read.",
    "TokenizerError": f"{_COPY} `fabella tokenizer train` makes a new tokenizer.",
    "UsageError": "`fabella COMMAND --help` shows what the command takes.",
}
"""What to do about an error whose message is all there is."""


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
            yield from table_lines(
                (title, "Meaning"), ((f"`{name}`", escape(" ".join(text.split()))) for name, text in rows)
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
        lines += [f"### model.family={family}", "", first_paragraph(family_config(family)), ""]
        lines += _fields(family_config(family), "model.")
        for name, field in family_config(family).model_fields.items():
            for section in _classes(field.annotation):
                kind = f".kind={_kind(section)}" if _kind(section) else ""
                lines += [f"#### model.{name}{kind} of {family}", "", first_paragraph(section), ""]
                lines += _fields(section, f"model.{name}.")
    return "\n".join(lines)


def _classes(annotation: Any) -> list[type[ConfigModel]]:
    """Return the section classes in the type of a field."""
    if inspect.isclass(annotation) and issubclass(annotation, ConfigModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _classes(argument)]


def _section(
    sections: list[type[ConfigModel]], path: str, level: int, seen: dict[Any, str], owners: Owners | None = None
) -> Iterator[str]:
    """Yield a table per alternative of the section at ``path``, and then its inner sections.

    ``seen``: sections with a table already, and their paths. ``owners``: the kinds of the section around it to which
    an alternative belongs.
    """
    mark = "#" * min(level, 4)
    if (first := seen.setdefault(tuple(sections), path)) != path:
        yield from (f"{mark} {path}", "", f"The same settings as `{first}`.", "")
        return
    inner: dict[str, None] = {}
    labels = {section: [_kind(section)] if _kind(section) else (owners or {}).get(section, []) for section in sections}
    for section in sections:
        title = _title(section, path, labels[section] if len(sections) > 1 else [])
        yield from (f"{mark} {title}", "", first_paragraph(section), "")
        yield from _fields(section, f"{path}." if path else "")
        yield from _items(section, path, mark, seen)
        inner |= dict.fromkeys(name for name in section.model_fields if _inner(path, name))
    for name in inner:
        key = f"{path}.{name}" if path else name
        if key.count(".") < 3:
            yield from _section(_inner(path, name), key, level + 1, seen, _owners(labels, name))


def _kind(section: type[ConfigModel]) -> str:
    return str(section.model_fields["kind"].default) if "kind" in section.model_fields else ""


def _title(section: type[ConfigModel], path: str, labels: list[str]) -> str:
    """Return a heading that no other alternative has."""
    if kind := _kind(section):
        return f"{path}.kind={kind}"
    if len(section.model_fields) == 1 and not labels:
        return f"{path} with {next(iter(section.model_fields))}"
    return (path or "Top level") + (f" of {', '.join(labels)}" if labels else "")


def _owners(labels: Owners, name: str) -> Owners:
    """Return, for each class of the field ``name``, the labels of the sections that have it."""
    owners: Owners = {}
    for section, own in labels.items():
        for inner in _classes(section.model_fields[name].annotation) if name in section.model_fields else []:
            owners[inner] = [*owners.get(inner, []), *own]
    return owners


def _items(section: type[ConfigModel], path: str, mark: str, seen: dict[Any, str]) -> Iterator[str]:
    """Yield a table for each list of sections, such as the phases of a schedule."""
    for name, field in section.model_fields.items():
        for item in [] if _inner(path, name) or (path, name) == ("", "model") else _classes(field.annotation):
            if item not in seen:
                seen[item] = f"{path}.{name}"
                yield from (f"{mark}# Items of {path}.{name}", "", first_paragraph(item), "")
                yield from _fields(item, "")


def _inner(path: str, name: str) -> list[type[ConfigModel]]:
    """Return the section classes of a field; none for ``model``, which has a table per family, and plain settings."""
    if (path, name) == ("", "model"):
        return []
    return list(dict.fromkeys(sections_at([*filter(None, path.split(".")), name])))


def _fields(section: type[ConfigModel], prefix: str) -> Iterator[str]:
    rows = [
        (f"`{prefix}{name}`", escape(type_name(field.annotation)), default_text(field), escape(_meaning(name, field)))
        for name, field in section.model_fields.items()
    ]
    return table_lines(("Setting", "Type", "Default", "Meaning"), rows)


def _meaning(name: str, field: Any) -> str:
    """Return the description of a setting; for a section, what it is, or its kinds."""
    if field.description:
        return str(field.description)
    if name in {"kind", "family"}:
        return "chooses these settings"
    classes = _classes(field.annotation)
    kinds = [kind for kind in map(_kind, classes) if kind]
    return f"one of {', '.join(dict.fromkeys(kinds))}" if kinds else first_paragraph(classes[0]) if classes else ""


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
        lines += [markdown(value), ""]
        if inspect.isclass(value):
            lines += _methods(value)
    lines += ["## Results and arguments", "", "What the functions above return, and what they take.", ""]
    for module, name in RESULTS:
        value = getattr(importlib.import_module(f"fabella.{module}"), name)
        lines += [f"### {name}", "", f"`from fabella.{module} import {name}`", "", markdown(value), ""]
        lines += [*_attributes(value), *_methods(value, level=4)]
    return "\n".join(lines)


def _attributes(value: type[Any]) -> Iterator[str]:
    """Yield the table of the fields and properties of a class."""
    docs = attribute_docs(value)
    types = {name: text for name, text in getattr(value, "__annotations__", {}).items() if not name.startswith("_")}
    rows = [(f"`{name}`", escape(_type_text(text)), escape(docs.get(name, ""))) for name, text in types.items()]
    for name, member in vars(value).items():
        if isinstance(member, property) and not name.startswith("_"):
            text = inspect.signature(member.fget).return_annotation if member.fget else ""
            rows.append((f"`{name}`", escape(_type_text(text)), escape(markdown(member).partition("\n\n")[0])))
    if rows:
        yield from table_lines(("Attribute", "Type", "Meaning"), rows)


def _type_text(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return _short(text)


def _methods(value: type[Any], level: int = 3) -> Iterator[str]:
    for name, method in vars(value).items():
        if name.startswith("_") or not inspect.isfunction(method) or not method.__doc__:
            continue
        yield from (f"{'#' * level} {value.__name__}.{name}", "", "```python", _signature(name, method), "```", "")
        yield from (markdown(method), "")


def _signature(name: str, value: Any) -> str:
    try:
        text = f"{name}{inspect.signature(value)}"
    except (TypeError, ValueError):
        return name
    return _short(text)


def _short(text: str) -> str:
    """Return a type or a signature without addresses, module names and pydantic's metadata."""
    text = re.sub(r"<function .*? at 0x[0-9a-f]+>", "…", text)
    text = re.sub(r"(?:[A-Za-z_]+\.)+(?=[A-Za-z])", "", text)
    text = re.sub(r"Annotated\[([^\[\]]*?), FieldInfo\([^()]*\)\]", r"\1", text)
    text = re.sub(r"ndarray\[tuple\[Any, \.\.\.\], dtype\[(\w+)\]\]", r"NDArray[\1]", text)
    return re.sub(r"= SamplingParams\([^()]*(?:\(\))?[^()]*\)", "= SamplingParams()", text)


def errors_page() -> str:
    """Return the exit codes, the classes of errors, and every message with its advice."""
    lines = [
        "# Errors", "",
        "An error prints what is wrong, the rule, and what to do next. `--debug` adds a traceback. Search this page",
        "for a part of a message; `…` stands for a value.", "",
        "```text", inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2].partition("\n\nA message")[0], "```", "",
    ]  # fmt: skip
    for name, found in sorted(_messages().items()):
        lines += [f"## {name}", ""]
        if name in GENERAL_ADVICE:
            lines += [f"Where nothing else is named: {GENERAL_ADVICE[name]}", ""]
        lines += table_lines(("Message", "What to do"), sorted(found))
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
                advice = "The message names it." if hint and not hint.strip("… ") else escape(hint)
                found.setdefault(node.func.id, set()).add((escape(message), advice))
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
