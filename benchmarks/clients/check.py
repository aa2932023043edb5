"""Talk to a server with the official clients; write docs/clients.md and the requests that they sent.

The clients are in an environment of their own: .venv-clients, and node_modules in it for the one of Node.js.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.clients.checks import CHECKS
from fabella.server.limits import Limits
from fabella.server.served_models import ServedModel, ServedModels, load
from tests.generation import tiny_run
from tests.server import stubs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"
RECORDED = ROOT / "tests" / "server" / "requests" / "client_requests.json"
NODE_FOLDER = ROOT / ".venv-clients" / "node"
LIMITS = Limits()
FULL = Limits(max_batch_size=1, max_queue_size=0)
KEY = "a-key-that-clients-do-not-have"
CLIENTS = {
    "openai (Python)": [sys.executable, "-m", "benchmarks.clients.openai_client"],
    "openai (Node.js)": ["node", "benchmarks/clients/openai_client.mjs"],
    "litellm": [sys.executable, "-m", "benchmarks.clients.litellm_client"],
    "langchain-openai": [sys.executable, "-m", "benchmarks.clients.langchain_client"],
    "llm": [sys.executable, "-m", "benchmarks.clients.llm_client"],
    "lm-evaluation-harness": [sys.executable, "-m", "benchmarks.clients.lm_eval_client"],
}


@dataclass
class Recorder:
    """ASGI middleware that keeps the JSON bodies that ``client`` sends, with the status of the response."""

    client: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        async def recording(scope: Scope, receive: Receive, send: Send) -> None:
            body, status = bytearray(), [0]

            async def receive_and_keep() -> Any:
                message = await receive()
                body.extend(message.get("body", b""))
                return message

            async def send_and_keep(message: Any) -> None:
                status[0] = message.get("status", status[0])
                await send(message)

            await app(scope, receive_and_keep, send_and_keep)
            if scope["type"] == "http" and scope["path"].endswith("completions") and body:
                request = {"client": self.client, "path": scope["path"], "status": status[0], "body": json.loads(body)}
                if request not in self.requests and status[0] in {200, 400}:
                    self.requests.append(request)

        return recording


@contextmanager
def servers(run: Path, recorder: Recorder) -> Iterator[dict[str, str]]:
    """Yield the addresses of ``checks.Servers``."""

    def tiny(limits: Limits) -> ServedModels:
        return load([str(run)], device="cpu", limits=limits)

    gated = stubs.Gated()
    with ExitStack() as running:
        full = running.enter_context(
            stubs.listening(ServedModels([ServedModel("tiny", gated.generator(), FULL)]), FULL)
        )
        running.callback(gated.close)  # before the server ends, which waits for its request
        waiting = running.enter_context(stubs.connect(full))
        body = b'{"prompt": "Once", "max_tokens": 2000}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        waiting.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        keyed = running.enter_context(stubs.listening(tiny(LIMITS), LIMITS, key=KEY))
        opened = running.enter_context(stubs.listening(tiny(LIMITS), LIMITS, wrap=recorder.wrap))
        yield {name: f"http://127.0.0.1:{port}" for name, port in (("open", opened), ("keyed", keyed), ("full", full))}


def check(command: list[str], addresses: dict[str, str], run: Path) -> dict[str, Any]:
    """Run the script of a client; return its version and results."""
    environment = {
        **os.environ, "FABELLA_SERVERS": json.dumps(addresses), "FABELLA_RUN": str(run), "NODE_FOLDER": str(NODE_FOLDER)
    }  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"version": "?", "results": dict.fromkeys(CHECKS, done.stderr or done.stdout)}


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of clients and checks."""
    lines = [
        "# Clients",
        "",
        "Clients of OpenAI's API that talk to `fabella serve`. `make test-clients` tests them and writes this page. A",
        "joined stream equals the whole response, a chat takes its own answer back, and each error raises the class",
        "that the client has for it (context length, unknown model, wrong API key, full queue, unsupported field).",
        "",
        f"| client | version | {' | '.join(CHECKS)} |",
        f"|---|---|{'---|' * len(CHECKS)}",
    ]
    for client, result in results.items():
        cells = [{None: "-", "": "yes"}.get(result["results"].get(name), "**no**") for name in CHECKS]
        lines.append(f"| {client} | {result['version']} | {' | '.join(cells)} |")
    lines += [
        "",
        "-: the client has no such function. lm-evaluation-harness scores by `logprobs`; its results equal those of",
        "`fabella lm-eval` on the same tasks.",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Check all clients; return 1 if a check failed."""
    recorder, results, failed = Recorder(), dict[str, dict[str, Any]](), 0
    with tempfile.TemporaryDirectory() as directory:
        run = tiny_run.make(Path(directory) / "tiny")
        with servers(run, recorder) as addresses:
            for client, command in CLIENTS.items():
                recorder.client = client
                results[client] = check(command, addresses, run)
                for name, reason in results[client]["results"].items():
                    print(f"{client}: {name}: {'failed' if reason else 'passed'}", flush=True)
                    failed += bool(reason)
                    print(reason, end="")
    PAGE.write_text(page(results), encoding="utf-8")
    RECORDED.write_text(json.dumps(recorder.requests, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
