"""Install the wheel into clean environments: the core, each extra, and all; measure, and use what was installed.

Without an extra, a command that needs it must fail and name it; with the extra, the same command must work. Each
environment of an extra starts as a copy of that of the core. Time and size depend on the connection and on the build
of PyTorch that the package index gives.

    python -m benchmarks.installation
    python -m benchmarks.installation --only serve onnx --output installation.json
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from pyarrow import parquet, table

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "installation.json"
STORIES = [f"Once upon a time, fox number {number} lived near the pond. It found a ball." for number in range(300)]
TIMEOUT_SECONDS = 600
ADDRESS = "http://127.0.0.1:"


def write_text(path: Path) -> None:
    """Write the stories as plain text."""
    path.write_text("\n<|endoftext|>\n".join(STORIES), encoding="utf-8")


def write_page(path: Path) -> None:
    """Write the stories as a web page."""
    path.write_text("<html><body>" + "".join(f"<p>{story}</p>" for story in STORIES) + "</body></html>")


def write_parquet(path: Path) -> None:
    """Write the stories as a Parquet file."""
    parquet.write_table(table({"text": STORIES}), path)


def write_zstd(path: Path) -> None:
    """Write the stories as compressed text."""
    path.write_bytes(zstandard.compress("\n<|endoftext|>\n".join(STORIES).encode()))


FILES: dict[str, Callable[[Path], None]] = {
    "stories.txt": write_text,
    "page.html": write_page,
    "stories.parquet": write_parquet,
    "stories.txt.zst": write_zstd,
}


@dataclass(frozen=True, slots=True)
class Use:
    """A command that needs an extra."""

    arguments: str
    """Words after ``fabella``"""
    reads_the_hub: bool = False
    """With the extra it still needs the network, so it may fail, but no longer for lack of the package"""
    serves: bool = False
    """It runs until it is interrupted, and prints its address before"""


USES = {
    "documents": Use("check-data page.html"),
    "duplicates": Use("prepare stories.txt --out distinct --tokenizer bytes --duplicates near"),
    "eval": Use("lm-eval run blimp", reads_the_hub=True),
    "export": Use("export run --to hf --out exported"),
    "hub": Use("check-data hub:roneneldan/TinyStories", reads_the_hub=True),
    "jax": Use("train stories.txt --steps 2 --out run-jax engine=jax"),
    "onnx": Use("export run --to onnx --out run.onnx"),
    "parquet": Use("check-data stories.parquet"),
    "serve": Use("serve --port 0", serves=True),
    "track": Use("train stories.txt --steps 2 --out run-tracked tracking.tensorboard=true"),
    "tune": Use("tune stories.txt --steps 2 --trials 2"),
    "zstd": Use("check-data stories.txt.zst"),
}
CORE = ["generate 'Once upon a time' --max-tokens 20", "train stories.txt --steps 2 --out run", "verify run"]


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment, and a directory in which its commands run."""

    path: Path
    reader: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    def install(self, requirement: str) -> float:
        """Install with pip and the pins of the tests; return the seconds."""
        start = time.monotonic()
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "-c", REPOSITORY / "constraints.txt", requirement]
        subprocess.run(command, env=clean_environment(), check=True)
        return time.monotonic() - start

    def megabytes(self) -> float:
        """Return the size of the environment."""
        return sum(file.lstat().st_size for file in self.path.rglob("*") if file.is_file()) / 1e6

    def run(self, use: Use) -> tuple[int, str]:
        """Run a command; return its exit code and what it printed. A server is interrupted once it has its address."""
        command = f"{self.python} -P -m fabella {use.arguments}"
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self.reader,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        printed = ""
        if use.serves:
            for line in process.stdout:
                printed += line
                if ADDRESS in line:
                    process.send_signal(signal.SIGINT)
                    break
        rest, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, printed + rest


def clean_environment() -> dict[str, str]:
    """Return the environment variables without PYTHONPATH, with which pip and Python would find this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this checkout."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, REPOSITORY]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(directory.glob("*.whl"))


def require(condition: bool, what: str, printed: str) -> None:
    """Exit with what was printed if a command did not do what it must."""
    if not condition:
        sys.exit(f"{what}:\n{printed}")


def examine_core(core: Environment, wheel: Path) -> dict[str, Any]:
    """Install the core, use it, and require that every other command names its extra."""
    subprocess.run([sys.executable, "-m", "venv", core.path], check=True)
    start = time.monotonic()
    seconds = core.install(str(wheel))
    generated: list[float] = []
    for arguments in CORE:
        code, printed = core.run(Use(arguments))
        require(code == 0, f"fabella {arguments} failed", printed)
        generated.append(time.monotonic() - start)
    for extra, use in USES.items():
        code, printed = core.run(use)
        named = f"pip install 'fabella[{extra}]'" in " ".join(printed.split())
        require(code != 0 and named, f"fabella {use.arguments} does not name the extra {extra}", printed)
    return {
        "seconds": round(seconds, 1),
        "megabytes": round(core.megabytes()),
        "first_story_seconds": round(generated[0], 1),
    }


def examine_extra(extra: str, core: Environment, wheel: Path, directory: Path) -> dict[str, Any]:
    """Install an extra in addition to the core, and run the commands that need it."""
    environment = Environment(directory / f"env-{extra}", directory / f"reader-{extra}")
    shutil.copytree(core.path, environment.path, symlinks=True, copy_function=os.link)
    shutil.copytree(core.reader, environment.reader)
    before = environment.megabytes()
    seconds = environment.install(f"{wheel}[{extra}]")
    for name, use in USES.items() if extra == "all" else [(extra, USES[extra])]:
        code, printed = environment.run(use)
        if use.reads_the_hub:
            require(f"fabella[{name}]" not in printed, f"{name} is not found after it was installed", printed)
        else:
            require(code == 0, f"fabella {use.arguments} failed with the extra {extra}", printed)
    added = environment.megabytes() - before
    shutil.rmtree(environment.path)
    return {"seconds": round(seconds, 1), "megabytes": round(added)}


def main() -> None:
    """Install and use everything; write the measurements."""
    extras = sorted(USES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*extras, "all"], default=[*extras, "all"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(project["optional-dependencies"]) - {"all", "dev", "docs", "notebooks", "test"}
    require(declared == set(extras), "An extra has no command here", ", ".join(sorted(declared ^ set(extras))))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, a server would ignore it
    with tempfile.TemporaryDirectory(prefix="fabella-installation-") as name:
        results = measure(Path(name), arguments.only)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(directory: Path, extras: Sequence[str]) -> dict[str, Any]:
    """Return the measurements of the core and of ``extras``."""
    wheel = build_wheel(directory)
    core = Environment(directory / "env", directory / "reader")
    core.reader.mkdir()
    for file, write in FILES.items():
        write(core.reader / file)
    measured = {"core": examine_core(core, wheel)}
    print("core", measured["core"], flush=True)
    for extra in extras:
        measured[extra] = examine_extra(extra, core, wheel, directory)
        print(extra, measured[extra], flush=True)
    machine = {"date": str(datetime.date.today()), "python": platform.python_version(), "cores": os.cpu_count()}
    return {"machine": machine, "wheel_megabytes": round(wheel.stat().st_size / 1e6, 1), "installed": measured}


if __name__ == "__main__":
    main()
