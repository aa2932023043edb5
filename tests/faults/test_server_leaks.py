"""Good, bad and abandoned requests, for long: nothing piles up."""

import gc
import resource
import threading
from pathlib import Path

import psutil
import pytest

from fabella.server.served_models import ServedModels
from tests.server.stubs import TIMEOUT_SECONDS, connect, hashing, listening, served_models
from tests.server.test_completions import SchedulerProbe, read_all, request

GOOD = {"prompt": "Once", "max_tokens": 6}
PAGE = resource.getpagesize()


def mixed(port: int, models: ServedModels, rounds: int) -> int:
    """So many rounds of seven requests; how many requests."""
    bodies = (GOOD, {**GOOD, "stream": True}, {**GOOD, "logprobs": 5, "n": 2}, {"prompt": "a" * 90_000}, {"n": -1})
    for _ in range(rounds):
        for body in bodies:
            with connect(port) as connection:
                connection.sendall(request(body).replace(b"\r\nHost", b"\r\nConnection: close\r\nHost"))
                assert read_all(connection).startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
        with connect(port) as connection:
            connection.sendall(request({**GOOD, "max_tokens": 10**5, "stream": True}))
            connection.recv(100)
        with connect(port) as connection:
            connection.sendall(request(GOOD)[:40])
    SchedulerProbe(models).wait_for_jobs(0)
    return 7 * rounds


def resources() -> dict[str, int]:
    """What a process may pile up."""
    gc.collect()
    return {"threads": threading.active_count(), "files": sum(1 for _ in Path("/proc/self/fd").iterdir())}


def growth(rounds: int, *, bytes_a_request: int) -> None:
    """Warm up, then look before and after."""
    models = served_models(hashing())
    with listening(models) as port:
        mixed(port, models, 15)
        before, memory = resources(), psutil.Process().memory_info().rss
        asked = mixed(port, models, rounds)
        grown = psutil.Process().memory_info().rss - memory
        look = threading.Event()
        for _ in range(int(TIMEOUT_SECONDS / 0.01)):
            if all(value <= before[name] + 2 for name, value in resources().items()):
                break
            look.wait(0.01)
        after = resources()
    assert all(value <= before[name] + 2 for name, value in after.items()), (before, after)
    assert grown <= 64 * PAGE + asked * bytes_a_request, f"{grown / asked:.0f} bytes a request"


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")


@needs_proc
@pytest.mark.fault("F25", cases=7 * 40)
def test_hundreds_of_requests_leak_nothing() -> None:
    growth(40, bytes_a_request=4096)  # memory grows by whole arenas at first


@needs_proc
@pytest.mark.faults
@pytest.mark.fault("F25", cases=7 * 3000)
def test_thousands_of_requests_leak_nothing() -> None:
    growth(3000, bytes_a_request=100)
