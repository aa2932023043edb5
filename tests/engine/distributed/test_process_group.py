"""Which process this one is, and how many can share a batch."""

import pytest

from fabella.engine.distributed.process_group import Alone, Place, place_in, require_shareable
from fabella.errors import ConfigError
from tests.training import tiny

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "1",
}  # fmt: skip


def test_without_a_launcher_a_process_is_alone() -> None:
    place = place_in({})
    assert (place, place.first) == (Place(), True)
    assert Alone().agree(2) == 2
    assert Alone().tell("words") == "words"


def test_the_environment_of_torchrun_is_understood() -> None:
    assert place_in(TORCHRUN) == Place(rank=3, size=8, local_rank=1, local_size=2, restarts=1)
    assert str(place_in(TORCHRUN)) == "process 3 of 8"


def test_on_one_machine_local_numbers_need_not_be_given() -> None:
    few = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert place_in(few) == Place(rank=3, size=8, local_rank=3, local_size=8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"MASTER_ADDR": ""}, "The environment has RANK, but no MASTER_ADDR: this process cannot find the others."),
        ({"WORLD_SIZE": ""}, "The environment has RANK, but no WORLD_SIZE"),
        ({"RANK": "8"}, "RANK = 8 is none of the WORLD_SIZE = 8 processes, which count from 0."),
        ({"LOCAL_RANK": "one"}, "The environment's LOCAL_RANK = 'one' is no number."),
    ],
)
def test_half_a_place_is_refused(changes: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        place_in(TORCHRUN | changes)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_a_global_batch_that_divides_is_shared(size: int) -> None:
    require_shareable(tiny.run("training.accumulation=[[0, 2], [5, 4]]").training, size)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (3, "16 windows in each global batch (training.micro_batch 8 times accumulation 2) cannot be dealt evenly to "
            "3 processes. Use 2 processes, or training.micro_batch=9."),
        (32, "16 windows in each global batch (training.micro_batch 8 times accumulation 2) cannot be dealt evenly to "
             "32 processes. Use 8 processes, or training.micro_batch=32."),
    ],
)  # fmt: skip
def test_one_that_does_not_is_refused_with_the_nearest_that_does(size: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_shareable(tiny.run("training.accumulation=[[0, 2], [5, 3]]").training, size)
    assert str(caught.value) == words
