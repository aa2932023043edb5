"""Tests which global batches the ranks can divide, and the process group of a single process."""

import pytest

from fabella.engine.distributed.process_group import SingleProcess, require_divisible
from fabella.errors import ConfigError
from tests.training import tiny


def test_a_single_process_gets_its_own_votes_and_messages() -> None:
    assert SingleProcess().poll_max(2) == 2
    assert SingleProcess().broadcast("message") == "message"


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16])
def test_a_divisible_global_batch_is_accepted(size: int) -> None:
    require_divisible(tiny.run("training.gradient_accumulation=[[0, 2], [5, 4]]").training, size)


@pytest.mark.parametrize(
    ("size", "expected_message"),
    [
        (3, "A global batch of 16 (training.micro_batch_size 8 times gradient_accumulation 2) is not a multiple of "
            "3 processes. Use 2 processes, or training.micro_batch_size=9."),
        (32, "A global batch of 16 (training.micro_batch_size 8 times gradient_accumulation 2) is not a multiple of "
             "32 processes. Use 8 processes, or training.micro_batch_size=32."),
    ],
)  # fmt: skip
def test_an_indivisible_global_batch_is_refused_with_the_nearest_valid_sizes(size: int, expected_message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_divisible(tiny.run("training.gradient_accumulation=[[0, 2], [5, 3]]").training, size)
    assert str(caught.value) == expected_message
