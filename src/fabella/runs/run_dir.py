"""Run directory: created once, opened by every later command, locked by the process that trains."""

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from fabella.errors import CheckpointError, ConfigError, StorageError
from fabella.models.registry import is_external, kept_family
from fabella.run_config.files import MAX_FILE_BYTES, parse_yaml, to_yaml, validate_config, with_sections
from fabella.run_config.run import RunConfig
from fabella.runs.family_files import FAMILY, family_digests, keep_family, load_kept_family
from fabella.runs.resume_rules import describe_changes
from fabella.runs.safetensors_io import is_pickle
from fabella.storage import (
    MANIFEST,
    atomic_dir,
    atomic_write,
    dump_manifest,
    escaped,
    make_dirs,
    read_manifest,
    recognize,
    remove_dir,
    remove_stale_temps,
    require_writable,
    restore_replaced,
    storage_errors,
)
from fabella.storage.lock import lock_dir
from fabella.storage.messages import escaped_path
from fabella.storage.recognize import runs_in
from fabella.storyteller import NAME, TRAIN
from fabella.tokenizers.tokenizer import Tokenizer

FORMAT = 2
"""Format number of run directories and checkpoints. Others are refused: nothing was released with an older one."""
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
BRANCH_FILES = ("latest", "best", "metrics.jsonl", "samples.jsonl")
"""Files that a branch takes over from its parent, in addition to checkpoints."""
PARENT = "parent"
"""Manifest entry of a branch: ``run``, the name of its parent; ``path``, relative to the branch; ``step`` of the
checkpoint that it begins with; ``model_sha256`` of the weights in it."""
INIT_FROM = "init_from"
"""Manifest entry of a run that began with the weights of another: ``run``, ``path`` and ``step`` of their checkpoint,
as in PARENT, and ``model_sha256``. Its checkpoint of step 0 has these weights."""
FIRST_SCHEDULE = "schedule"
"""Manifest entry of the learning-rate schedule with which the run was started."""
CHANGES = "changes"
"""Manifest entry of the settings that were changed while training; see ``record_changes``."""
DIGEST_LINE = "# sha256 of the lines above: "
UNFINISHED = {".lock", ".lock-holder", MANIFEST, "tokenizer", FAMILY}
"""Names in the directory of a run whose creation was interrupted before config.yaml, which is written last."""
STEP = re.compile(r"step-([0-9]{8,12})")
MAX_POINTER_BYTES = 64
MAX_LISTED_RUNS = 5


def require_format(format_number: object, *, where: str) -> None:
    """Raise CheckpointError unless ``where`` was written in the format that this version reads."""
    if type(format_number) is not int or format_number != FORMAT:
        raise CheckpointError(
            f"{where} was written in format {escaped(str(format_number))}; "
            f"this version of Fabella reads format {FORMAT}.",
            hint="Use the version of Fabella that wrote it, or train the model again.",
        )


def step_name(step: int) -> str:
    """Return the name of a checkpoint: ``step-00001000``."""
    return f"step-{step:08d}"


def parse_step(name: str) -> int | None:
    """Return the step of a checkpoint name; None for another name."""
    match = STEP.fullmatch(name)
    return int(match[1]) if match and step_name(int(match[1])) == name else None


@dataclass(frozen=True, slots=True)
class RunDir:
    """A run on disk: path, config and manifest."""

    path: Path
    run: RunConfig
    manifest: Mapping[str, Any]
    in_use: set[int] = field(default_factory=set[int], compare=False)
    """Steps of the checkpoints that this process has loaded; pruning keeps them."""

    @classmethod
    def create(
        cls,
        path: Path,
        run: RunConfig,
        manifest: Mapping[str, Any],
        *,
        fill: Callable[["RunDir"], None] | None = None,
    ) -> "RunDir":
        """Create the directory of a new run. ``manifest`` has versions, hardware and fingerprints as JSON values.

        ``fill`` writes what the run takes over from another one, which ``manifest`` names (PARENT or INIT_FROM); it is
        called before config.yaml makes the directory a run. Keeps the files of a family outside the package.

        Raises StorageError if ``path`` contains a run or other files, LockedError if it is in use, ConfigError if the
        family cannot be loaded from its copy.
        """
        with storage_errors(path, f"creating run directory {escaped(path.name)}"):
            make_dirs(path)
        with lock_dir(path, blocking=True):
            if fill is not None:
                remove_interrupted_fill(path)
            _refuse_occupied(path)
            digests = keep_family(run.model.family, path)
            kept = {FAMILY: digests} if digests else {}
            atomic_write(path / MANIFEST, dump_manifest({**manifest, **kept, "format": FORMAT}))
            if fill is not None:
                fill(cls(path, run, manifest))
            atomic_write(path / CONFIG, _signed(run, manifest.get(CHANGES, [])))
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Open the run in ``path``.

        Raises CheckpointError if it is missing or if its config, manifest or family is damaged; UnknownFamilyError if
        the family is unknown, or is code that this machine does not trust.
        """
        _require_run(path)
        if not (path / CONFIG).is_file():
            _read_config(path / CONFIG, {})
        try:
            manifest = read_manifest(path)
        except StorageError as error:
            raise CheckpointError(error.message, hint="Restore it from a copy of the run.") from None
        require_format(manifest.get("format"), where=escaped_path(path))
        return cls(path, _read_config(path / CONFIG, manifest), manifest)

    @contextmanager
    def lock(self) -> Generator[None]:
        """Lock the run for this process. Raises LockedError if another process trains it.

        First restores a checkpoint that a killed process was replacing.
        """
        with lock_dir(self.path):
            remove_stale_temps(self.path)
            restore_replaced(self.checkpoints)
            yield

    def with_config(self, run: RunConfig) -> "RunDir":
        """Save a changed config atomically, for a resumed run; return the run directory with it."""
        atomic_write(self.path / CONFIG, _signed(run, self.manifest.get(CHANGES, [])))
        return replace(self, run=run)

    def with_manifest(self, **entries: Any) -> "RunDir":
        """Save changed entries of the manifest atomically; return the run directory with them."""
        manifest = {**self.manifest, **entries}
        if manifest != self.manifest:
            atomic_write(self.path / MANIFEST, dump_manifest(manifest))
        return replace(self, manifest=manifest)

    def recorded_compute(self) -> dict[str, str]:
        """Return how the run computed on a CPU when it started: ``matmul`` and ``kernels``, as far as recorded."""
        environment = self.manifest.get("environment")
        entries = environment if isinstance(environment, dict) else {}
        return {name: entries[name] for name in ("matmul", "kernels") if isinstance(entries.get(name), str)}

    def with_kept_family(self, run: RunConfig) -> RunConfig:
        """Return ``run`` with the kept copy of its family. Raises ConfigError if the files differ from the copy."""
        requested, saved = run.model.family, self.run.model.family
        if not is_external(requested) or not is_external(saved):
            return run
        if family_digests(requested) != self.manifest[FAMILY]:
            raise ConfigError(
                f"Cannot resume with other code: the files of model.family = '{requested}' differ from those in "
                f"{escaped_path(self.path / FAMILY)}.",
                hint="Restore them, or start a new run with another --out.",
            )
        return validate_config(with_sections(run.model_dump(mode="json"), {"model": _with_family(run, saved)}))

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Save a copy of the tokenizer atomically, so that the run directory is enough to generate."""
        target = self.path / "tokenizer"
        with atomic_dir(target, replace=True) as temp, storage_errors(target, "writing the tokenizer"):
            tokenizer.save(temp)

    @property
    def checkpoints(self) -> Path:
        """Directory of the checkpoints."""
        return self.path / CHECKPOINTS

    def steps(self) -> list[int]:
        """Return the steps of all existing checkpoints, valid or not, in ascending order."""
        with storage_errors(self.checkpoints, "reading the checkpoints"):
            names = os.listdir(self.checkpoints) if self.checkpoints.is_dir() else []  # noqa: PTH208 - names, not paths
        return sorted(step for name in names if (step := parse_step(name)) is not None)

    def read_pointer(self, name: str) -> int | None:
        """Return the step that ``latest`` or ``best`` points to; None if there is no such file.

        Raises CheckpointError if it is not the name of a checkpoint. That checkpoint may not exist.
        """
        path = self.path / name
        if not os.path.lexists(path):
            return None
        with storage_errors(path, f"reading {name}"), path.open("rb") as file:
            text = file.read(MAX_POINTER_BYTES + 1).decode("utf-8", "backslashreplace")
        step = parse_step(text.removesuffix("\n"))
        if step is None:
            raise CheckpointError(f"{name} is not the name of a checkpoint: '{escaped(text)}'.")
        return step

    def set_pointer(self, name: str, step: int) -> None:
        """Point ``latest`` or ``best`` to the checkpoint of ``step``."""
        atomic_write(self.path / name, f"{step_name(step)}\n".encode())


def require_empty(path: Path) -> None:
    """Raise StorageError if ``path`` contains a run or other files or cannot be written, before long work for a run.

    ``RunDir.create`` checks again: another process may have written there since.
    """
    require_writable(path, "The run directory")
    if path.is_dir():
        if _has_interrupted_fill(path):
            with lock_dir(path):
                remove_interrupted_fill(path)
        _refuse_occupied(path)
    elif os.path.lexists(path):
        raise StorageError(f"{escaped_path(path)} is a file.", hint="Choose a new or an empty directory for --out.")


def remove_interrupted_fill(path: Path) -> None:
    """Remove what a killed process had written of a run that begins with another one, before it became a run."""
    if _has_interrupted_fill(path):
        remove_stale_temps(path)
        for name in BRANCH_FILES:
            (path / name).unlink(missing_ok=True)
        if (path / CHECKPOINTS).is_dir():
            remove_dir(path / CHECKPOINTS)


def _has_interrupted_fill(path: Path) -> bool:
    try:
        return not (path / CONFIG).exists() and bool({PARENT, INIT_FROM} & set(read_manifest(path)))
    except StorageError:
        return False


def _refuse_occupied(path: Path) -> None:
    """Accept the files of an interrupted ``create``; raise StorageError for a run or any other file."""
    remove_stale_temps(path)
    if (path / CONFIG).exists():
        raise StorageError(
            f"{escaped_path(path)} contains a run already.",
            hint=f"Resume it (fabella resume {quote(escaped_path(path))}), or choose another --out.",
        )
    foreign = sorted(item.name for item in path.iterdir() if item.name not in UNFINISHED)
    if foreign:
        more = f" and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
        raise StorageError(
            f"{escaped_path(path)} is neither empty nor a run: it contains {escaped(foreign[0])}{more}.",
            hint="Choose a new or an empty directory for --out.",
        )


def _require_run(path: Path) -> None:
    shown = escaped_path(path)
    with storage_errors(path, f"reading {escaped(path.name)}"):
        is_dir, exists = path.is_dir(), os.path.lexists(path)
    if is_dir:
        if not (path / CONFIG).is_file():
            known = recognize(path)
            problem = (
                f"is {known.kind}, not a run directory" if known else f"is not a run directory: it has no {CONFIG}"
            )
            raise CheckpointError(f"{shown} {problem}.", hint=_give_a_run(path))
        return
    if not exists:
        raise CheckpointError(f"No run directory at {shown}.", hint=_nearest_run(path))
    if path.name == CONFIG and (path.parent / MANIFEST).is_file():
        run = escaped_path(path.parent)
        raise CheckpointError(f"{shown} is the config of a run, not its directory.", hint=f"Give the run: {run}")
    if known := recognize(path):
        raise CheckpointError(f"{shown} is {known.kind}.", hint=known.advice)
    with storage_errors(path, f"reading {escaped(path.name)}"), path.open("rb") as file:
        pickled = is_pickle(file.read(16))
    if pickled:
        raise CheckpointError(
            f"{shown}: refusing pickle, which can execute code when it is loaded.", hint="Give a run directory."
        )
    raise CheckpointError(f"{shown} is a file, not a run directory.", hint=_nearest_run(path))


def _give_a_run(path: Path) -> str:
    """Return a hint with the runs near a directory that is not a run."""
    known = recognize(path)
    if known is not None:
        return known.advice
    inside = [quote(escaped_path(run)) for run in runs_in(path)[:MAX_LISTED_RUNS]]
    return f"It contains runs: {', '.join(inside)}." if inside else _nearest_run(path)


def _nearest_run(path: Path) -> str:
    """Return a hint with the run of the nearest name, or with the command that trains one."""
    names = [run.name for run in runs_in(path.parent)]
    if str(path) == NAME:
        return TRAIN
    nearest = difflib.get_close_matches(path.name, names, n=1)
    if nearest:
        return f"Did you mean {quote(escaped_path(path.parent / nearest[0]))}?"
    return "Give a run directory. To train a small model in two minutes: fabella quickstart"


def _signed(run: RunConfig, changes: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the config with its sha256. A family outside the package is named by its copy in the run directory.

    ``changes``, the settings that were changed while training, are comments at its beginning.
    """
    model = run.model.model_copy(update={"family": kept_family(run.model.family, FAMILY)})
    comments = [f"# changed {escaped(line, 500)}" for line in describe_changes(changes)]
    text = "".join([*(f"{line}\n" for line in comments), to_yaml(run.model_copy(update={"model": model}))]).encode()
    return text + f"{DIGEST_LINE}{hashlib.sha256(text).hexdigest()}\n".encode()


def _with_family(run: RunConfig, family: str) -> dict[str, Any]:
    return run.model.model_dump(mode="json") | {"family": family}


def _read_config(path: Path, manifest: Mapping[str, Any]) -> RunConfig:
    """Read the config after checking the sha256 in its last line, and its family by the manifest."""
    with storage_errors(path, f"reading {CONFIG}"), path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise CheckpointError(f"{escaped_path(path)} is larger than {MAX_FILE_BYTES:,} bytes, too large for a config.")
    text, line, digest = data.rpartition(DIGEST_LINE.encode())
    if not line or digest.decode("latin-1") != hashlib.sha256(text).hexdigest() + "\n":
        raise CheckpointError(
            f"{escaped_path(path)} was changed after it was written: its lines do not match the sha256 at its end.",
            hint="Restore it. To change settings, pass them to fabella resume, or start a new run from this file.",
        )
    try:
        values = parse_yaml(text.decode(), where=escaped_path(path))
        model = values.get("model")
        if isinstance(model, dict) and isinstance(model.get("family"), str):
            model["family"] = load_kept_family(model["family"], path.parent, manifest)
        return validate_config(values)
    except (ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{escaped_path(path)} is not the config of a run: {escaped(str(error), 1000)}") from None
