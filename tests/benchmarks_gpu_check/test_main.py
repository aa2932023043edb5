"""Tests of the command of the GPU check: refusals, exit codes, time limits, and the file of results."""

import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import __main__ as gpu_check
from benchmarks.gpu_check.sections import NAMES, SECTIONS, Settings

CPU = ["--device", "cpu", "--tiny"]


@pytest.mark.parametrize(
    ("cuda", "gpus", "message"),
    [
        (None, 0, "is built without CUDA: install a CUDA build"),
        ("13.0", 0, "PyTorch finds no NVIDIA GPU"),
        ("13.0", 2, "There is no device cuda:2: PyTorch sees 2 GPU(s), so use cuda:0 to cuda:1"),
    ],
)
def test_without_the_gpu_one_sentence_says_what_to_do(
    cuda: str | None, gpus: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(gpu_check, "examine", lambda *_: pytest.fail("a section ran"))
    assert gpu_check.main(["--device", "cuda:2"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "python -m benchmarks.gpu_check --device cpu --tiny" in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "sync"], "Unknown section 'sync'. Did you mean 'syncs'?"),
        (["--device", "tpu"], "Unknown device 'tpu'. Use cuda, cuda:N or cpu."),
        (["--device", "cuda:x"], "Unknown device 'cuda:x'."),
    ],
)
def test_an_unknown_name_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused_before_any_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(gpu_check, "examine", lambda *_: pytest.fail("a section ran"))
    assert gpu_check.main([*CPU, "--output", str(tmp_path / "file" / "results.json")]) == 4
    assert "--output" in capsys.readouterr().err


@pytest.mark.slow
def test_the_environment_of_a_cpu_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "results.json"
    assert gpu_check.main([*CPU, "--only", "environment", "--output", str(output)]) == 0
    results = json.loads(output.read_text(encoding="utf-8"))
    assert list(results["sections"]) == ["environment"]
    cases = results["sections"]["environment"]["cases"]
    assert {case["status"] for case in cases.values()} == {"passed"}
    assert cases["versions"]["torch"] == torch.__version__
    assert results["settings"]["tiny"]
    assert "environment  passed" in capsys.readouterr().out


def run_with(monkeypatch: pytest.MonkeyPatch, results: dict[str, dict[str, Any]], words: list[str]) -> int:
    """Run the command with sections that have these results."""
    monkeypatch.setattr(gpu_check, "examine", lambda section, *_: results.get(section.name, {"status": "passed"}))
    return gpu_check.main([*CPU, *words])


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("skipped", 0), ("failed", 1), ("left out", 1)])
def test_the_exit_code_is_that_of_the_sections(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["--output", str(tmp_path / "results.json")]
    assert run_with(monkeypatch, {"kill": {"status": status, "reason": "No time."}}, words) == code
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]
    assert tuple(written) == NAMES
    assert written["kill"]["status"] == status


def test_only_and_skip_select_sections(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = ["--only", "syncs,kill, jax", "--skip", "kill", "--output", str(tmp_path / "results.json")]
    run_with(monkeypatch, {}, words)
    assert list(json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]) == ["syncs", "jax"]


def test_without_time_sections_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([*CPU, "--minutes", "0", "--output", str(tmp_path / "results.json")]) == 1
    assert capsys.readouterr().out.count("left out") == len(NAMES)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_ctrl_c_or_sigterm_the_finished_sections_are_in_the_file(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(section: Any, *_: Any) -> dict[str, Any]:
        if section.name == "syncs":
            signal.raise_signal(number)
        return {"status": "passed"}

    monkeypatch.setattr(gpu_check, "examine", interrupted)
    assert gpu_check.main([*CPU, "--output", str(tmp_path / "results.json")]) == 130
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["sections"]
    assert list(written) == ["environment", "defaults"]


def test_a_section_at_its_limit_is_killed(tmp_path: Path) -> None:
    settings = Settings(device="cpu", tiny=True, directory=str(tmp_path), limit_seconds=0.01)
    assert gpu_check.run_child(SECTIONS[0], settings, tmp_path / "result.json", tmp_path / "log") is None


def test_a_killed_section_takes_the_processes_that_it_started_with_it() -> None:
    command = ["sh", "-c", "sleep 600 & echo $!; wait"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    assert is_running(child)
    exited = os.pidfd_open(child)
    gpu_check.kill_group(process)
    assert process.stdout.read() == b""  # returns when no process holds the pipe any more
    assert select.select([exited], [], [], 10)[0] == [exited]  # it closes its files before it has exited
    os.close(exited)
    assert not is_running(child)
    gpu_check.kill_group(process)
    process.stdout.close()


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("written", "code", "status", "reason"),
    [
        ({"cases": {"a": {"status": "passed"}, "b": {"status": "skipped"}}}, 0, "passed", None),
        ({"cases": {"a": {"status": "passed"}, "b": {"status": "failed"}}}, 0, "failed", "A case failed."),
        ({"cases": {"a": {"status": "passed"}}}, None, "failed", "Not finished within 60 s."),
        ({"cases": {"a": {"status": "passed"}}}, -11, "failed", "Ended with code -11."),
        ({}, 1, "failed", "Ended with code 1."),
        ({"cases": {"a": {"status": "skipped"}}}, 0, "skipped", "No case can run on this machine."),
        ({"cases": {}, "skipped": "no JAX"}, 0, "skipped", "no JAX"),
    ],
)
def test_a_section_is_judged_by_its_cases_and_its_end(
    written: dict[str, Any], code: int | None, status: str, reason: str | None
) -> None:
    result = gpu_check.judge(written, code, 60.0, "the log")
    assert (result["status"], result.get("reason")) == (status, reason)


def test_the_summary_shows_the_error_of_a_case() -> None:
    cases = {"a": {"status": "passed"}, "b": {"status": "failed", "error": "RuntimeError: no kernel"},
             "c": {"status": "failed", "errors": [1.0], "loss": 2.5}}  # fmt: skip
    lines = gpu_check.summary("loss", {"status": "failed", "reason": "A case failed.", "cases": cases, "seconds": 3.0})
    assert lines == [
        "loss         failed    1 of 3 cases, 3 s  A case failed.",
        "  b: failed: RuntimeError: no kernel",
        "  c: failed: loss 2.5",
    ]
