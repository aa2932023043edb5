"""The command llm, with models from its file of OpenAI-compatible servers."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.clients.checks import Servers, require, run


def llm(url: str, *arguments: str, completion: bool = False, name: str = "tiny") -> subprocess.CompletedProcess[str]:
    """Run the command with its own directory of settings."""
    with tempfile.TemporaryDirectory() as directory:
        models = (
            f"- model_id: story\n  model_name: {name}\n  api_base: {url}/v1\n  completion: {str(completion).lower()}\n"
        )
        (Path(directory) / "extra-openai-models.yaml").write_text(models)
        environment = {**os.environ, "LLM_USER_PATH": directory, "OPENAI_API_KEY": "any"}
        command = [sys.executable, "-m", "llm", "-m", "story", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


SETTINGS = ("-o", "max_tokens", "8", "-o", "seed", "1", "-o", "presence_penalty", "0", "-o", "frequency_penalty", "0")


def completion(servers: Servers) -> None:
    done = llm(servers.open, "Once", "--no-stream", *SETTINGS, completion=True)
    require(done.returncode == 0 and done.stdout.strip())


def chat(servers: Servers) -> None:
    done = llm(servers.open, "Once", "-s", "A story", "--no-stream", *SETTINGS)
    require(done.returncode == 0 and done.stdout.strip())


def stream(servers: Servers) -> None:
    streamed, whole = llm(servers.open, "Once", *SETTINGS), llm(servers.open, "Once", "--no-stream", *SETTINGS)
    require(streamed.returncode == 0 and streamed.stdout == whole.stdout)


def errors(servers: Servers) -> None:
    """It shows the words of an error."""
    for done, words in (
        (llm(servers.open, "x" * 500), "maximum context length"),
        (llm(servers.open, "Once", name="other"), "does not exist"),
        (llm(servers.keyed, "Once"), "Incorrect API key"),
    ):
        require(done.returncode != 0 and words in done.stderr)


if __name__ == "__main__":
    run("llm", completion=completion, chat=chat, stream=stream, errors=errors)
