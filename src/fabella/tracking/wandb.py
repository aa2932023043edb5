"""Weights & Biases: one run there for each run folder, gone on with under the same id however often it is resumed."""

import importlib
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabella.run_config.run import RunConfig
from fabella.runs.run_dir import step_name
from fabella.storage import atomic_write, storage_errors
from fabella.tracking.tensorboard import numbers
from fabella.tracking.tracker import Row

ID = "wandb-id"
# Their own waits come to an end before ours does (aside.CLOSING_SECONDS), so that it is them who say what is missing.
CONNECTING_SECONDS, FINISHING_SECONDS = 60, 20


class WandbTracker:
    """Takes rows for a run at Weights & Biases; sends the finished model after the final score."""

    def __init__(self, folder: Path, run: RunConfig, report: Callable[[str], None]) -> None:
        """Connects, which may take long, and raises what the package raises; ModuleNotFoundError without it."""
        section = run.tracking.wandb
        self._package: Any = importlib.import_module("wandb")
        self.folder, self.artifact = folder, section.artifact
        self.id = own_id(folder)
        self._run: Any = self._package.init(
            project=section.project,
            entity=section.entity or None,
            name=run.name,
            id=self.id,
            resume="allow",
            mode=section.mode,
            dir=str(folder),
            config=run.model_dump(mode="json"),
            settings=self._package.Settings(
                console="off",
                silent=True,
                save_code=False,
                disable_git=True,
                login_timeout=1,
                init_timeout=CONNECTING_SECONDS,
                finish_timeout=FINISHING_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        if self._run.disabled:
            raise RuntimeError("nobody is logged in (wandb login); tracking.wandb.mode=offline needs no account")
        # A resumed run tells some steps once more, the same to the bit: what is known there stays.
        self._known = int(self._run.step) if self._run.resumed else 0
        if section.mode == "online":
            report(f"Weights & Biases: {self._run.url}")

    def __call__(self, row: Row) -> None:
        step = int(row["step"])
        if step >= self._known:
            self._run.log(self._values(row), step=step)
        if row["kind"] == "final" and self.artifact:
            self._send_model(step)

    def close(self) -> None:
        """Wait until everything is sent, or on disk; TimeoutError where it takes too long."""
        self._run.finish()

    def _values(self, row: Row) -> dict[str, Any]:
        if row["kind"] == "sample":
            return {f"sample/{row['prompt']}": row["prompt"] + row["text"]}
        if row["kind"] == "histograms":
            return {name: self._histogram(one) for name, one in row["histograms"].items()}
        return numbers(row)

    def _histogram(self, one: Any) -> Any:
        bins = len(one.counts)
        edges = [one.low + (one.high - one.low) * number / bins for number in range(bins + 1)]
        return self._package.Histogram(np_histogram=(list(one.counts), edges))

    def _send_model(self, step: int) -> None:
        """All that ``generate`` needs: weights, config and tokenizer."""
        model = self._package.Artifact(f"model-{self.id}", type="model", metadata={"step": step})
        model.add_file(str(self.folder / "checkpoints" / step_name(step) / "model.safetensors"))
        model.add_file(str(self.folder / "config.yaml"))
        model.add_dir(str(self.folder / "tokenizer"), name="tokenizer")
        self._run.log_artifact(model)


def own_id(folder: Path) -> str:
    """The id of the run in ``folder``, made at the first call and kept there.

    What is damaged is made anew: another run there loses nothing here.
    """
    path = folder / ID
    with storage_errors(path, f"reading {ID}"):
        known = path.read_bytes().decode("latin-1").strip() if path.exists() else ""
    if re.fullmatch(r"[0-9a-f]{16}", known):
        return known
    made = secrets.token_hex(8)
    atomic_write(path, f"{made}\n".encode())
    return made
