"""Tests that rank and world size are read from the environment of a launcher."""

import pytest

from fabella.engine.rank import RankInfo, rank_from_env
from fabella.errors import ConfigError

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500", "TORCHELASTIC_RESTART_COUNT": "1",
}  # fmt: skip


def test_without_a_launcher_the_world_size_is_one() -> None:
    rank_info = rank_from_env({})
    assert (rank_info, rank_info.is_main) == (RankInfo(), True)


def test_the_environment_of_torchrun_is_understood() -> None:
    assert rank_from_env(TORCHRUN) == RankInfo(rank=3, world_size=8, local_rank=1, local_world_size=2, restart_count=1)
    assert str(rank_from_env(TORCHRUN)) == "process 3 of 8"


def test_on_one_machine_local_numbers_need_not_be_given() -> None:
    without_local_ranks = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert rank_from_env(without_local_ranks) == RankInfo(rank=3, world_size=8, local_rank=3, local_world_size=8)


@pytest.mark.parametrize(
    ("changes", "expected_message"),
    [
        ({"MASTER_ADDR": ""}, "The environment has RANK, but no MASTER_ADDR: the ranks cannot connect."),
        ({"WORLD_SIZE": ""}, "The environment has RANK, but no WORLD_SIZE"),
        ({"RANK": "8"}, "RANK = 8 is not valid: with WORLD_SIZE = 8 it must be from 0 to 7."),
        (
            {"LOCAL_RANK": "one"},
            "Cannot parse the environment variable LOCAL_RANK = 'one': it must be an integer from 0.",
        ),
    ],
)
def test_an_incomplete_or_invalid_environment_is_an_error(changes: dict[str, str], expected_message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rank_from_env(TORCHRUN | changes)
    assert str(caught.value).startswith(expected_message)
