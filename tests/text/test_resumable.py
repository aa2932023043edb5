"""Tests that the chunks of a source have all documents once, in any order of chunks, and from any chunk on."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fabella.config.data import FilesSource, HubSource, MixtureSource, StorybookSource, WeightedSource
from fabella.errors import TextError
from fabella.text import resumable as module
from fabella.text.decode_policy import DecodePolicy
from fabella.text.mixture import Leaf, flatten_mixture
from fabella.text.resumable import iter_chunks
from fabella.text.source import documents
from tests.text.local_hub import LocalHub, installed

FORWARD = range


def BACKWARD(n: int) -> range:  # noqa: N802 - a constant like FORWARD
    return range(n - 1, -1, -1)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setattr(module, "RETRY_SECONDS", (0.0, 0.0, 0.0))
    stand_in = installed(tmp_path, monkeypatch)
    stand_in.add("tales", [[f"Tale {shard} of {row} foxes." for row in range(300)] for shard in range(3)])
    yield stand_in
    sys.modules.pop("datasets", None)


def files(folder: Path) -> FilesSource:
    for name, count in (("a.txt", 3), ("b.jsonl", 4), ("c.csv", 2)):
        texts = [f"{name} tells story {number}." for number in range(count)]
        lines = {"a.txt": texts, "b.jsonl": [f'{{"text": "{text}"}}' for text in texts], "c.csv": ["text", *texts]}
        (folder / name).write_text("\n".join(lines[name]) + "\n")
    (folder / "d.txt").touch()
    return FilesSource(paths=(str(folder),), separator="lines")


def read(source: Leaf, order: Sequence[int] | type[range] = FORWARD, mark: str = "") -> list[tuple[str, list[str]]]:
    return [(part.cursor, list(part.texts)) for part in iter_chunks(source, DecodePolicy(), order, mark)]  # pyright: ignore


def flat(parts: list[tuple[str, list[str]]]) -> list[str]:
    return [text for _, texts in parts for text in texts]


def sources(folder: Path) -> dict[str, Leaf]:
    (folder / "texts").mkdir(exist_ok=True)
    return {
        "files": files(folder / "texts"),
        "storybook": StorybookSource(stories=2500, seed=3),
        "streamed": HubSource(name="tales"),
        "downloaded": HubSource(name="tales", streaming=False),
    }


KINDS = ("files", "storybook", "streamed", "downloaded")


@pytest.mark.parametrize("kind", KINDS)
def test_the_chunks_concatenated_are_the_source(kind: str, tmp_path: Path, hub: LocalHub) -> None:
    source = sources(tmp_path)[kind]
    assert flat(read(source)) == list(documents(source))


@pytest.mark.parametrize("kind", KINDS)
def test_another_order_gives_the_same_documents(kind: str, tmp_path: Path, hub: LocalHub) -> None:
    source = sources(tmp_path)[kind]
    backward = flat(read(source, BACKWARD))  # pyright: ignore
    assert sorted(backward) == sorted(documents(source))
    assert (backward == flat(read(source))) == (kind in {"streamed", "downloaded"})  # 900 rows: one portion


@pytest.mark.fault("B10", cases=4)
@pytest.mark.parametrize("kind", KINDS)
def test_reading_resumes_at_any_chunk(kind: str, tmp_path: Path, hub: LocalHub) -> None:
    source = sources(tmp_path)[kind]
    whole = read(source, BACKWARD)  # pyright: ignore
    for number, (mark, _) in enumerate(whole):
        resumed = read(source, BACKWARD, mark)  # pyright: ignore
        assert [texts for _, texts in resumed] == [texts for _, texts in whole[number:]]


def test_the_rows_of_a_hub_dataset_are_numbered_across_chunks(hub: LocalHub) -> None:
    hub.add("tales", [["One."] * 300, [*["Two."] * 9, "half \ud83e a fox"]])
    with pytest.raises(TextError, match="tales, row 310, in 'text': a lone surrogate"):
        read(HubSource(name="tales"))


@pytest.mark.fault("B8", cases=4)
@pytest.mark.parametrize("places", [[(0, 0)], [(0, 63)], [(1, 7)] * 3, [(0, 3), (2, 299)]], ids=str)
def test_a_broken_connection_is_retried_from_the_row_where_it_broke(
    places: list[tuple[int, int]], hub: LocalHub
) -> None:
    expected = flat(read(HubSource(name="tales")))
    hub.break_at(*places)
    assert flat(read(HubSource(name="tales"))) == expected


@pytest.mark.fault("B8", cases=2)
def test_a_connection_that_stays_broken_is_an_error(hub: LocalHub) -> None:
    hub.break_at(*[(1, 7)] * 4)
    with pytest.raises(TextError, match=r"Cannot reach the hub for tales: Server Disconnected\. Check network"):
        read(HubSource(name="tales"))
    with pytest.raises(TextError, match="Cannot reach the hub for nowhere: Couldn't reach"):
        read(HubSource(name="nowhere"))


def test_permanent_errors_are_not_retried(hub: LocalHub) -> None:
    with pytest.raises(TextError, match=r"tales has no column 'txt'\. Did you mean 'text'\?"):
        read(HubSource(name="tales", column="txt"))


def test_a_hub_dataset_without_rows_has_no_chunks(hub: LocalHub) -> None:
    (hub.folder / "void").mkdir()
    assert read(HubSource(name="void")) == []
    assert read(HubSource(name="void", streaming=False)) == []


def test_nested_mixtures_become_shares_of_their_sources() -> None:
    inner = MixtureSource(
        parts=(
            WeightedSource(weight=1.0, source=StorybookSource(seed=2)),
            WeightedSource(weight=3.0, source=StorybookSource(seed=3)),
        )
    )
    outer = MixtureSource(
        parts=(WeightedSource(weight=4.0, source=StorybookSource(seed=1)), WeightedSource(weight=4.0, source=inner))
    )
    assert flatten_mixture(outer) == [
        (0.5, StorybookSource(seed=1)),
        (0.125, StorybookSource(seed=2)),
        (0.375, StorybookSource(seed=3)),
    ]
    assert flatten_mixture(StorybookSource()) == [(1.0, StorybookSource())]
