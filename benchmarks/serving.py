"""Load test of `fabella serve`: streaming clients on loopback, in a process of their own, for minutes.

First a single client, then many. Meanwhile /healthz is requested five times a second, the server's memory is read once
a second, and prompts that are slow to tokenize are sent. Finally, a hundred clients disconnect during a stream,
and the time until their row is free is measured.

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
"""Maximum number of new tokens per completion."""
TIMEOUT_SECONDS = 60.0
"""Timeout of a client in seconds."""
STALL_SECONDS = 2.0
"""Gap between two chunks in seconds that counts as a stall."""
WARM_UP = 0.25
"""Share of the time before memory is measured."""
DISCONNECTS = 100
SLOW_PROMPTS = ["a" * 100_000, " " * 100_000, "字" * 60_000, "👩‍👩‍👧‍👦" * 8_000]


@dataclass
class ClientLog:
    """Measurements of all clients."""

    tokens: int = 0
    completions: int = 0
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Times to first chunk in seconds."""
    gaps: list[float] = field(default_factory=list)
    """Times between two chunks in seconds."""
    health: list[float] = field(default_factory=list)
    refused: int = 0
    """Slow prompts that were refused for their length, as they should be."""


def request(path: str, body: dict[str, Any] | None = None) -> bytes:
    """Return an HTTP/1.1 request that closes the connection."""
    sent = json.dumps(body).encode() if body is not None else b""
    head = f"{'POST' if body is not None else 'GET'} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n" if body is not None else ""
    return (head + kind + "\r\n").encode() + sent


async def fetch(port: int, path: str, body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    """Return status and body of a response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request(path, body))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            response = await reader.read()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    head, _, content = response.partition(b"\r\n\r\n")
    return int(head.split()[1]), content


def streaming(seed: int, tokens: int = TOKENS) -> bytes:
    """Return a streaming completion request."""
    body = {"prompt": "Once upon a time", "max_tokens": tokens, "seed": seed, "temperature": 0.8, "stream": True}
    return request("/v1/completions", body | {"stream_options": {"include_usage": True}})


async def stream_completion(port: int, seed: int, log: ClientLog) -> None:
    """Read one stream to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(streaming(seed))
        last, start = 0.0, time.perf_counter()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while line := await reader.readline():
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                now, event = time.perf_counter(), json.loads(line[len(b"data: ") :])
                (log.gaps if last else log.first).append(now - (last or start))
                last = now
                if "usage" in event:
                    log.tokens += event["usage"]["completion_tokens"]
                    log.completions += 1
                    return
        log.errors.append("a stream ended early")
    except (OSError, TimeoutError, ValueError, KeyError) as error:
        log.errors.append(f"{type(error).__name__}: {error}")
    finally:
        writer.close()


async def run_client(port: int, number: int, until: float, log: ClientLog) -> None:
    """Send one request after another."""
    count = 0
    while time.perf_counter() < until:
        await stream_completion(port, 1_000_000 * number + count, log)
        count += 1


def poll_health(port: int, seconds: float) -> list[tuple[int, float]]:
    """Return status and latency of /healthz, five times a second.

    Runs in its own process, because a client that reads many streams is late itself.
    """
    results: list[tuple[int, float]] = []
    until = time.perf_counter() + seconds
    while (start := time.perf_counter()) < until:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(request("/healthz"))
            response = b"".join(iter(lambda: connection.recv(65536), b""))
        results.append((int(response.split()[1]), time.perf_counter() - start))
        time.sleep(0.2)
    return results


async def send_slow_prompts(port: int, until: float, log: ClientLog) -> None:
    """Send prompts that are slow to tokenize, alternately truncated and refused for their length."""
    count = 0
    while time.perf_counter() < until:
        truncate = -1 if count % 2 else 0
        body = {
            "prompt": SLOW_PROMPTS[count // 2 % len(SLOW_PROMPTS)],
            "max_tokens": 1,
            "truncate_prompt_tokens": truncate,
        }
        status, _ = await fetch(port, "/v1/completions", body)
        log.refused += status == 400
        if status not in ((200,) if truncate else (200, 400)):
            log.errors.append(f"a slow prompt got {status}")
        count += 1
        await asyncio.sleep(1)


async def poll_memory(server: psutil.Process, until: float) -> list[tuple[float, int]]:
    """Return (time, resident bytes) of the server once a second."""
    samples: list[tuple[float, int]] = []
    while time.perf_counter() < until:
        samples.append((time.perf_counter(), server.memory_info().rss))
        await asyncio.sleep(1)
    return samples


async def crowd(port: int, clients: int, seconds: float, server: psutil.Process) -> tuple[ClientLog, dict[str, Any]]:
    """Run the clients; return their log, the duration and the server's memory."""
    log, loop = ClientLog(), asyncio.get_running_loop()
    with ProcessPoolExecutor(1, get_context("spawn")) as worker:
        await loop.run_in_executor(worker, poll_health, port, 0.0)  # starts the process
        start = time.perf_counter()
        until = start + seconds
        health, memory, *_ = await asyncio.gather(
            loop.run_in_executor(worker, poll_health, port, seconds),
            poll_memory(server, until),
            *([send_slow_prompts(port, until, log)] if clients > 1 else []),
            *(run_client(port, number, until, log) for number in range(clients)),
        )
    took = time.perf_counter() - start
    log.health = [latency for _, latency in health]
    log.errors += [f"/healthz got {status}" for status, _ in health if status != 200]
    warm = memory[int(WARM_UP * len(memory)) :]
    times, sizes = np.array([at for at, _ in warm]), np.array([size for _, size in warm], dtype=float)
    slope = float(np.polyfit(times - times[0], sizes, 1)[0]) if len(warm) > 2 else float("nan")
    return log, {
        "seconds": took,
        "memory": {
            "first_bytes": memory[0][1],
            "warm_bytes": warm[0][1],
            "last_bytes": memory[-1][1],
            "max_bytes": max(size for _, size in memory),
            "bytes_per_minute": slope * 60,
        },
    }


async def disconnect(port: int, times: int) -> list[float]:
    """Return the seconds until the row of a disconnected client is free, for each of ``times`` clients."""
    durations: list[float] = []
    for number in range(times):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(streaming(number, 2048))
        while not (await reader.readline()).startswith(b"data: "):
            pass
        writer.close()
        start = time.perf_counter()
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await running(port):
                await asyncio.sleep(0.002)
        durations.append(time.perf_counter() - start)
    return durations


async def running(port: int) -> int:
    """Return the number of running and waiting sequences."""
    _, body = await fetch(port, "/metrics")
    gauges = ("fabella_num_requests_running{", "fabella_num_requests_waiting{")
    lines = [line for line in body.decode().splitlines() if line.startswith(gauges)]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def spread(values: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and maximum in seconds."""
    return {"median": median(values), "p99": float(np.quantile(values, 0.99)), "max": max(values)}


def summary(log: ClientLog, stats: dict[str, Any]) -> dict[str, Any]:
    """Return the results of one measurement."""
    return stats | {
        "tokens_per_second": log.tokens / stats["seconds"],
        "completions": log.completions,
        "errors": log.errors,
        "time_to_first_token_seconds": spread(log.first),
        "gap_seconds": spread(log.gaps),
        "stalls": sum(gap > STALL_SECONDS for gap in (*log.gaps, *log.first)),
        "health_seconds": spread(log.health),
        "slow_prompts_refused": log.refused,
    }


async def measure(port: int, server: psutil.Process, clients: int, seconds: float) -> dict[str, Any]:
    """Run all measurements in the order of the module docstring."""
    _, body = await fetch(port, "/v1/models")
    await crowd(port, 1, 2.0, server)  # one-time work
    single, single_stats = await crowd(port, 1, max(5.0, seconds / 8), server)
    print(f"one client: {single.tokens / single_stats['seconds']:.0f} tokens/s", file=sys.stderr)
    many, many_stats = await crowd(port, clients, seconds, server)
    freed = await disconnect(port, DISCONNECTS)
    result = {
        "model": json.loads(body)["data"][0],
        "one_client": summary(single, single_stats),
        "many_clients": summary(many, many_stats),
    }
    speedup = result["many_clients"]["tokens_per_second"] / result["one_client"]["tokens_per_second"]
    result["many_clients"]["speedup"] = speedup
    within = sum(seconds <= 1 for seconds in freed)
    result["disconnects"] = {"count": len(freed), "within_1_second": within, "median": median(freed), "max": max(freed)}
    return result


def main() -> None:
    """Start a server, measure it and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run directory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--threads", type=int, default=1, help="threads of the server's matrix products")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    command = [
        "-m",
        "fabella",
        "serve",
        args.run,
        "--port",
        "0",
        "--max-batch-size",
        str(args.clients),
        "--max-queue-size",
        "16",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr
        line = server.stderr.readline()
        try:
            port = int(line.split(";")[0].rsplit(":", 1)[1])
            result = asyncio.run(measure(port, psutil.Process(server.pid), args.clients, args.seconds))
        finally:
            server.terminate()
    result["settings"] = {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}", "fabella": version("fabella"),
        "torch": version("torch"), "python": platform.python_version(), "cores": os.cpu_count(),
        "threads": args.threads, "clients": args.clients, "max_tokens": TOKENS, "load_after": os.getloadavg()[0],
    }  # fmt: skip
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
