"""Install the wheel into clean environments: the core, each extra, and all; measure, and use what was installed.

Without an extra, a command that needs it must fail and name it; with the extra, the same command must work. Each
environment of an extra starts as a copy of that of the core. Time and size depend on the connection and on the build
of PyTorch that the package index gives: a CUDA build, of several gigabytes, is refused unless ``--cuda`` is given.

    python -m benchmarks.installation
    python -m benchmarks.installation --only serve onnx --output installation.json
"""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from packaging.requirements import Requirement
from pyarrow import parquet, table

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "installation.json"
PAGE = REPOSITORY / "docs" / "install.md"
MARKS = ("<!-- installation: written by `make test-install` -->\n", "<!-- end of installation -->")
STORIES = [f"Once upon a time, fox number {number} lived near the pond. It found a ball." for number in range(300)]
TIMEOUT_SECONDS = 600
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


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
    """It prints its address, and runs until it is ended"""


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

    def pip(self, *arguments: str | Path) -> str:
        """Run ``pip install`` with the pins of the tests; return what it printed."""
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "-c", REPOSITORY / "constraints.txt", *arguments]
        return subprocess.run(command, env=clean_environment(), check=True, stdout=subprocess.PIPE, text=True).stdout

    def install(self, requirement: str) -> dict[str, float]:
        """Install with pip and the pins of the tests; return the seconds, and those that pip computed."""
        start, cpu = time.monotonic(), children_cpu_seconds()
        self.pip(requirement)
        seconds = round(time.monotonic() - start, 1)
        return {"seconds": seconds, "cpu_seconds": round(children_cpu_seconds() - cpu, 1)}

    def cuda_packages(self) -> list[str]:
        """Return the CUDA packages that the pinned PyTorch would bring, without installing anything."""
        report = json.loads(self.pip("--dry-run", "--no-deps", "--report", "-", "torch"))
        required = map(Requirement, report["install"][0]["metadata"].get("requires_dist", ()))
        here = [item.name for item in required if not item.marker or item.marker.evaluate({"extra": ""})]
        return sorted(name for name in here if name.startswith(("nvidia", "cuda")))

    def variables(self) -> dict[str, str]:
        """Return the environment variables of its commands: with a cache of their own, nothing is compiled before."""
        return {**clean_environment(), "XDG_CACHE_HOME": str(self.reader / "cache")}

    def megabytes(self) -> float:
        """Return the size of the environment."""
        return sum(file.lstat().st_size for file in self.path.rglob("*") if file.is_file()) / 1e6

    def run(self, use: Use) -> tuple[int, str]:
        """Run a command; return its exit code and what it printed. A server is ended once it has sent its page."""
        command = f"{self.python} -P -m fabella {use.arguments}"
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            cwd=self.reader,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        printed = ""
        if use.serves:
            for line in process.stdout:
                printed += line
                if address := ADDRESS.search(line):
                    urllib.request.urlopen(address[0], timeout=TIMEOUT_SECONDS).read()
                    process.terminate()
                    break
        rest, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        return process.returncode, printed + rest


def children_cpu_seconds() -> float:
    """Return the processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def clean_environment() -> dict[str, str]:
    """Return the environment variables without PYTHONPATH, with which pip and Python would find this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def build_wheel(directory: Path) -> Path:
    """Build the wheel of this checkout."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory, REPOSITORY]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(directory.glob("*.whl"))


class InstallationError(Exception):
    """A command did not do what it must."""


def require(condition: bool, what: str, printed: str) -> None:
    """Raise InstallationError with what was printed if a command did not do what it must."""
    if not condition:
        raise InstallationError(f"{what}:\n{printed}")


def examine_core(core: Environment, wheel: Path, *, cuda: bool) -> dict[str, Any]:
    """Install the core, use it, and require that every other command names its extra."""
    subprocess.run([sys.executable, "-m", "venv", core.path], check=True)
    found = [] if cuda else core.cuda_packages()
    hint = f"Set PIP_EXTRA_INDEX_URL={CPU_INDEX}, or add --cuda to install it"
    require(not found, f"The package index gives a CUDA build of PyTorch. {hint}. It needs", ", ".join(found))
    start, cpu = time.monotonic(), children_cpu_seconds()
    installed = core.install(str(wheel))
    elapsed: list[tuple[float, float]] = []
    for arguments in CORE:
        code, printed = core.run(Use(arguments))
        require(code == 0, f"fabella {arguments} failed", printed)
        elapsed.append((time.monotonic() - start, children_cpu_seconds() - cpu))
    for extra, use in USES.items():
        code, printed = core.run(use)
        named = f"pip install 'fabella[{extra}]'" in " ".join(printed.split())
        require(code != 0 and named, f"fabella {use.arguments} does not name the extra {extra}", printed)
    first, first_cpu = elapsed[0]
    story = {"first_story_seconds": round(first, 1), "first_story_cpu_seconds": round(first_cpu, 1)}
    return {**installed, "megabytes": round(core.megabytes()), **story}


def examine_extra(extra: str, core: Environment, wheel: Path, directory: Path) -> dict[str, Any]:
    """Install an extra in addition to the core, and run the commands that need it."""
    environment = Environment(directory / f"env-{extra}", directory / f"reader-{extra}")
    shutil.copytree(core.path, environment.path, symlinks=True, copy_function=os.link)
    shutil.copytree(core.reader, environment.reader)
    before = environment.megabytes()
    installed = environment.install(f"{wheel}[{extra}]")
    for name, use in USES.items() if extra == "all" else [(extra, USES[extra])]:
        code, printed = environment.run(use)
        if use.reads_the_hub:
            require(f"fabella[{name}]" not in printed, f"{name} is not found after it was installed", printed)
        else:
            require(code == 0, f"fabella {use.arguments} failed with the extra {extra}", printed)
    added = environment.megabytes() - before
    shutil.rmtree(environment.path)
    shutil.rmtree(environment.reader)
    return {**installed, "megabytes": round(added)}


def main() -> None:
    """Install and use everything; write the measurements."""
    extras = sorted(USES)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[*extras, "all"], default=[*extras, "all"])
    parser.add_argument("--cuda", action="store_true", help="also install a CUDA build of PyTorch")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(project["optional-dependencies"]) - {"all", "dev", "docs", "notebooks", "test"}
    require(declared == set(extras), "An extra has no command here", ", ".join(sorted(declared ^ set(extras))))
    with tempfile.TemporaryDirectory(prefix="fabella-installation-") as name:
        try:
            results = measure(Path(name), arguments.only, cuda=arguments.cuda)
        except InstallationError as error:
            sys.exit(str(error))
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.output == RESULTS:
        before, after = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        PAGE.write_text(before + MARKS[0] + page_part(results) + MARKS[1] + after.split(MARKS[1])[1], encoding="utf-8")


def page_part(results: dict[str, Any]) -> str:
    """Return what docs/install.md says of the measurements."""
    machine, installed = results["machine"], results["installed"]
    core = installed["core"]
    lines = [
        f"Measured on {machine['date']} with {machine['cores']} cores and Python {machine['python']},",
        f"with a load average of {machine['load_average']}. Above the number of cores, other programs ran at the same",
        "time: compare the CPU time then. From `pip install` to the first story of",
        f"`fabella generate`, which compiles the native decoder, it took {core['first_story_seconds']:.0f} s, of which",
        f"{core['first_story_cpu_seconds']:.0f} s were CPU time.",
        "",
        "| installed | time | CPU time | size on the disk |",
        "|---|--:|--:|--:|",
        row("Fabella and PyTorch", core),
        *(row(f"`[{extra}]`, in addition", values) for extra, values in installed.items() if extra != "core"),
    ]
    return "\n".join(lines) + "\n"


def row(name: str, values: dict[str, float]) -> str:
    """Return a row of the table."""
    times = f"{values['seconds']:.0f} s | {values['cpu_seconds']:.0f} s"
    return f"| {name} | {times} | {values['megabytes']:,} MB |"


def measure(directory: Path, extras: Sequence[str], *, cuda: bool) -> dict[str, Any]:
    """Return the measurements of the core and of ``extras``."""
    wheel = build_wheel(directory)
    core = Environment(directory / "env", directory / "reader")
    core.reader.mkdir()
    for file, write in FILES.items():
        write(core.reader / file)
    measured = {"core": examine_core(core, wheel, cuda=cuda)}
    print("core", measured["core"], flush=True)
    failures: list[str] = []
    for extra in extras:
        try:
            measured[extra] = examine_extra(extra, core, wheel, directory)
        except InstallationError as error:
            failures.append(str(error))
        print(extra, measured.get(extra, "failed"), flush=True)
    require(not failures, "Some extras do not work", "\n".join(failures))
    machine = {
        "date": str(datetime.date.today()),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[2], 1),
    }
    return {"machine": machine, "wheel_megabytes": round(wheel.stat().st_size / 1e6, 1), "installed": measured}


if __name__ == "__main__":
    main()
