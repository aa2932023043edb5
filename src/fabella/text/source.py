"""Text from anywhere: what a source means, in words and as documents."""

from collections.abc import Iterator
from pathlib import Path

from fabella.config.data import FilesSource, HubSource, MixtureSource, Source, StorybookSource
from fabella.errors import TextError
from fabella.storage import number_of
from fabella.text import file_set, hub
from fabella.text import paths as finding
from fabella.text.decode_policy import DecodePolicy, Invalid
from fabella.text.mixture import interleave
from fabella.text.read_report import ReadReport
from fabella.text.storybook import generator

HUB = "hub:OWNER/NAME, hub:OWNER/NAME:SPLIT or hub:OWNER/NAME@SUBSET:SPLIT"


def parse_source(text: str) -> Source:
    """``storybook``, ``storybook:5000``, ``hub:roneneldan/TinyStories[@subset][:split]``, a file, folder or glob.

    Raises TextError where there is nothing, with the nearest name.
    """
    word, _, rest = text.partition(":")
    if word == "storybook":
        if rest and not (rest.isascii() and rest.isdigit() and 1 <= int(rest) < 2**31):
            raise TextError(f"{text!r} names no number of stories.", hint="Write storybook, or storybook:5000.")
        return StorybookSource(stories=int(rest)) if rest else StorybookSource()
    if word == "hub":
        return _hub(rest)
    finding.expand_paths((text,))
    return FilesSource(paths=(text,))


def _hub(text: str) -> HubSource:
    name, _, split = text.partition(":")
    name, _, subset = name.partition("@")
    if not name:
        raise TextError(f"'hub:{text}' names no data set.", hint=f"Write {HUB}.")
    # A part of a split ("train[:10%]") can only be had of a data set that is downloaded.
    return HubSource(name=name, subset=subset, split=split or "train", streaming="[" not in split)


def describe(source: Source) -> str:
    """One line for people: ``stories.txt``, ``storybook (20,000 stories, seed 1)``."""
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
    """Every file that is read for a source, in order; none for the storybook and the hub."""
    if isinstance(source, FilesSource):
        return finding.expand_paths(source.paths)
    if isinstance(source, MixtureSource):
        return [path for part in source.parts for path in source_files(part.source)]
    return []


def resolve_paths(source: Source) -> Source:
    """The same source, with paths that mean the same in any working folder."""
    if isinstance(source, FilesSource):
        return source.model_copy(update={"paths": tuple(str(Path(p).expanduser().absolute()) for p in source.paths)})
    if isinstance(source, MixtureSource):
        parts = [part.model_copy(update={"source": resolve_paths(part.source)}) for part in source.parts]
        return source.model_copy(update={"parts": tuple(parts)})
    return source


def documents(
    source: Source, *, invalid: Invalid = "strict", max_bad_lines: int = 0, notes: ReadReport | None = None
) -> Iterator[str]:
    """Every document of a source, in an order that never changes; each can be encoded as UTF-8 and is not empty.

    ``invalid`` decides on bytes that are no UTF-8, NUL characters and lone surrogates; ``max_bad_lines`` is how many
    broken lines of .jsonl and .csv are left out before giving up. ``notes`` is filled on the way. Raises TextError,
    also where a source (or a part of a mixture) has no document at all.
    """
    reading = DecodePolicy(
        invalid=invalid, max_bad_lines=max_bad_lines, notes=notes if notes is not None else ReadReport()
    )
    return _documents(source, reading)


def _documents(source: Source, reading: DecodePolicy) -> Iterator[str]:
    found = 0
    for text in _of_kind(source, reading):
        found += 1
        yield text
    if not found:
        raise TextError(f"There is no text in {describe(source)}.", hint=_why_none(reading.notes))


def _of_kind(source: Source, reading: DecodePolicy) -> Iterator[str]:
    if isinstance(source, StorybookSource):
        return _stories(source, reading)
    if isinstance(source, FilesSource):
        return file_set.documents(source, reading)
    if isinstance(source, HubSource):
        return hub.documents(source, reading)
    return _mixed(source, reading)


def _stories(source: StorybookSource, reading: DecodePolicy) -> Iterator[str]:
    for story in generator.stories(source.stories, seed=source.seed):
        reading.notes.documents += 1
        yield story


def _mixed(source: MixtureSource, reading: DecodePolicy) -> Iterator[str]:
    used = [0] * len(source.parts)
    streams = [_documents(part.source, reading) for part in source.parts]
    weights = [part.weight for part in source.parts]
    try:
        for part, text in interleave(streams, weights, seed=source.seed, until_all=source.until == "all"):
            used[part] += 1
            yield text
    finally:
        for index, (part, number) in enumerate(zip(source.parts, used, strict=True)):
            name = describe(part.source)
            reading.notes.remarks[f"part {index} of {describe(source)}"] = f"{number_of(number, 'document')} of {name}"


def _why_none(notes: ReadReport) -> str:
    left_out = [
        f"{count:,} {what}"
        for count, what in ((notes.empty, "empty"), (notes.skipped, "damaged"), (notes.bad_lines, "on broken lines"))
        if count
    ]
    return f"Left out: {', '.join(left_out)}." if left_out else "Give a file with text in it."
