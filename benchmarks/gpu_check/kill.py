"""The command of a user, killed twice and resumed, compared bit for bit with an uninterrupted run."""

import hashlib
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu_check.commands import start, tail
from benchmarks.gpu_check.sections import Case, Settings, Values
from fabella.runs.run_dir import parse_step

STEPS, TINY_STEPS = 600, 60
KILLS = 2
POLL_SECONDS = 0.005
MODEL = ["tokenizer={kind: bytes}", "model.vocab_size=256"]
# Attention adds in an order that varies only if a sequence is longer than one block of keys.
FULL = ["model.context_length=512", "data.sequences={kind: packed, length: 512, stride: 512}",
        "data.source.stories=3000", "training.micro_batch_size=32"]  # fmt: skip
TINY = ["model.dim=64", "model.ffn_dim=96", "model.layers=2", "model.embedding=32", "data.source.stories=60",
        "training.micro_batch_size=4", "validation.num_sequences=4"]  # fmt: skip


def kill(settings: Settings) -> Iterator[Case]:
    """Yield the comparison: of blocks that are not compiled, and on a GPU of compiled ones."""
    yield "eager", partial(examine_kill, settings, "none")
    if settings.on_gpu:
        yield "compiled", partial(examine_kill, settings, "blocks")


def examine_kill(settings: Settings, compile_: str) -> Values:
    """Train twice, once with kills; passes if the last checkpoints have the same bytes and the kills took place."""
    directory = Path(settings.directory) / compile_
    directory.mkdir(parents=True)
    steps = TINY_STEPS if settings.tiny else STEPS
    overrides = [
        *MODEL, *(TINY if settings.tiny else FULL), "training.precision=bf16", f"training.compile={compile_}",
        f"checkpoint.every_steps={steps // 6}", f"validation.every_steps={steps // 3}", f"samples.every_steps={steps}",
    ]  # fmt: skip

    def train(name: str) -> list[str]:
        out = ["--out", name, "--prepared", "prepared", "--device", settings.device]
        return ["train", "minigpt-dev", "--steps", str(steps), *out, *overrides]

    log = directory / "uninterrupted.log"
    with log.open("wb") as output, start(train("uninterrupted"), directory, output) as process:
        code = process.wait()
    if code != 0:
        return {"passed": False, "exit_code": code, "output": tail(log)}
    kills, code = train_with_kills(settings, directory, train("killed"), steps)
    expected, found = (checkpoint(directory / name, steps) for name in ("uninterrupted", "killed"))
    return {
        "passed": code == 0 and kills == KILLS and bool(expected) and found == expected,
        "kills": kills, "exit_code": code, "equal": found == expected, "files": sorted(expected),
        "output": tail(directory / "killed.log"),
    }  # fmt: skip


def train_with_kills(settings: Settings, directory: Path, command: list[str], steps: int) -> tuple[int, int]:
    """Train, kill the process each time another third of the steps is saved, and resume.

    Return the number of kills and the exit code of the last process.
    """
    run, kills = directory / "killed", 0
    with (directory / "killed.log").open("wb") as output:
        process = start(command, directory, output)
        while process.poll() is None:
            if kills < KILLS and latest_step(run) >= (kills + 1) * steps // 3:
                process.kill()
                process.wait()
                kills += 1
                process = start(["resume", "killed", "--device", settings.device], directory, output)
            time.sleep(POLL_SECONDS)
    return kills, process.wait()


def latest_step(run: Path) -> int:
    """Return the step of the latest checkpoint; 0 if there is none."""
    folder = run / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max((step for name in names if (step := parse_step(name)) is not None), default=0)


def checkpoint(run: Path, step: int) -> dict[str, str]:
    """Return the sha256 of every tensor file of a step's checkpoint."""
    folders = [path for path in (run / "checkpoints").iterdir() if parse_step(path.name) == step]
    files = [file for folder in folders for file in folder.glob("*.safetensors")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
