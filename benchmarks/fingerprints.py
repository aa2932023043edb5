"""Compare the results of the present checkout with those of an earlier commit, bit for bit, on one machine.

It checks changes that must not change results, such as new names and moved modules: small runs of every family on
both engines, a streamed mixture, two processes, and runs killed in the middle and resumed. Compared are weights and
optimizer moments, state.json, metrics and samples of each run, generated text, and the numbers of an evaluation.

    python benchmarks/fingerprints.py
    python benchmarks/fingerprints.py --only llama --cache FOLDER
    python benchmarks/fingerprints.py --baseline HEAD~3 --output fingerprints.json

Both trees are used only by their command line. Cases have the present names of settings and options;
the tables of fingerprint_cases.py translate them for a tree that has the former ones.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fingerprint_cases import (
    CHANGED_ON_PURPOSE,
    ENVIRONMENT,
    EVALUATE,
    GENERATED,
    KILLED_AFTER,
    PARTS_CHANGED_ON_PURPOSE,
    PROMPTS,
    SEEDS,
    STEPS,
    Case,
    cases,
    has_former_names,
    select_cases,
)
from fingerprint_runs import FailedError, Items, Parts, Runner, Tree, own_stories

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "1c109f2"
CACHE_FORMAT = 1
"""Raise it when fingerprints are read in another way, so that cached ones are computed again."""

# ---------------------------------------------------------------- running


@dataclass(slots=True)
class Side:
    """A tree and its results."""

    tree: Tree
    folder: Path
    found: dict[str, Parts] = field(default_factory=dict[str, Parts])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, case: Case) -> None:
        """Run one case, and store its fingerprints or its error."""
        try:
            self.found[case.name] = Runner(self.tree, case, self.folder / case.name).parts()
        except (FailedError, OSError, ValueError, KeyError) as error:
            self.failed[case.name] = f"{type(error).__name__}: {error}"


def machine() -> dict[str, str]:
    """Return what results may depend on: the processor and the versions of the libraries."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    result = {"processor": models[0] if models else platform.processor(), "python": platform.python_version()}
    for package in ("torch", "jax", "jaxlib", "optax", "numpy", "tokenizers", "sentencepiece"):
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            result[package] = "none"
    return result


class Cache:
    """Fingerprints of the baseline, stored between runs of this script."""

    def __init__(self, folder: Path | None, commit: str) -> None:
        self._folder, self._commit = folder, commit

    def _path(self, case: Case) -> Path | None:
        settings = [ENVIRONMENT, PROMPTS, SEEDS, GENERATED, EVALUATE, own_stories(), STEPS, KILLED_AFTER, CACHE_FORMAT]
        key = json.dumps([self._commit, machine(), asdict(case), settings], sort_keys=True)
        name = f"{case.name}-{self._commit[:12]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
        return self._folder / name if self._folder else None

    def get(self, case: Case) -> Parts | None:
        path = self._path(case)
        return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None

    def put(self, case: Case, parts: Parts) -> None:
        if path := self._path(case):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(parts, indent=1), encoding="utf-8")


@contextmanager
def temporary_worktree(commit: str, folder: Path) -> Iterator[Path]:
    """Create a worktree of ``commit`` for the duration of the block."""
    git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def git(*arguments: str) -> str:
    process = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {process.stderr.strip()}")
    return process.stdout.strip()


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of one comparison."""

    name: str
    equal: bool
    before: str
    now: str
    differences: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """The reason for a change on purpose; empty if the results are, or should be, equal."""
        case, _, part = self.name.partition(": ")
        return "" if self.equal else CHANGED_ON_PURPOSE.get(case, PARTS_CHANGED_ON_PURPOSE.get(part, ""))

    def __str__(self) -> str:
        hashes = self.before if self.equal else f"{self.before} {self.now}"
        verdict = "equal" if self.equal else "changed" if self.reason else "DIFFERENT"
        lines = [f"{verdict:<9} {self.name:<40} {hashes}{f'  ({self.reason})' if self.reason else ''}"]
        return "\n".join([*lines, *(f"            {line}" for line in self.differences)])


def digest(items: Items | None) -> str:
    """Return the start of the SHA-256 of the sorted items."""
    if items is None:
        return "missing"
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:32]


def compare_fingerprints(name: str, before: Items | None, now: Items | None) -> Comparison:
    """Compare two fingerprints, and list a few of the items that differ."""
    now_items, before_items = now or {}, before or {}
    names = [
        item for item in sorted(set(now_items) | set(before_items)) if now_items.get(item) != before_items.get(item)
    ]
    shown = [
        f"{item}: {before_items.get(item, 'missing')[:90]} → {now_items.get(item, 'missing')[:90]}"
        for item in names[:4]
    ]
    more = [f"… and {len(names) - 4} more"] if len(names) > 4 else []
    equal = before is not None and before == now
    return Comparison(name, equal, digest(before), digest(now), (*shown, *more))


def compare_all(all_cases: Sequence[Case], baseline: Side, present: Side) -> Iterator[Comparison]:
    """Compare the trees by case and part, then the killed runs with the uninterrupted ones."""
    for case in all_cases:
        for side, name in ((baseline, "baseline"), (present, "present")):
            if case.name in side.failed:
                reason = (f"failed with the {name} tree: {side.failed[case.name]}",)
                yield Comparison(case.name, False, "", "", reason)
        if case.name in baseline.found and case.name in present.found:
            before, now = baseline.found[case.name], present.found[case.name]
            for part in dict.fromkeys([*before, *now]):
                yield compare_fingerprints(f"{case.name}: {part}", before.get(part), now.get(part))
    for case in all_cases:
        if case.same_as and {case.name, case.same_as} <= set(present.found):
            for part in ("weights", "moments"):
                uninterrupted, resumed = present.found[case.same_as][part], present.found[case.name][part]
                yield compare_fingerprints(f"{case.name} = {case.same_as}: {part}", uninterrupted, resumed)


def compute(options: argparse.Namespace, all_cases: Sequence[Case], folder: Path) -> tuple[Side, Side]:
    """Run every case on both trees, except for cached cases of the baseline."""
    commit = git("rev-parse", f"{options.baseline}^{{commit}}")
    cache = Cache(options.cache, commit)
    known = {case.name: parts for case in all_cases if (parts := cache.get(case))}
    missing = [case for case in all_cases if case.name not in known]
    former = {"auto": has_former_names(ROOT), "former": True, "present": False}[options.names]
    present = Side(Tree(ROOT, former), folder / "present")
    present.tree.check()
    if not missing:
        baseline = Side(Tree(ROOT, former), folder / "baseline", known)
        run_all([(present, case) for case in all_cases], options.jobs)
        return baseline, present
    with temporary_worktree(commit, folder / "tree") as tree:
        baseline = Side(Tree(tree, has_former_names(tree)), folder / "baseline", known)
        baseline.tree.check()
        work = [(side, case) for case in all_cases for side in (baseline, present)]
        run_all([(side, case) for side, case in work if side is present or case in missing], options.jobs)
    for case in missing:
        if case.name in baseline.found:
            cache.put(case, baseline.found[case.name])
    return baseline, present


def run_all(work: Sequence[tuple[Side, Case]], jobs: int) -> None:
    """Run cases, ``jobs`` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda each: each[0].run(each[1]), work))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", default=BASELINE, help=f"commit to compare with; usually {BASELINE}")
    parser.add_argument("--only", default="", help="regular expression of the cases to run")
    parser.add_argument("--list", action="store_true", help="list the cases, and run none")
    parser.add_argument("--cache", type=Path, help="folder in which results of the baseline are kept")
    parser.add_argument("--output", type=Path, help="JSON file for the result")
    parser.add_argument("--keep", action="store_true", help="keep all runs, and print where they are")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="cases at a time")
    parser.add_argument(
        "--names",
        choices=["auto", "former", "present"],
        default="auto",
        help="names of settings that this checkout has; auto: former where src/fabella/config.py exists",
    )
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    all_cases = select_cases(options.only)
    if options.list or not all_cases:
        raise SystemExit("\n".join(case.name for case in cases()))
    start = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fabella-fingerprints-")).resolve()
    try:
        comparisons = list(compare_all(all_cases, *compute(options, all_cases, folder)))
    finally:
        if options.keep:
            print(f"The runs are in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for comparison in comparisons:
        print(comparison)
    different = sum(not comparison.equal and not comparison.reason for comparison in comparisons)
    seconds = time.perf_counter() - start
    print(f"{len(comparisons)} comparisons of {len(all_cases)} cases: {different} different, in {seconds:.0f} s")
    if options.output:
        summary = {
            "baseline": options.baseline,
            "machine": machine(),
            "seconds": round(seconds, 1),
            "different": different,
        }
        result = summary | {"comparisons": [asdict(comparison) for comparison in comparisons]}
        options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
