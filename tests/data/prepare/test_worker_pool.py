"""Tests that a worker pool gives the result of one process, names failures, and leaves no worker running."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fabella.data import child_process
from fabella.data.child_process import ChildProcess, Frame
from fabella.data.prepare.tokenize import encode
from fabella.data.prepare.worker_pool import WorkerEndedError, WorkerPool
from fabella.errors import TokenizerError
from fabella.text.chat.template import Message, marked_writer
from fabella.tokenizers.chat.encode import DocumentEncoder
from tests.data.prepare.test_tokenize import failing_tokenizer
from tests.data.timeouts import has_ended
from tests.tokenizers.samples import AWKWARD, KINDS, corpus, trained

U2 = np.dtype("<u2")
KILLED, RAISED, HUNG = 7, 7, 6
HUNG_SECONDS = 60.0
"""Seconds after which a waiting thread counts as hung."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of tokenizers by kind."""
    base = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        trained(kind).save(base / kind)
    failing_tokenizer().save(base / "evil")
    return base


def chunks(count: int) -> Iterator[list[str]]:
    return (list(corpus()[number % 100 : number % 100 + 5]) for number in range(count))


@pytest.mark.parametrize("kind", KINDS)
def test_workers_encode_as_one_process_does(kind: str, folder: Path) -> None:
    several = [[*AWKWARD, ""], *chunks(12), ["x" * 300_000]]
    with WorkerPool(folder / kind, U2, 2) as pool:
        for texts, encoded in zip(several, pool.encode(several), strict=True):
            expected = encode(DocumentEncoder(trained(kind)), texts, U2)
            np.testing.assert_array_equal(encoded.ids, expected.ids)
            np.testing.assert_array_equal(encoded.lengths, expected.lengths)
            np.testing.assert_array_equal(encoded.sizes, expected.sizes)
        pids = pool.pids
    assert all(has_ended(pid) for pid in pids)


def test_at_most_two_chunks_per_worker_are_read_ahead(folder: Path) -> None:
    read = 0

    def counted() -> Iterator[list[str]]:
        nonlocal read
        for texts in chunks(50):
            read += 1
            yield texts

    with WorkerPool(folder / "bytes", U2, 2) as pool:
        encoded = pool.encode(counted())
        for done in range(1, 20):
            next(encoded)
            assert read <= done + 4


@pytest.mark.fault("B9", cases=KILLED)
@pytest.mark.parametrize("number", range(KILLED))
def test_a_killed_worker_is_named_with_its_documents(number: int, folder: Path) -> None:
    with WorkerPool(folder / "bpe", U2, 2) as pool:
        encoded = pool.encode(chunks(1000), first=100)
        for _ in range(number):
            next(encoded)
        victim = number % 2
        os.kill(pool.pids[victim], signal.SIGKILL)
        expected_message = (
            rf"Worker {victim + 1} \(pid {pool.pids[victim]}\) exited \(killed by SIGKILL\) while .* documents \d+"
        )
        with pytest.raises(WorkerEndedError, match=expected_message):
            list(encoded)
        pids = pool.pids
    assert all(has_ended(pid) for pid in pids)


@pytest.mark.fault("B9", cases=RAISED)
def test_a_text_that_cannot_be_encoded_is_named_and_the_worker_stays_usable(folder: Path) -> None:
    with WorkerPool(folder / "evil", U2, 1) as pool:
        for number in range(RAISED):
            texts = ["good"] * number + ["a" * 60 + "!"]
            expected_message = rf"Worker 1 .*, documents 30 to {30 + number}, .*: Document {number} \('aaa.*retry-limit"
            with pytest.raises(TokenizerError, match=expected_message):
                list(pool.encode([texts], first=30))
            assert len(list(pool.encode([["good"]]))) == 1
        pids = pool.pids
    assert all(has_ended(pid) for pid in pids)


@pytest.mark.fault("B9", cases=HUNG)
def test_a_hanging_worker_times_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_request, request = threading.Event(), ChildProcess.request

    def signaled_request(process: ChildProcess, *parts: bytes | memoryview) -> Frame:
        has_request.set()
        return request(process, *parts)

    def chunks_after_request() -> Iterator[list[str]]:
        for number, texts in enumerate(chunks(3)):
            assert number == 0 or has_request.wait(HUNG_SECONDS)
            yield texts

    monkeypatch.setattr(ChildProcess, "request", signaled_request)
    for _ in range(HUNG):
        with WorkerPool(folder / "bytes", U2, 1) as pool:
            assert len(list(pool.encode(chunks(1)))) == 1
            # Starting a process may take longer than a test wants to wait for a silent one.
            pool._timeout = 0.05  # pyright: ignore[reportPrivateUsage]
            has_request.clear()
            os.kill(pool.pids[0], signal.SIGSTOP)
            expected_message = (
                r"Worker 1 \(pid \d+\) has not responded for 0 s while encoding documents 0 to 4\. .*--workers 1"
            )
            with pytest.raises(WorkerEndedError, match=expected_message):
                list(pool.encode(chunks_after_request()))
            pids = pool.pids
        assert all(has_ended(pid) for pid in pids)


def test_a_tokenizer_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with (
        WorkerPool(tmp_path / "nothing", U2, 1) as pool,
        pytest.raises(TokenizerError, match=r"Worker 1 .*, documents 0 to 4, .* is not a tokenizer"),
    ):
        list(pool.encode(chunks(2)))


def test_no_worker_is_left_if_one_cannot_be_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def second_fails(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(popen(*arguments, **options))  # pyright: ignore[reportCallIssue, reportArgumentType]
        return started[0]

    monkeypatch.setattr(child_process.subprocess, "Popen", second_fails)
    expected_message = r"Cannot start worker 2: Resource temporarily unavailable\. Use fewer: --workers 1"
    with pytest.raises(WorkerEndedError, match=expected_message):
        WorkerPool(folder / "bytes", U2, 2)
    assert has_ended(started[0].pid)


ABANDONED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from fabella.data.prepare.worker_pool import WorkerPool
pool = WorkerPool(Path(sys.argv[1]), np.dtype("<u2"), 2)
for done in pool.encode([["once"], ["upon"], ["a"], ["time"]]):
    pass
print(*pool.pids, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.fault("B9", cases=1)
def test_workers_exit_when_their_parent_is_killed(folder: Path) -> None:
    command = [sys.executable, "-c", ABANDONED, str(folder / "bytes")]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    pids = [int(word) for word in process.stdout.split()]
    assert len(pids) == 2
    assert all(has_ended(pid) for pid in pids)


def test_a_file_in_the_current_directory_does_not_replace_a_module(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizers.py").write_text("raise SystemExit('a file of the user was run')")
    monkeypatch.chdir(tmp_path)
    with WorkerPool(folder / "bpe", U2, 1) as pool:
        assert len(list(pool.encode(chunks(2)))) == 2


def test_workers_return_the_loss_mask(folder: Path) -> None:
    writer = marked_writer(mark_answer=True)
    texts = [writer.write([Message("user", text), Message("assistant", text)]) for text in corpus()[:5]]
    with WorkerPool(folder / "bpe", U2, 1, loss_on="answers") as pool:
        (encoded,) = pool.encode([texts])
    expected = encode(DocumentEncoder(trained("bpe")), texts, U2, loss_on="answers")
    assert expected.loss_mask is not None
    assert encoded.loss_mask is not None
    np.testing.assert_array_equal(encoded.loss_mask, expected.loss_mask)
    np.testing.assert_array_equal(encoded.learned_bytes, expected.learned_bytes)
    assert expected.loss_mask.any()
