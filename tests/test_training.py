"""The two curves that training follows; the loop itself is tested through the command."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.training import ema_decay_at, learning_rate_at

LR = st.floats(1e-6, 1)


@given(LR, st.integers(1, 10_000))
def test_the_learning_rate_rises_in_a_straight_line_and_stays(lr: float, warmup_steps: int) -> None:
    rates = [learning_rate_at(step, lr=lr, warmup_steps=warmup_steps) for step in range(0, warmup_steps, 97)]
    assert rates[0] == pytest.approx(lr / warmup_steps), "the first step must not be lost"
    for number, rate in enumerate(rates):
        assert rate == pytest.approx(lr * (97 * number + 1) / warmup_steps)
    for step in (warmup_steps - 1, warmup_steps, 10 * warmup_steps):
        assert learning_rate_at(step, lr=lr, warmup_steps=warmup_steps) == lr


@given(LR, st.integers(0, 10_000))
def test_without_warmup_the_learning_rate_is_constant(lr: float, step: int) -> None:
    assert learning_rate_at(step, lr=lr, warmup_steps=0) == lr


@given(st.integers(0, 100_000), st.floats(0, 1))
def test_the_decay_never_exceeds_what_was_asked_for(step: int, ema_decay: float) -> None:
    decay = ema_decay_at(step, ema_decay=ema_decay)
    assert 0 <= decay <= ema_decay
    assert decay <= ema_decay_at(step + 1, ema_decay=ema_decay)


@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (8, 0.5), (89, 90 / 99), (100_000, 0.9999)])
def test_the_decay_warms_up(step: int, decay: float) -> None:
    assert ema_decay_at(step, ema_decay=0.9999) == pytest.approx(decay)


def test_a_short_run_forgets_its_random_first_weights() -> None:
    """At a constant 0.9999 they would be 99 % of the average after 100 steps."""
    left = math.prod(ema_decay_at(step, ema_decay=0.9999) for step in range(100))
    assert left < 1e-6
