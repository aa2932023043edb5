"""lm-evaluation-harness scores a served model as ``fabella lm-eval`` scores its run."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.clients.checks import Servers, require, run
from tests.evaluation.test_harness import ROWS, TASKS

MAX_LENGTH = 32
"""Context length of the tiny model."""


def values(command: list[str], directory: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(directory / "home")}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def over_http(servers: Servers, directory: Path) -> dict[tuple[str, str], float]:
    """Return the metrics that the harness computes, with the tokenizer of the server."""
    model = f"model=tiny,base_url={servers.open}/v1/completions,max_length={MAX_LENGTH}"
    values(
        ["-m", "lm_eval", "--model", "local-completions", "--tasks", ",".join(TASKS), "--include_path", str(directory),
         "--model_args", model, "--output_path", str(directory / "out.json")], directory,
    )  # fmt: skip
    (file,) = directory.glob("out_*.json")
    results: dict[str, dict[str, Any]] = json.loads(file.read_text())["results"]
    return {
        (task, key.partition(",")[0]): value
        for task, metrics in results.items()
        for key, value in metrics.items()
        if key.endswith(",none") and "_stderr" not in key
    }


def of_run(directory: Path) -> dict[tuple[str, str], float]:
    """Return the metrics of ``fabella lm-eval``."""
    command = [
        "-m",
        "fabella",
        "lm-eval",
        os.environ["FABELLA_RUN"],
        *TASKS,
        "--include-path",
        str(directory),
        "--json",
    ]
    metrics = json.loads(values(command, directory))["metrics"]
    return {(row["task"], row["metric"]): row["value"] for row in metrics}


def logprobs(servers: Servers) -> None:
    """Equal to all printed digits: float32 sums of a batch and of a single sequence differ in the eighth one."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        for task, text in TASKS.items():
            data = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {directory}/rows.jsonl}}}}\n"
            (directory / f"{task}.yaml").write_text(f"task: {task}\n{data}test_split: test\n{text}")
        expected, given = of_run(directory), over_http(servers, directory)
        require(set(expected) == set(given))
        for key, value in expected.items():
            assert f"{given[key]:.6f}" == f"{value:.6f}", (key, given[key], value)


if __name__ == "__main__":
    run("lm-eval", logprobs=logprobs)
