"""Tests that many valid, invalid and abandoned requests leak no threads, files or memory."""

import gc
import resource
import threading
from pathlib import Path

import psutil
import pytest

from fabella.server.served_models import ServedModels
from tests.server.endpoints.test_completions import SchedulerProbe, read_all, request
from tests.server.stubs import TIMEOUT_SECONDS, connect, hashing, listening, served_models

VALID = {"prompt": "Once", "max_tokens": 6}
PAGE = resource.getpagesize()


def send_mixed_requests(port: int, models: ServedModels, rounds: int) -> int:
    """Send ``rounds`` rounds of seven requests. Return the number of requests."""
    bodies = (VALID, {**VALID, "stream": True}, {**VALID, "logprobs": 5, "n": 2}, {"prompt": "a" * 90_000}, {"n": -1})
    for _ in range(rounds):
        for body in bodies:
            with connect(port) as connection:
                connection.sendall(request(body).replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"))
                assert read_all(connection).startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
        with connect(port) as connection:
            connection.sendall(request({**VALID, "max_tokens": 10**5, "stream": True}))
            connection.recv(100)
        with connect(port) as connection:
            connection.sendall(request(VALID)[:40])
    SchedulerProbe(models).wait_for_jobs(0)
    return 7 * rounds


def resources() -> dict[str, int]:
    """Return the number of threads and of open files."""
    gc.collect()
    return {"threads": threading.active_count(), "files": sum(1 for _ in Path("/proc/self/fd").iterdir())}


def check_growth(rounds: int, *, bytes_a_request: int) -> None:
    """Check the growth of threads, files and memory over ``rounds`` rounds, after a warm-up."""
    models = served_models(hashing())
    with listening(models) as port:
        send_mixed_requests(port, models, 15)
        before, memory = resources(), psutil.Process().memory_info().rss
        requests = send_mixed_requests(port, models, rounds)
        memory_growth = psutil.Process().memory_info().rss - memory
        never_set = threading.Event()
        for _ in range(int(TIMEOUT_SECONDS / 0.01)):
            if all(value <= before[name] + 2 for name, value in resources().items()):
                break
            never_set.wait(0.01)
        after = resources()
    assert all(value <= before[name] + 2 for name, value in after.items()), (before, after)
    assert memory_growth <= 64 * PAGE + requests * bytes_a_request, f"{memory_growth / requests:.0f} bytes a request"


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")


@needs_proc
@pytest.mark.fault("F25", cases=7 * 40)
def test_hundreds_of_requests_leak_nothing() -> None:
    check_growth(40, bytes_a_request=4096)  # memory grows by whole arenas at first


@needs_proc
@pytest.mark.faults
@pytest.mark.fault("F25", cases=7 * 3000)
def test_thousands_of_requests_leak_nothing() -> None:
    check_growth(3000, bytes_a_request=100)
