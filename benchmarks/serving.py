"""A crowd before `fabella serve`: streaming clients in a process of their own, on loopback, for minutes.

First one client alone, then the crowd; beside it, /healthz is asked five times a second, the server's memory is
looked at once a second, and prompts that are dear to tokenize come in. At last a hundred clients leave in the middle of
a stream, and the time until their place is free is taken.

    python benchmarks/serving.py runs/quickstart
    python benchmarks/serving.py runs/quickstart --clients 64 --seconds 120 --threads 1
"""

import argparse
import asyncio
import datetime
import json
import os
import platform
import socket
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results" / "serving.json"
TOKENS = 200
"""Of each text, unless it ends before"""
PATIENCE = 60.0
"""Seconds after which a client calls the server hung"""
STALL = 2.0
WARM_UP = 0.25
"""Of the time, before memory is looked at"""
LEAVERS = 100
DEAR = ["a" * 100_000, " " * 100_000, "字" * 60_000, "👩‍👩‍👧‍👦" * 8_000]


@dataclass
class Heard:
    """What the clients heard."""

    tokens: int = 0
    texts: int = 0
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Seconds from a request to its first text"""
    gaps: list[float] = field(default_factory=list)
    """Seconds from a text to the next"""
    health: list[float] = field(default_factory=list)
    refused: int = 0
    """Dear prompts that were refused for their length, as they should be"""


def request(path: str, body: dict[str, Any] | None = None) -> bytes:
    """One request of HTTP/1.1, after which the connection is closed."""
    sent = json.dumps(body).encode() if body is not None else b""
    head = f"{'POST' if body is not None else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n" if body is not None else ""
    return (head + kind + "\r\n").encode() + sent


async def ask(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """Status and body of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(path, body))
        async with asyncio.timeout(PATIENCE):
            whole = await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    head, _, found = whole.partition(b"\r\n\r\n")
    return int(head.split()[1]), found


def streaming(seed: int, tokens: int = TOKENS) -> bytes:
    """A request for a story."""
    asked = {"prompt": "Once upon a time", "max_tokens": tokens, "seed": seed, "temperature": 0.8, "stream": True}
    return request("/v1/completions", asked | {"stream_options": {"include_usage": True}})


async def story(port: int, seed: int, heard: Heard) -> None:
    """Hear one story to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(streaming(seed))
        last, began = 0.0, time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            while line := await reader.readline():
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                now, event = time.perf_counter(), json.loads(line[len(b"data: ") :])
                (heard.gaps if last else heard.first).append(now - (last or began))
                last = now
                if "usage" in event:
                    heard.tokens += event["usage"]["completion_tokens"]
                    heard.texts += 1
                    return
        heard.errors.append("a stream broke off")
    except (OSError, TimeoutError, ValueError, KeyError) as error:
        heard.errors.append(f"{type(error).__name__}: {error}")
    finally:
        writer.close()


async def tell_again(port: int, number: int, until: float, heard: Heard) -> None:
    """One client, which asks again as soon as it was answered."""
    turn = 0
    while time.perf_counter() < until:
        await story(port, 1_000_000 * number + turn, heard)
        turn += 1


def ask_health(port: int, seconds: float) -> list[tuple[int, float]]:
    """Whether the server lives, and how fast it says so, five times a second. In a process of its own: a client that
    hears many texts is late itself."""
    found: list[tuple[int, float]] = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
            connection.sendall(request("/healthz"))
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        found.append((int(answer.split()[1]), time.perf_counter() - began))
        time.sleep(0.2)
    return found


async def ask_dear(port: int, until: float, heard: Heard) -> None:
    """Prompts that take long to tokenize: one to be cut, one to be refused for its length."""
    turn = 0
    while time.perf_counter() < until:
        kept = -1 if turn % 2 else 0
        body = {"prompt": DEAR[turn // 2 % len(DEAR)], "max_tokens": 1, "truncate_prompt_tokens": kept}
        status, _ = await ask(port, "/v1/completions", body)
        heard.refused += status == 400
        if status not in ((200,) if kept else (200, 400)):
            heard.errors.append(f"a dear prompt was answered {status}")
        turn += 1
        await asyncio.sleep(1)


async def look(server: psutil.Process, until: float) -> list[tuple[float, int]]:
    """When, and how many bytes the server held then."""
    found: list[tuple[float, int]] = []
    while time.perf_counter() < until:
        found.append((time.perf_counter(), server.memory_info().rss))
        await asyncio.sleep(1)
    return found


async def crowd(port: int, clients: int, seconds: float, server: psutil.Process) -> tuple[Heard, dict[str, Any]]:
    """What so many clients heard, and the server's memory meanwhile."""
    heard, loop = Heard(), asyncio.get_running_loop()
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        await loop.run_in_executor(beside, ask_health, port, 0.0)  # it takes a while to start
        began = time.perf_counter()
        until = began + seconds
        health, memory, *_ = await asyncio.gather(
            loop.run_in_executor(beside, ask_health, port, seconds),
            look(server, until),
            *([ask_dear(port, until, heard)] if clients > 1 else []),
            *(tell_again(port, number, until, heard) for number in range(clients)),
        )
    took = time.perf_counter() - began
    heard.health = [one for _, one in health]
    heard.errors += [f"/healthz answered {status}" for status, _ in health if status != 200]
    warm = memory[int(WARM_UP * len(memory)) :]
    times, sizes = np.array([at for at, _ in warm]), np.array([size for _, size in warm], dtype=float)
    slope = float(np.polyfit(times - times[0], sizes, 1)[0]) if len(warm) > 2 else float("nan")
    return heard, {
        "seconds": took,
        "memory": {
            "first_bytes": memory[0][1],
            "warm_bytes": warm[0][1],
            "last_bytes": memory[-1][1],
            "most_bytes": max(size for _, size in memory),
            "bytes_per_minute": slope * 60,
        },
    }


async def leave(port: int, times: int) -> list[float]:
    """Seconds until the place of a client that left in the middle was free, each time."""
    found: list[float] = []
    for number in range(times):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(streaming(number, 2048))
        while not (await reader.readline()).startswith(b"data: "):
            pass
        writer.close()
        began = time.perf_counter()
        async with asyncio.timeout(PATIENCE):
            while await running(port):
                await asyncio.sleep(0.002)
        found.append(time.perf_counter() - began)
    return found


async def running(port: int) -> int:
    """Texts that the server is telling."""
    _, body = await ask(port, "/metrics")
    gauges = ("fabella_num_requests_running{", "fabella_num_requests_waiting{")
    lines = [line for line in body.decode().splitlines() if line.startswith(gauges)]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def spread(values: list[float]) -> dict[str, float]:
    """Seconds: the middle, 99 of 100, the longest."""
    return {"median": median(values), "p99": float(np.quantile(values, 0.99)), "most": max(values)}


def facts(heard: Heard, about: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a crowd."""
    return about | {
        "tokens_per_second": heard.tokens / about["seconds"],
        "texts": heard.texts,
        "errors": heard.errors,
        "first_text_seconds": spread(heard.first),
        "gap_seconds": spread(heard.gaps),
        "stalls": sum(gap > STALL for gap in (*heard.gaps, *heard.first)),
        "health_seconds": spread(heard.health),
        "dear_prompts_refused": heard.refused,
    }


async def measure(port: int, server: psutil.Process, clients: int, seconds: float) -> dict[str, Any]:
    """Everything, in the order of the docstring above."""
    _, body = await ask(port, "/v1/models")
    await crowd(port, 1, 2.0, server)  # what is done once is done now
    alone, about_alone = await crowd(port, 1, max(5.0, seconds / 8), server)
    print(f"alone: {alone.tokens / about_alone['seconds']:.0f} tokens/s", file=sys.stderr)
    many, about_many = await crowd(port, clients, seconds, server)
    left = await leave(port, LEAVERS)
    found = {"model": json.loads(body)["data"][0], "alone": facts(alone, about_alone), "crowd": facts(many, about_many)}
    found["crowd"]["by_alone"] = found["crowd"]["tokens_per_second"] / found["alone"]["tokens_per_second"]
    within = sum(one <= 1 for one in left)
    found["leavers"] = {"times": len(left), "within_a_second": within, "median": median(left), "most": max(left)}
    return found


def main() -> None:
    """Start a server, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=1, help="of the server's products")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    words = ["-m", "fabella", "serve", given.run, "--port", "0", "--max-batch-size", str(given.clients), "--max-queue-size", "16"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    with subprocess.Popen([sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr
        said = server.stderr.readline()
        try:
            port = int(said.split(";")[0].rsplit(":", 1)[1])
            found = asyncio.run(measure(port, psutil.Process(server.pid), given.clients, given.seconds))
        finally:
            server.terminate()
    found["settings"] = {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "fabella": version("fabella"),
        "torch": version("torch"), "python": platform.python_version(), "cores": os.cpu_count(),
        "threads": given.threads, "clients": given.clients, "tokens_a_text": TOKENS, "load_after": os.getloadavg()[0],
    }  # fmt: skip
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
