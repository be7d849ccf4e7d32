"""Values computed ahead of their use: correct in any order, with no thread left behind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.run.lookahead import Lookahead

if TYPE_CHECKING:
    from collections.abc import Iterator


def square(number: int) -> int:
    return number * number


@pytest.fixture
def no_thread_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@given(st.integers(0, 3), st.integers(0, 12), st.lists(st.integers(0, 15), max_size=10))
def test_values_are_correct_in_any_order(depth: int, end: int, numbers: list[int]) -> None:
    values = Lookahead(square, depth=depth, end=end)
    assert [values(number) for number in numbers] == [square(number) for number in numbers]
    values.close()


def asked_by(depth: int, end: int) -> tuple[list[int], Lookahead[int]]:
    asked: list[int] = []

    def remember(number: int) -> int:
        asked.append(number)
        return number

    return asked, Lookahead(remember, depth=depth, end=end)


@pytest.mark.usefixtures("no_thread_left")
def test_next_values_are_computed_once_and_not_beyond_the_end() -> None:
    asked, values = asked_by(depth=2, end=5)
    for number in range(5):
        assert values(number) == number
    values.close()
    assert asked == [0, 1, 2, 3, 4]


def test_without_depth_nothing_is_computed_ahead() -> None:
    asked, values = asked_by(depth=0, end=5)
    values(1)
    assert asked == [1]


@pytest.mark.usefixtures("no_thread_left")
def test_error_is_raised_for_its_own_value() -> None:
    def fail_at_two(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    values = Lookahead(fail_at_two, depth=3, end=9)
    assert [values(0), values(1)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        values(2)
    assert values(3) == 3
    values.close()


@pytest.mark.usefixtures("no_thread_left")
def test_closing_drops_pending_values() -> None:
    going_on = threading.Event()
    asked: list[int] = []

    def wait(number: int) -> int:
        asked.append(number)
        if number:
            going_on.wait(10)
        return number

    values = Lookahead(wait, depth=4, end=9)
    values(0)
    going_on.set()
    values.close()
    assert len(asked) < 6
