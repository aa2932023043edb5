"""Tests that a streaming dataset returns every document once per epoch, and the same bits when resumed anywhere."""

import itertools
import json
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fabella.config.data import (
    DataConfig,
    FilesSource,
    Holdout,
    HubSource,
    MixtureSource,
    Packed,
    Padded,
    Source,
    StorybookSource,
    Streaming,
    ValidationSource,
    WeightedSource,
)
from fabella.data.batches import Batch
from fabella.data.streaming.dataset import StreamingDataset
from fabella.errors import TextError
from fabella.text.source import documents
from fabella.tokenizers.bytes import ByteTokenizer
from tests.data.samples import lines, words
from tests.text.local_hub import LocalHub, installed

BYTES = ByteTokenizer()
WHOLE_DOCUMENTS = Padded(length=1000)
CHAINED = Packed(length=16, stride=16)
HALF = Holdout(fraction=0.5)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    fake = installed(tmp_path, monkeypatch)
    fake.add("tales", [[f"Hub tale {shard}.{row}. {words(row, 9)}" for row in range(90)] for shard in range(3)])
    return fake


def text(folder: Path, name: str, count: int) -> FilesSource:
    return lines(folder / name, [f"{name} {number}. {words(number, 12)}" for number in range(count)])


def streamed(
    source: Source,
    sequences_config: Packed | Padded = CHAINED,
    validation: Holdout | ValidationSource = HALF,
    *,
    rows: int = 10,
    sequences: int = 7,
) -> DataConfig:
    mode = Streaming(document_shuffle_buffer=rows, sequence_shuffle_buffer=sequences, tokenizer_sample_bytes=30_000)
    return DataConfig(source=source, validation=validation, sequences=sequences_config, mode=mode)


def mixed(folder: Path) -> MixtureSource:
    parts = (
        WeightedSource(weight=3.0, source=text(folder, "large.txt", 70)),
        WeightedSource(weight=1.0, source=text(folder, "small.txt", 25)),
        WeightedSource(weight=2.0, source=StorybookSource(stories=30)),
    )
    return MixtureSource(parts=parts)


def texts_of(stream: StreamingDataset, count: int) -> list[str]:
    """Return the texts of sequences of one document each."""
    batch = stream.batch(count)
    return [BYTES.decode([id_ for id_ in row.tolist() if id_ not in (-100, BYTES.eos_id)]) for row in batch.targets]


def test_each_epoch_returns_every_training_document_once(tmp_path: Path) -> None:
    source = text(tmp_path, "mine.txt", 200)
    other = lines(tmp_path / "validation.txt", list(documents(source))[::5])
    data = streamed(source, WHOLE_DOCUMENTS, ValidationSource(source=other), sequences=1)
    stream = StreamingDataset(data, BYTES, 1)
    validation_documents, everything = set(documents(other)), set(documents(source))
    epochs = [texts_of(stream, 160) for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(everything - validation_documents)] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_the_seed_only(tmp_path: Path) -> None:
    data = streamed(mixed(tmp_path))
    first, same, other = (StreamingDataset(data, BYTES, seed).batch(200).tokens for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_batch_sizes_do_not_change_the_order_of_sequences(tmp_path: Path) -> None:
    data = streamed(mixed(tmp_path))
    one_batch = StreamingDataset(data, BYTES, 1).batch(300).tokens
    stream = StreamingDataset(data, BYTES, 1)
    parts = [stream.batch(size).tokens for size in (1, 99, 50, 3, 147)]
    np.testing.assert_array_equal(np.concatenate(parts), one_batch)


def test_documents_are_mixed_by_weight_whatever_the_lengths_of_the_sources(tmp_path: Path) -> None:
    by_documents = mixed(tmp_path).model_copy(update={"by": "documents"})
    stream = StreamingDataset(streamed(by_documents, WHOLE_DOCUMENTS), BYTES, 1)
    names = [text.split(" ")[0] for text in texts_of(stream, 3000)]
    counts = Counter(names)
    assert abs(counts["large.txt"] - 1500) < 150
    assert abs(counts["small.txt"] - 500) < 120


@pytest.mark.parametrize(
    "sequences_config", [Packed(length=256, stride=200), WHOLE_DOCUMENTS], ids=["packed", "padded"]
)
@pytest.mark.fault("B10", cases=240)
def test_resuming_after_every_batch_of_several_epochs_changes_nothing(
    sequences_config: Packed | Padded, tmp_path: Path, hub: LocalHub
) -> None:
    source = MixtureSource(
        parts=(
            WeightedSource(weight=2.0, source=text(tmp_path, "mine.txt", 40)),
            WeightedSource(weight=1.0, source=HubSource(name="tales", column="text")),
            WeightedSource(weight=1.0, source=HubSource(name="tales", streaming=False)),
            WeightedSource(weight=1.0, source=StorybookSource(stories=12)),
        )
    )
    data = streamed(source, sequences_config, Holdout(fraction=0.2))
    stream = StreamingDataset(data, BYTES, 3)
    sizes = list(itertools.islice(itertools.cycle((3, 5, 1)), 120))
    uninterrupted = [stream.batch(size) for size in sizes]
    assert uninterrupted[-1].stream.count('"epoch":0') < 4, "a source has reached its second epoch"
    for number, batch in enumerate(uninterrupted[:-3]):
        resumed = StreamingDataset(data, BYTES, 3, batch.stream)
        for size, expected in zip(sizes[number + 1 : number + 4], uninterrupted[number + 1 : number + 4], strict=True):
            actual = resumed.batch(size)
            assert actual.tokens.tobytes() == expected.tokens.tobytes()
            assert actual.targets.tobytes() == expected.targets.tobytes()


@pytest.mark.fault("B10", cases=60)
def test_resuming_after_every_batch_changes_nothing(tmp_path: Path) -> None:
    data = streamed(mixed(tmp_path))
    stream, state = StreamingDataset(data, BYTES, 1), ""
    for _ in range(60):
        expected = stream.batch(4)
        actual = StreamingDataset(data, BYTES, 1, state).batch(4)
        assert actual.tokens.tobytes() == expected.tokens.tobytes()
        assert actual.stream == expected.stream
        state = actual.stream


@pytest.mark.fault("B14", cases=2)
def test_text_changed_during_training_is_an_error(tmp_path: Path) -> None:
    source = text(tmp_path, "mine.txt", 200)
    data = streamed(source, rows=50)
    stream, state = StreamingDataset(data, BYTES, 1), ""
    for _ in range(40):
        state = stream.batch(4).stream
    path = Path(source.paths[0])
    path.write_text(path.read_text().replace("mine.txt 3.", "mine.txt x."))
    with pytest.raises(TextError, match="The text has changed since this run read it"):
        StreamingDataset(data, BYTES, 1, state)
    path.write_text("")
    with pytest.raises(TextError, match="There is no text in"):
        StreamingDataset(data, BYTES, 1, state)


def test_the_state_is_small_whatever_the_buffers_contain(tmp_path: Path) -> None:
    large = StreamingDataset(streamed(mixed(tmp_path), rows=5000, sequences=5000), BYTES, 1)
    assert max(len(large.batch(50).stream) for _ in range(100)) < 2000


def peak_after(batches: int, data: DataConfig) -> int:
    stream = StreamingDataset(data, BYTES, 1)
    for _ in range(50):
        stream.batch(8)
    tracemalloc.start()
    try:
        for _ in range(batches):
            stream.batch(8)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.fault("B11", cases=1)
def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    data = streamed(StorybookSource(stories=100_000), Padded(length=256), rows=100, sequences=50)
    peak_after(100, data)  # allocates what is loaded once
    assert peak_after(600, data) < 1.5 * peak_after(100, data)


CHECKED_ONLY = {"learned", "bad_lines"}
"""Parts that affect errors but not batches; tests/data/streaming/test_sources.py tests them."""


def parts_of(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all values of a state that differ from the beginning of a stream."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in parts_of(inner, (*path, key))]
    if isinstance(value, list):
        return [found for key, inner in enumerate(value) for found in parts_of(inner, (*path, key))]
    return [path] if value and path[-1] not in CHECKED_ONLY else []


def without(state: str, path: tuple[str | int, ...]) -> str:
    values = inner = json.loads(state)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = "" if isinstance(inner[path[-1]], str) else 0
    return json.dumps(values)


def continues_with(expected: list[Batch], data: DataConfig, state: str) -> bool:
    try:
        stream = StreamingDataset(data, BYTES, 1, state)
        return all(stream.batch(4).tokens.tobytes() == batch.tokens.tobytes() for batch in expected)
    except TextError:
        return False


@pytest.mark.fault("A12", cases=30)
def test_a_missing_part_of_the_state_changes_the_result(tmp_path: Path) -> None:
    parts = (
        WeightedSource(weight=1.0, source=text(tmp_path, "mine.txt", 90)),
        WeightedSource(weight=1.0, source=text(tmp_path, "yours.txt", 120)),
    )
    data = streamed(MixtureSource(parts=parts), Packed(length=64, stride=50), rows=20)
    stream = StreamingDataset(data, BYTES, 1)
    batches = [stream.batch(4) for _ in range(200)]
    state = batches[99].stream
    assert continues_with(batches[100:], data, state)
    paths = parts_of(json.loads(state))
    assert len(paths) >= 30
    assert [path for path in paths if continues_with(batches[100:], data, without(state, path))] == []
