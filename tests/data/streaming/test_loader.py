"""Tests that a reader process prefetches the batches of the dataset, or raises an error with its cause."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from fabella.config.data import DataConfig, HubSource, Source, StorybookSource, Streaming
from fabella.data.child_process import PARENT_SIGNALS
from fabella.data.streaming.dataset import StreamingDataset
from fabella.data.streaming.loader import ReaderEndedError, StreamingLoader, streaming_loader
from fabella.errors import TextError
from fabella.tokenizers.bytes import ByteTokenizer
from tests.data.samples import FIFTH, SEQUENCES, lines, words
from tests.data.timeouts import has_ended
from tests.text.local_hub import installed

STORIES = StorybookSource(stories=40)


def streamed(source: Source = STORIES, **settings: float) -> DataConfig:
    mode = Streaming(document_shuffle_buffer=10, sequence_shuffle_buffer=7, **settings)  # pyright: ignore[reportArgumentType]
    return DataConfig(source=source, validation=FIFTH, sequences=SEQUENCES, mode=mode)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    ByteTokenizer().save(folder)
    return folder


def open_loader(
    data: DataConfig, tokenizer: Path, start: str = "", sizes: Iterator[int] | None = None
) -> StreamingLoader:
    return streaming_loader(data, tokenizer, 1, start, sizes or itertools.repeat(4))


def take(batches: StreamingLoader, count: int) -> None:
    for _ in range(count):
        next(batches)


def everything_has_ended(pid: int) -> bool:
    running = [thread.name for thread in threading.enumerate() if thread.name.startswith("fabella-stream")]
    return has_ended(pid) and not running


@pytest.mark.parametrize("masked", [False, True])
def test_batches_equal_the_dataset_from_any_batch_on(tokenizer: Path, masked: bool) -> None:
    data, sizes = streamed(), [3, 1, 7, 40, 2]
    sequences = SEQUENCES.model_copy(update={"mask_documents": masked})
    data = data.model_copy(update={"sequences": sequences})
    stream = StreamingDataset(data, ByteTokenizer(), 1)
    expected = [stream.batch(size) for size in sizes]
    for start_number in (0, 3):
        start = expected[start_number - 1].stream if start_number else ""
        with open_loader(data, tokenizer, start, iter(sizes[start_number:])) as batches:
            pid, actual = batches.pid, list(batches)
        assert len(actual) == len(sizes) - start_number
        for batch, other in zip(actual, expected[start_number:], strict=True):
            np.testing.assert_array_equal(batch.tokens, other.tokens)
            np.testing.assert_array_equal(batch.targets, other.targets)
            assert (batch.document_starts is not None) == masked
            np.testing.assert_array_equal(batch.arrays().get("document_starts"), other.arrays().get("document_starts"))
            assert batch.stream == other.stream
        assert everything_has_ended(pid)


def test_batches_are_writable(tokenizer: Path) -> None:
    with open_loader(streamed(), tokenizer) as batches:
        assert next(batches).tokens.flags.writeable


def test_the_number_of_prefetched_batches_is_bounded(tokenizer: Path) -> None:
    requested: list[int] = []
    sizes = (requested.append(1) or 1 for _ in itertools.count())
    with open_loader(streamed(prefetch_batches=3), tokenizer, "", sizes) as batches:
        for _ in range(5):
            next(batches)
        assert len(requested) == 8


@pytest.mark.fault("B9", cases=3)
@pytest.mark.parametrize("after", [0, 1, 20])
def test_a_reader_that_is_killed_is_named(after: int, tokenizer: Path) -> None:
    batches = open_loader(streamed(prefetch_batches=2), tokenizer)
    for _ in range(after):
        next(batches)
    pid = batches.pid
    os.kill(pid, signal.SIGKILL)
    message = (
        rf"The reader of storybook .* \(pid {pid}\) exited \(killed by SIGKILL\) "
        rf"while reading sequences \d+ to \d+ since its start\. .*fabella resume RUN"
    )
    with pytest.raises(ReaderEndedError, match=message):
        take(batches, 3)
    assert everything_has_ended(pid)
    assert list(batches) == []


@pytest.mark.fault("B9", cases=2)
@pytest.mark.parametrize("after", [0, 5])
def test_a_reader_that_hangs_is_killed(after: int, tokenizer: Path) -> None:
    batches = open_loader(streamed(prefetch_batches=1), tokenizer)
    for _ in range(after):
        next(batches)
    batches._timeout = 0.2  # not earlier: starting a process may take longer than this timeout
    pid = batches.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(
        ReaderEndedError, match=rf"The reader of .* \(pid {pid}\) has not responded for 0.2 s while reading sequences"
    ):
        take(batches, 3)
    assert everything_has_ended(pid)


@pytest.mark.fault("B9", cases=1)
def test_an_error_of_the_reader_is_raised_in_its_place(tmp_path: Path, tokenizer: Path) -> None:
    path = tmp_path / "tales.jsonl"
    source = lines(path, [f'{{"text": "Tale {number}. {words(number, 20)}"}}' for number in range(60)] + ["broken"])
    batches = open_loader(streamed(source, tokenizer_sample_bytes=2000), tokenizer)
    pid = batches.pid
    with pytest.raises(TextError, match=r"tales\.jsonl, line 61: it is not JSON .*--max-bad-lines"):
        take(batches, 100)
    assert everything_has_ended(pid)


@pytest.mark.fault("B9", cases=1)
def test_an_unreachable_hub_is_reported(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, monkeypatch)
    with (
        open_loader(streamed(HubSource(name="nowhere")), tokenizer) as batches,
        pytest.raises(TextError, match="Cannot reach the hub for nowhere"),
    ):
        next(batches)


@pytest.mark.fault("B9", cases=1)
def test_a_crash_of_the_reader_is_reported(tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets.py").write_text("raise SystemError('a library that is broken')")
    monkeypatch.syspath_prepend(tmp_path)
    with (
        open_loader(streamed(HubSource(name="tales")), tokenizer) as batches,
        pytest.raises(ReaderEndedError, match=r"of hub dataset tales, split train \(pid \d+\) exited \(exit code 1\)"),
    ):
        next(batches)


@pytest.mark.fault("C2", cases=10)
def test_signals_for_the_job_are_ignored_by_the_reader(tokenizer: Path) -> None:
    with open_loader(streamed(prefetch_batches=1), tokenizer) as batches:
        for _ in range(2):  # while it starts, and while it reads
            for number in PARENT_SIGNALS:
                os.kill(batches.pid, number)
            take(batches, 5)


ORPHANED = """
import itertools, os, signal, sys
from pathlib import Path
from fabella.config.data import DataConfig
from fabella.data.streaming.loader import streaming_loader
batches = streaming_loader(DataConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), 1, "", itertools.repeat(4))
next(batches)
print(batches.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault("B9", cases=1)
def test_a_reader_does_not_outlive_a_killed_training(tokenizer: Path) -> None:
    command = [sys.executable, "-c", ORPHANED, streamed().model_dump_json(), str(tokenizer)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert has_ended(int(process.stdout))


@pytest.mark.fault("B12", cases=10)
def test_starting_and_closing_leaves_nothing_open(tokenizer: Path) -> None:
    data = streamed(prefetch_batches=2)
    with open_loader(data, tokenizer) as batches:
        next(batches)
    this = psutil.Process()
    before = (this.num_fds(), len(this.children()), threading.active_count())
    for number in range(10):
        batches = open_loader(data, tokenizer)
        if number % 2:
            next(batches)
        batches.close()
        batches.close()
    assert (this.num_fds(), len(this.children()), threading.active_count()) == before


CYCLES_AT_NIGHT, BATCHES_AT_NIGHT = 50, 20_000


@pytest.mark.faults
@pytest.mark.fault("B12", cases=CYCLES_AT_NIGHT)
def test_fifty_starts_with_few_files_to_open(tokenizer: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (psutil.Process().num_fds() + 40, limits[1]))
    try:
        for _ in range(CYCLES_AT_NIGHT):
            with open_loader(streamed(), tokenizer) as batches:
                next(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.faults
@pytest.mark.fault("B11", cases=1)
def test_the_memory_of_the_reader_does_not_grow(tokenizer: Path) -> None:
    with open_loader(streamed(StorybookSource(stories=5000)), tokenizer) as batches:
        reader = psutil.Process(batches.pid)
        take(batches, BATCHES_AT_NIGHT // 4)
        before = reader.memory_info().rss
        take(batches, BATCHES_AT_NIGHT)
        assert reader.memory_info().rss - before <= BATCHES_AT_NIGHT / 1000 * 2**20


@pytest.mark.fault("B13", cases=1)
def test_no_shared_memory_is_used(tokenizer: Path) -> None:
    with open_loader(streamed(), tokenizer) as batches:
        next(batches)
        mapped = [region.path for region in psutil.Process(batches.pid).memory_maps()]
    assert [path for path in mapped if path.startswith("/dev/shm")] == []


def test_an_error_of_the_sizes_is_not_lost(tokenizer: Path) -> None:
    def sizes() -> Iterator[int]:
        yield from (1, 1)
        raise ValueError("no schedule")

    with pytest.raises(ValueError, match="no schedule"):
        open_loader(streamed(), tokenizer, "", sizes())
