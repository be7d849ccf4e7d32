"""Processes that share an experiment: their rows, sums, and values that must agree in all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.framework.processes import (
    ALONE,
    any_of,
    gather,
    require_same_checkpoint,
    require_same_images,
    share,
)
from ddim_host.system.launch import Launch, launched
from tests.support.fakes import FakeProcess


@given(total=st.integers(0, 100), count=st.integers(1, 12))
def test_shares_are_a_balanced_partition(total: int, count: int) -> None:
    shares = [share(FakeProcess(rank, count), total) for rank in range(count)]
    assert [row for rows in shares for row in rows] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(total=st.integers(0, 50), count=st.integers(1, 6), data=st.data())
def test_gather_puts_every_share_in_its_place(total: int, count: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, count - 1))
    whole = np.arange(2 * total, dtype=np.int64).reshape(total, 2)
    mine = share(FakeProcess(rank, count), total)
    others = whole.astype(np.float32)
    others[mine.start : mine.stop] = 0.0
    gathered = gather(FakeProcess(rank, count, others), whole[mine.start : mine.stop], total)
    assert gathered.dtype == whole.dtype
    np.testing.assert_array_equal(gathered, whole)


def test_single_process_keeps_all_rows() -> None:
    rows = np.arange(3.0)
    assert share(ALONE, 3) == range(3)
    assert gather(ALONE, rows, 3) is rows


def test_rank_and_size_are_read_from_the_environment() -> None:
    assert launched({}) == Launch(0, 1, "")
    assert launched({"RANK": "1", "WORLD_SIZE": "3"}) == Launch(1, 3, "torchrun")
    mpi = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    assert launched(mpi) == Launch(0, 2, "mpirun")
    assert launched({**mpi, "RANK": "0", "WORLD_SIZE": "1"}) == Launch(0, 2, "mpirun")
    assert not Launch(1, 3, "torchrun").is_first


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", ""), ("0", "0")])
def test_inconsistent_environment_is_an_error(rank: str, size: str) -> None:
    with pytest.raises(UserError, match="no valid rank and number of processes"):
        launched({"RANK": rank, "WORLD_SIZE": size})


@given(st.lists(st.booleans(), min_size=1, max_size=4), st.lists(st.booleans(), min_size=4, max_size=4))
def test_any_of_is_true_if_true_in_any_process(mine: list[bool], others: list[bool]) -> None:
    given = np.array(others[: len(mine)], dtype=np.float32)
    answers = any_of(FakeProcess(0, 2, given), mine)
    assert answers == [one or other for one, other in zip(mine, others, strict=False)]


def test_processes_with_different_checkpoints_are_refused() -> None:
    """A run in training may save a new checkpoint between the reads of two processes."""
    require_same_checkpoint(ALONE, 2**40 + 5)
    halves = np.array([2**16, 5], dtype=np.float32)
    same, other = (
        np.stack([0 * halves, halves]),
        np.stack([0 * halves, halves + np.array([0, 1], dtype=np.float32)]),
    )
    require_same_checkpoint(FakeProcess(0, 2, same), 2**40 + 5)
    with pytest.raises(UserError, match="different checkpoints"):
        require_same_checkpoint(FakeProcess(0, 2, other.astype(np.float32)), 2**40 + 5)


def test_processes_with_different_images_are_refused() -> None:
    """Each machine may have its own copy of the images."""
    require_same_images(ALONE, 2**40 + 5)
    halves = np.array([2**16, 5], dtype=np.float32)
    others = np.stack([0 * halves, halves])
    require_same_images(FakeProcess(0, 2, others), 2**40 + 5)
    with pytest.raises(UserError, match="read different images"):
        require_same_images(FakeProcess(0, 2, others + np.float32(1.0)), 2**40 + 5)
