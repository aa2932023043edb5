"""Text sources: parse, describe and read them as documents."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fabella.config.data import FilesSource, HubSource, MixtureSource, Source, StorybookSource, WeightedSource
from fabella.errors import TextError, UsageError
from fabella.run_config.files import parse_yaml, read_text
from fabella.text import file_set, hub
from fabella.text.chat.template import ConversationWriter, default_writer
from fabella.text.decode_policy import DecodeErrors, DecodePolicy
from fabella.text.mixture import flatten_mixture, interleave
from fabella.text.paths import expand_paths, find_files
from fabella.text.read_report import ReadReport
from fabella.text.storybook import generator

HUB_SYNTAX = "hub:OWNER/NAME, hub:OWNER/NAME:SPLIT or hub:OWNER/NAME@SUBSET:SPLIT"


CONFIG_SUFFIXES = (".yaml", ".yml")
"""Suffixes of configs, of which the source is read."""
_SOURCE: TypeAdapter[Source] = TypeAdapter(Source)


def parse_sources(texts: Sequence[str]) -> Source:
    """Parse one or more texts: several files, directories and globs are one source. Raises UsageError for other ones.

    A shell expands ``stories/*.txt`` to many files, so commands take many.
    """
    if len(texts) == 1:
        return parse_source(texts[0])
    sources = [parse_source(text) for text in texts]
    for text, source in zip(texts, sources, strict=True):
        if not isinstance(source, FilesSource) or text.endswith(CONFIG_SUFFIXES):
            raise UsageError(
                f"{text} cannot be joined with other texts.",
                hint="Join sources in a .yaml: data: {source: {kind: mixture, parts: [{weight: 1, source: …}]}}.",
            )
    return FilesSource(paths=tuple(texts))


def parse_source(text: str) -> Source:
    """Parse ``storybook``, ``storybook:5000``, ``hub:OWNER/NAME[@SUBSET][:SPLIT]``, a file, a directory or a glob.

    A .yaml file is a config, of which ``data.source`` is taken, or such a source itself. Raises TextError for a path
    that does not exist, with the nearest name, and for a .yaml without a source.
    """
    word, _, rest = text.partition(":")
    if word == "storybook":
        if rest and not (rest.isascii() and rest.isdigit() and 1 <= int(rest) < 2**31):
            raise TextError(
                f"Cannot parse the number of stories in {text!r}.", hint="Write storybook or storybook:5000."
            )
        return StorybookSource(stories=int(rest)) if rest else StorybookSource()
    if word == "hub":
        return _hub(rest)
    if text.endswith(CONFIG_SUFFIXES) and Path(text).is_file():
        return source_of_config(text)
    expand_paths((text,))
    return FilesSource(paths=(text,))


def source_of_config(path: str) -> Source:
    """Return ``data.source`` of a .yaml config, or the source that a .yaml file is. Raises TextError without one."""
    values = parse_yaml(read_text(Path(path)), where=path)
    section = values.get("data")
    value = values if is_bare_source(values) else section.get("source") if isinstance(section, Mapping) else None
    if value is None:
        raise TextError(
            f"{path} has no text: it has no section data.source.",
            hint="Add one, for example: data: {source: {kind: files, paths: [my-stories.txt]}}.",
        )
    try:
        return _SOURCE.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TextError(
            f"The source in {path} is not valid: {where}: {problem['msg']}.",
            hint="fabella presets minigpt-100m shows a mixture.",
        ) from None


def is_bare_source(values: Mapping[str, Any]) -> bool:
    """Return whether the mapping of a .yaml file is a source rather than a config."""
    return isinstance(values.get("kind"), str) and "model" not in values and "data" not in values


def with_read_options(source: Source, changes: Mapping[str, Any]) -> Source:
    """Return a source with changed settings; those of a mixture change in each part that has them.

    Raises UsageError for a setting that the source, or every part, lacks.
    """
    for name, value in changes.items():
        changed = _with_option(source, name, value)
        if changed is None:
            kinds = {"column": "files and hub datasets", "separator": "text files", "encoding": "text files"}
            what = kinds.get(name, "files")
            raise UsageError(f"--{name} is only for {what}, not for {describe(source)}.", hint="Leave it out.")
        source = changed
    return source


def _with_option(source: Source, name: str, value: Any) -> Source | None:
    """Return the source with one setting; None if it lacks the setting."""
    if not isinstance(source, MixtureSource):
        return source.model_copy(update={name: value}) if name in type(source).model_fields else None
    parts = [_with_option(part.source, name, value) for part in source.parts]
    if not any(parts):
        return None
    changed = tuple(
        WeightedSource(weight=part.weight, source=new or part.source)
        for part, new in zip(source.parts, parts, strict=True)
    )
    return source.model_copy(update={"parts": changed})


def _hub(text: str) -> HubSource:
    name, _, split = text.partition(":")
    name, _, subset = name.partition("@")
    if not name:
        raise TextError(f"'hub:{text}' has no dataset name.", hint=f"Write {HUB_SYNTAX}.")
    # Slices of a split ("train[:10%]") exist only for downloaded datasets.
    return HubSource(name=name, subset=subset, split=split or "train", streaming="[" not in split)


def describe(source: Source) -> str:
    """Return one line: ``stories.txt``, ``storybook (20,000 stories, seed 1)``."""
    if isinstance(source, StorybookSource):
        return f"storybook ({source.stories:,} stories, seed {source.seed})"
    if isinstance(source, HubSource):
        return hub.describe(source)
    if isinstance(source, FilesSource):
        return ", ".join(source.paths)
    total = sum(part.weight for part in source.parts)
    parts = (f"{100 * part.weight / total:.3g} % {describe(part.source)}" for part in source.parts)
    return f"mixture ({'; '.join(parts)})"


def source_files(source: Source) -> list[Path]:
    """Return every file of a source in order; none for the storybook and the hub."""
    if isinstance(source, FilesSource):
        return expand_paths(source.paths, source.split)
    if isinstance(source, MixtureSource):
        return [path for part in source.parts for path in source_files(part.source)]
    return []


def validation_source(source: Source) -> Source | None:
    """Return the validation files that the names of a source's files mark, or None without such files."""
    if not isinstance(source, FilesSource) or source.split != "train":
        return None
    splits = find_files(source.paths).splits
    return source.model_copy(update={"split": "validation"}) if "validation" in splits else None


def resolve_paths(source: Source) -> Source:
    """Return the source with absolute paths."""
    if isinstance(source, FilesSource):
        return source.model_copy(update={"paths": tuple(str(Path(p).expanduser().absolute()) for p in source.paths)})
    if isinstance(source, MixtureSource):
        parts = [part.model_copy(update={"source": resolve_paths(part.source)}) for part in source.parts]
        return source.model_copy(update={"parts": tuple(parts)})
    return source


def documents(
    source: Source,
    *,
    decode_errors: DecodeErrors = "strict",
    max_bad_lines: int = 0,
    notes: ReadReport | None = None,
    writer: ConversationWriter | None = None,
) -> Iterator[str]:
    """Yield every document of a source in a fixed order; each is valid Unicode and not empty.

    ``decode_errors`` applies to invalid UTF-8, NUL characters and lone surrogates; ``max_bad_lines`` broken lines of
    .jsonl and .csv are skipped before reading fails. ``notes`` is filled during the read. ``writer`` writes the
    conversations of tables; by default as plain text. Raises TextError, also if a source (or a part of a mixture) has
    no documents.
    """
    policy = DecodePolicy(
        decode_errors=decode_errors,
        max_bad_lines=max_bad_lines,
        notes=notes if notes is not None else ReadReport(),
        writer=writer or default_writer(),
    )
    return _documents(source, policy)


def _documents(source: Source, policy: DecodePolicy) -> Iterator[str]:
    count = 0
    for text in _of_kind(source, policy):
        count += 1
        yield text
    if not count:
        raise TextError(f"There is no text in {describe(source)}.", hint=_empty_hint(policy.notes))


def _of_kind(source: Source, policy: DecodePolicy) -> Iterator[str]:
    if isinstance(source, StorybookSource):
        return _stories(source, policy)
    if isinstance(source, FilesSource):
        return file_set.documents(source, policy)
    if isinstance(source, HubSource):
        return hub.documents(source, policy)
    return _mixed(source, policy)


def _stories(source: StorybookSource, policy: DecodePolicy) -> Iterator[str]:
    for story in generator.stories(source.stories, seed=source.seed):
        policy.notes.documents += 1
        yield story


def _mixed(source: MixtureSource, policy: DecodePolicy) -> Iterator[str]:
    """Yield all documents of all parts; at any point, each part has its share of the bytes, or of the documents."""
    parts = flatten_mixture(source)
    streams = [_documents(leaf, policy) for _, leaf in parts]
    size_of = _num_bytes if source.by == "tokens" else _one
    return (text for _, text in interleave(streams, [weight for weight, _ in parts], size_of))


def _num_bytes(text: str) -> int:
    return len(text.encode())


def _one(text: str) -> int:
    return 1


def _empty_hint(notes: ReadReport) -> str:
    skipped = [
        f"{count:,} {what}"
        for count, what in ((notes.empty, "empty"), (notes.skipped, "damaged"), (notes.bad_lines, "on broken lines"))
        if count
    ]
    if not skipped:
        return "Give a file that contains text."
    example = f" For example {notes.examples[0]}" if notes.examples else ""
    return f"Skipped documents: {', '.join(skipped)}.{example}"
