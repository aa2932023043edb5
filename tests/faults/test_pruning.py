"""Tests that pruning never removes a checkpoint that is needed, in any order of saves, loads, damage and prunes.

Row A17 of the fault matrix.
"""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fabella.runs.checkpoint import is_complete, load, prune, save, set_best
from fabella.runs.run_dir import RunDir, step_name
from fabella.storage.temp_files import create_temp_dir
from tests.runs import stub

SEQUENCES = 1000
STEPS_PER_SEQUENCE = 6


class Pruning(RuleBasedStateMachine):
    """A state machine over a run directory and the checkpoints that must be in it."""

    folder: RunDir
    keep: int

    @initialize(keep=st.integers(1, 3))
    def begin(self, keep: int) -> None:
        for name in ("latest", "best"):
            (self.folder.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder.checkpoints, ignore_errors=True)
        self.folder.in_use.clear()
        object.__setattr__(self.folder, "run", stub.keeping(keep))
        self.keep = keep
        self.kept_for_good: set[int] = set()
        self.in_flight: list[tuple[Path, int]] = []

    def teardown(self) -> None:
        for _, lock in getattr(self, "in_flight", []):
            os.close(lock)

    @rule(stride=st.integers(-1, 2), keep=st.booleans())
    def save_a_step(self, stride: int, keep: bool) -> None:
        """Save a later step, the same one again, or an earlier one, as after a rollback."""
        step = max(0, (self.folder.read_pointer("latest") or 0) + stride)
        save(self.folder, step, CHECKPOINT, keep=keep)
        self.kept_for_good = {*self.kept_for_good, step} if keep else self.kept_for_good - {step}
        assert self.folder.read_pointer("latest") == step

    @precondition(lambda self: self.folder.steps())
    @rule(data=st.data())
    def choose_the_best(self, data: st.DataObject) -> None:
        set_best(self.folder, data.draw(st.sampled_from(self.folder.steps())))

    @precondition(lambda self: any(is_complete(self.folder, step) for step in self.folder.steps()))
    @rule(data=st.data())
    def resume_from_one(self, data: st.DataObject) -> None:
        self.folder.in_use.clear()  # another process
        complete = [step for step in self.folder.steps() if is_complete(self.folder, step)]
        load(self.folder, data.draw(st.sampled_from(complete)))

    @precondition(lambda self: self.folder.steps())
    @rule(data=st.data())
    def damage_one(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(self.folder.steps()))
        (self.folder.checkpoints / step_name(step) / "manifest.json").unlink(missing_ok=True)
        self.kept_for_good.discard(step)

    @precondition(lambda self: self.folder.checkpoints.is_dir() and len(self.in_flight) < 2)
    @rule(step=st.integers(0, 10))
    def begin_to_write_one(self, step: int) -> None:
        self.in_flight.append(create_temp_dir(self.folder.checkpoints / step_name(step)))

    @rule(keep=st.integers(1, 3))
    def prune_to(self, keep: int) -> None:
        before, complete = self.folder.steps(), {s for s in self.folder.steps() if is_complete(self.folder, s)}
        latest = self.folder.read_pointer("latest")
        removed = prune(self.folder, keep)
        kept = [step for step in before if step in complete and latest is not None and step <= latest][-keep:]
        protected = {latest, self.folder.read_pointer("best"), *self.folder.in_use, *kept, *self.kept_for_good}
        assert not protected & set(removed)
        assert self.folder.steps() == [step for step in before if step not in removed]
        later = [step for step in before if latest is not None and step > latest]
        assert not set(later) & set(removed)
        if len(kept) == keep:  # no older checkpoint remains without a reason
            assert all(step >= kept[0] or step in protected for step in self.folder.steps())

    @invariant()
    def needed_checkpoints_exist(self) -> None:
        steps = self.folder.steps()
        for needed in (self.folder.read_pointer("latest"), self.folder.read_pointer("best"), *self.folder.in_use):
            assert needed is None or needed in steps
        assert self.kept_for_good <= set(steps)
        assert all(temp.is_dir() for temp, _ in self.in_flight)


CHECKPOINT = stub.checkpoint(1)


@pytest.mark.fault("A17", cases=SEQUENCES)
def test_pruning_removes_nothing_that_is_needed(quick_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # These folders need not survive a power cut, and fsync is slow.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    Pruning.folder = stub.folder(quick_path)
    limits = settings(max_examples=SEQUENCES, stateful_step_count=STEPS_PER_SEQUENCE)
    run_state_machine_as_test(Pruning, settings=limits)
