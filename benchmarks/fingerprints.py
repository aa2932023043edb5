"""Compare the results of the present checkout with those of an earlier commit, bit for bit, on one machine.

A change that must not alter behaviour (new names, moved modules) is checked with this: small runs of every family on
both engines, a streamed mixture, two processes, and runs killed in the middle and resumed. Compared are weights and
optimizer moments, state.json, metrics and samples of each run, generated text, and the numbers of an evaluation.

    python benchmarks/fingerprints.py
    python benchmarks/fingerprints.py --only llama --cache FOLDER
    python benchmarks/fingerprints.py --baseline HEAD~3 --output fingerprints.json

Both trees are driven through the command line alone. Cases are written in the present names of settings and options;
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
    PROMPTS,
    SEEDS,
    STEPS,
    Case,
    cases,
    chosen,
    has_former_names,
)
from fingerprint_runs import FailedError, Items, Parts, Runner, Tree, own_stories

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "1c109f2"
CACHE_FORMAT = 1
"""Raise it when a fingerprint is read differently, so that cached ones are computed again"""

# ---------------------------------------------------------------- both sides


@dataclass(slots=True)
class Side:
    """The results of one tree."""

    tree: Tree
    folder: Path
    found: dict[str, Parts] = field(default_factory=dict[str, Parts])
    failed: dict[str, str] = field(default_factory=dict[str, str])

    def run(self, case: Case) -> None:
        """Run one case, and keep its fingerprints or its error."""
        try:
            self.found[case.name] = Runner(self.tree, case, self.folder / case.name).parts()
        except (FailedError, OSError, ValueError, KeyError) as error:
            self.failed[case.name] = f"{type(error).__name__}: {error}"


def machine() -> dict[str, str]:
    """What results may depend on: the processor and the versions of what computes."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    found = {"processor": models[0] if models else platform.processor(), "python": platform.python_version()}
    for package in ("torch", "jax", "jaxlib", "optax", "numpy", "tokenizers", "sentencepiece"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


class Cache:
    """Fingerprints of the baseline, kept between runs of this script."""

    def __init__(self, folder: Path | None, commit: str) -> None:
        self._folder, self._commit = folder, commit

    def _path(self, case: Case) -> Path | None:
        how = [ENVIRONMENT, PROMPTS, SEEDS, GENERATED, EVALUATE, own_stories(), STEPS, KILLED_AFTER, CACHE_FORMAT]
        key = json.dumps([self._commit, machine(), asdict(case), how], sort_keys=True)
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
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A temporary worktree of ``commit``."""
    git("worktree", "add", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        git("worktree", "remove", "--force", str(folder))


def git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


# ---------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the result."""

    name: str
    equal: bool
    before: str
    now: str
    differences: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why the results of this case changed on purpose; empty if they are equal or should be."""
        return "" if self.equal else CHANGED_ON_PURPOSE.get(self.name.partition(":")[0], "")

    def __str__(self) -> str:
        hashes = self.before if self.equal else f"{self.before} {self.now}"
        verdict = "equal" if self.equal else "changed" if self.reason else "DIFFERENT"
        lines = [f"{verdict:<9} {self.name:<40} {hashes}{f'  ({self.reason})' if self.reason else ''}"]
        return "\n".join([*lines, *(f"            {line}" for line in self.differences)])


def digest(items: Items | None) -> str:
    """sha256 over sorted names and values."""
    if items is None:
        return "missing"
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:32]


def compared(name: str, before: Items | None, now: Items | None) -> Comparison:
    """Two fingerprints, with a few of the items that differ."""
    ours, theirs = now or {}, before or {}
    names = [item for item in sorted(set(ours) | set(theirs)) if ours.get(item) != theirs.get(item)]
    shown = [f"{item}: {theirs.get(item, 'missing')[:90]} → {ours.get(item, 'missing')[:90]}" for item in names[:4]]
    more = [f"… and {len(names) - 4} more"] if len(names) > 4 else []
    equal = before is not None and before == now
    return Comparison(name, equal, digest(before), digest(now), (*shown, *more))


def comparisons(all_cases: Sequence[Case], baseline: Side, present: Side) -> Iterator[Comparison]:
    """Case by case, part by part; then runs that were killed against those that were not."""
    for case in all_cases:
        for side, words in ((baseline, "baseline"), (present, "present")):
            if case.name in side.failed:
                reason = (f"failed with the {words} tree: {side.failed[case.name]}",)
                yield Comparison(case.name, False, "", "", reason)
        if case.name in baseline.found and case.name in present.found:
            before, now = baseline.found[case.name], present.found[case.name]
            for part in dict.fromkeys([*before, *now]):
                yield compared(f"{case.name}: {part}", before.get(part), now.get(part))
    for case in all_cases:
        if case.same_as and {case.name, case.same_as} <= set(present.found):
            for part in ("weights", "moments"):
                whole, resumed = present.found[case.same_as][part], present.found[case.name][part]
                yield compared(f"{case.name}: {part} as {case.same_as}", whole, resumed)


def compute(given: argparse.Namespace, all_cases: Sequence[Case], folder: Path) -> tuple[Side, Side]:
    """Run every case on both trees, save what the cache has of the baseline."""
    commit = git("rev-parse", f"{given.baseline}^{{commit}}")
    cache = Cache(given.cache, commit)
    known = {case.name: parts for case in all_cases if (parts := cache.get(case))}
    missing = [case for case in all_cases if case.name not in known]
    former = {"auto": has_former_names(ROOT), "former": True, "present": False}[given.names]
    present = Side(Tree(ROOT, former), folder / "present")
    present.tree.check()
    if not missing:
        baseline = Side(Tree(ROOT, former), folder / "baseline", known)
        run_all([(present, case) for case in all_cases], given.jobs)
        return baseline, present
    with checked_out(commit, folder / "tree") as tree:
        baseline = Side(Tree(tree, has_former_names(tree)), folder / "baseline", known)
        baseline.tree.check()
        work = [(side, case) for case in all_cases for side in (baseline, present)]
        run_all([(side, case) for side, case in work if side is present or case in missing], given.jobs)
    for case in missing:
        if case.name in baseline.found:
            cache.put(case, baseline.found[case.name])
    return baseline, present


def run_all(work: Sequence[tuple[Side, Case]], jobs: int) -> None:
    """Run cases, ``jobs`` of them at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda each: each[0].run(each[1]), work))


def parsed() -> argparse.Namespace:
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
    given = parsed()
    all_cases = chosen(given.only)
    if given.list or not all_cases:
        raise SystemExit("\n".join(case.name for case in cases()))
    began = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="fabella-fingerprints-")).resolve()
    try:
        found = list(comparisons(all_cases, *compute(given, all_cases, folder)))
    finally:
        if given.keep:
            print(f"The runs are in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    for comparison in found:
        print(comparison)
    different = sum(not comparison.equal and not comparison.reason for comparison in found)
    seconds = time.perf_counter() - began
    print(f"{len(found)} comparisons of {len(all_cases)} cases: {different} different, in {seconds:.0f} s")
    if given.output:
        kept = {"baseline": given.baseline, "machine": machine(), "seconds": round(seconds, 1), "different": different}
        result = kept | {"comparisons": [asdict(comparison) for comparison in found]}
        given.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
