"""Examine on a GPU whether Fabella works there, repeats itself bit for bit, and is fast.

    python -m benchmarks.gpu_check                                   all sections, on a machine with an NVIDIA GPU
    python -m benchmarks.gpu_check --only environment,throughput     some of them
    python -m benchmarks.gpu_check --device cpu --tiny               the check itself, in small, on any machine

Each section is a process with a time limit: one that crashes or hangs costs its own result only. The JSON file is
written after every section. The exit code is 0 if every section that can run on this machine passed, 1 if one failed or
was left out for lack of time, 2 if there is no such device, 130 after Ctrl-C.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.commands import child_environment, tail
from benchmarks.gpu_check.environment_torch import missing_device
from benchmarks.gpu_check.sections import NAMES, PACKAGE, ROOT, SECTIONS, TINY_SECONDS, Section, Settings
from fabella.errors import StorageError, did_you_mean
from fabella.storage import require_writable, write_json

OUTPUT = Path("build/gpu_check.json")
MIN_SECONDS = 10.0
"""Remaining time below which a section is not started."""
INTERRUPTED = 130


def parse_names(text: str) -> list[str]:
    """Return the names of sections in a list separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"Unknown section {name!r}. {did_you_mean(name, NAMES)}")
    return names


def parse_device(text: str) -> str:
    """Return the device if its name is valid."""
    kind, colon, index = text.partition(":")
    if text == "cpu" or (kind == "cuda" and (not colon or index.isdecimal())):
        return text
    raise argparse.ArgumentTypeError(f"Unknown device {text!r}. Use cuda, cuda:N or cpu.")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    questions = "\n".join(f"  {section.name:<12} {section.question}" for section in SECTIONS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check", description=__doc__, epilog=f"sections:\n{questions}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--device", type=parse_device, default="cuda", help="cuda, cuda:N or cpu; default: cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and batches; always so on a CPU")
    parser.add_argument("--only", type=parse_names, default=[], help="sections to run, separated by commas")
    parser.add_argument("--skip", type=parse_names, default=[], help="sections to leave out, separated by commas")
    parser.add_argument("--minutes", type=float, default=30.0, help="time limit of the whole check; default: 30")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"JSON file for the results; default: {OUTPUT}")
    return parser.parse_args(arguments)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM end the running section as Ctrl-C does, and restore its handler afterwards."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections and return the exit code."""
    options = parse_arguments(arguments)
    if message := missing_device(options.device):
        print(message, file=sys.stderr)
        return 2
    try:
        require_writable(options.output, "--output")
    except StorageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    sections = [s for s in SECTIONS if s.name not in options.skip and (not options.only or s.name in options.only)]
    results: dict[str, Any] = {}
    end, code = time.monotonic() + 60 * options.minutes, 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with sigterm_as_ctrl_c(), tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as folder:
        for section in sections:
            try:
                results[section.name] = result = examine(section, options, Path(folder), end - time.monotonic())
            except KeyboardInterrupt:
                print(f"Interrupted. {options.output} has the sections before {section.name}.", file=sys.stderr)
                return INTERRUPTED
            code = max(code, int(result["status"] in ("failed", "left out")))
            write_json(options.output, {"settings": describe(options), "sections": results})
            print("\n".join(summary(section.name, result)), flush=True)
    print(f"Results are in {options.output}.")
    return code


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the results depend on."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "date": date.today().isoformat(), "commit": done.stdout.strip(), "device": options.device,
        "tiny": options.tiny or options.device == "cpu", "minutes": options.minutes,
    }  # fmt: skip


def examine(section: Section, options: argparse.Namespace, folder: Path, remaining: float) -> dict[str, Any]:
    """Run a section in a process of its own and return its result."""
    tiny = options.tiny or options.device == "cpu"
    limit = min(TINY_SECONDS if tiny else section.limit_seconds, remaining)
    if limit < MIN_SECONDS:
        return {"status": "left out", "reason": "No time is left. Raise --minutes, or run it with --only."}
    directory = folder / section.name
    directory.mkdir()
    settings = Settings(device=options.device, tiny=tiny, directory=str(directory), limit_seconds=limit)
    target, log = folder / f"{section.name}.json", folder / f"{section.name}.log"
    start = time.monotonic()
    code = run_child(section, settings, target, log)
    written = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    result = {"seconds": round(time.monotonic() - start, 1), **judge(written, code, limit, tail(log))}
    if code != 0:  # the commands that the section was running
        result["logs"] = {str(path.relative_to(directory)): tail(path) for path in sorted(directory.rglob("*.log"))}
    return result


def run_child(section: Section, settings: Settings, target: Path, log: Path) -> int | None:
    """Run a section's process; return its exit code, or None if it reached the limit and was killed."""
    command = [sys.executable, "-m", f"{PACKAGE}.child", section.name, json.dumps(asdict(settings)), str(target)]
    # JAX would reserve most of the GPU's memory, which PyTorch and other processes need.
    environment = {**child_environment(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    with log.open("wb") as output:
        # A group of its own, so that the processes it started are killed with it.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(timeout=settings.limit_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            kill_group(process)


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that leads a group, and all of its group that is still running."""
    with suppress(ProcessLookupError, PermissionError):  # none is left; macOS says so with the second
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def judge(written: Mapping[str, Any], code: int | None, limit: float, output: str) -> dict[str, Any]:
    """Return the result of a section: ``status``, its cases, and why it failed or was skipped.

    ``written``: what its process wrote; ``code``: its exit code, None if it was killed at the limit.
    """
    cases: Mapping[str, Any] = written.get("cases", {})
    statuses = {case["status"] for case in cases.values()}
    if code is None:
        return {"status": "failed", "reason": f"Not finished within {limit:.0f} s.", "output": output, "cases": cases}
    if code != 0:
        return {"status": "failed", "reason": f"Ended with code {code}.", "output": output, "cases": cases}
    if "skipped" in written:
        return {"status": "skipped", "reason": written["skipped"], "cases": cases}
    if "failed" in statuses:
        return {"status": "failed", "reason": "A case failed.", "cases": cases}
    if "passed" not in statuses:
        return {"status": "skipped", "reason": "No case can run on this machine.", "cases": cases}
    return {"status": "passed", "cases": cases}


def summary(name: str, result: Mapping[str, Any]) -> list[str]:
    """Return a line about a section, and one about each of its cases that did not pass."""
    cases: Mapping[str, Any] = result.get("cases", {})
    passed = sum(case["status"] == "passed" for case in cases.values())
    line = f"{name:<12} {result['status']:<9} {passed} of {len(cases)} cases, {result.get('seconds', 0):.0f} s"
    lines = [f"{line}  {result.get('reason', '')}".rstrip()]
    for case, found in cases.items():
        if found["status"] != "passed":
            detail = found.get("error") or found.get("reason") or found.get("output") or ""
            last = detail.strip().splitlines()[-1:] or [short(found)]
            lines.append(f"  {case}: {found['status']}: {last[0][:200]}")
    return lines


def short(found: Mapping[str, Any]) -> str:
    """Return the scalar values of a case that failed without an error."""
    values = {key: value for key, value in found.items() if isinstance(value, bool | int | float)}
    return ", ".join(f"{key} {value:.3g}" for key, value in values.items())


if __name__ == "__main__":
    sys.exit(main())
