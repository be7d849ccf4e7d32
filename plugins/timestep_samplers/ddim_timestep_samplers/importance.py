"""A timestep sampler that adapts to the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ddim_host import UserError
from ddim_timestep_samplers.stateless import Uniform

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ddim_host import NoiseSchedule, SamplerState

# A longer history would rarely be full, and its table would not fit in memory.
_MAX_HISTORY = 1000
# The largest absolute value of a loss: losses are float32, and their squares must not overflow in float64.
_MAX_LOSS = float(np.finfo(np.float32).max)
# float64, the dtype of all state, represents every integer up to this one.
_MAX_COUNT = 2.0**53


class Importance:
    """Draw timesteps with large losses more often (improved DDPM, arXiv 2102.09672, section 3.3).

    `p_t` is proportional to the root mean square of the last losses at t, mixed with a small share of the
    uniform distribution so that no timestep is neglected. The weights `1 / (T p_t)` correct the bias: the
    objective is that of uniform timesteps, but its estimate has a lower variance. Timesteps are uniform, with
    weight 1, until each has a full history, and also while all stored losses are zero.

    Args:
        schedule: The noise schedule of the run.
        history: The number of most recent losses stored for each timestep, from 1 to 1000.
        uniform_share: Share of the uniform distribution, in [0, 1]. At 0, a timestep whose losses were all
            zero is never drawn again.

    Raises:
        UserError: A parameter is out of range.
    """

    needs_losses = True

    def __init__(self, schedule: NoiseSchedule, *, history: int = 10, uniform_share: float = 0.001) -> None:
        if not 1 <= history <= _MAX_HISTORY:
            raise UserError(
                f"parameter 'history' of timestep sampler 'importance' must be an integer from 1 "
                f"to {_MAX_HISTORY}, not {history}",
            )
        if not 0.0 <= uniform_share <= 1.0:
            raise UserError(
                f"parameter 'uniform_share' of timestep sampler 'importance' must be a number in "
                f"[0, 1], not {uniform_share}",
            )
        self._history = history
        self._uniform_share = uniform_share
        self._uniform = Uniform(schedule)
        timesteps = schedule.num_train_timesteps
        # Loss number n at timestep t is in column n modulo history, until a newer one overwrites it.
        self._losses = np.zeros((timesteps, history), dtype=np.float64)
        self._counts = np.zeros(timesteps, dtype=np.int64)

    def sample(
        self, batch_size: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return timesteps int64 `(B,)` drawn from p, and weights float32 `(B,)`: 1 / (T p_t)."""
        probabilities = self._probabilities()
        if probabilities is None:
            return self._uniform.sample(batch_size, rng)
        timesteps = len(probabilities)
        t = rng.choice(timesteps, size=batch_size, p=probabilities).astype(np.int64, copy=False)
        return t, (1.0 / (timesteps * probabilities[t])).astype(np.float32)

    def update(self, t: NDArray[np.int64], losses: NDArray[np.float32]) -> None:
        """Store the losses `(B,)` of the timesteps `t`, in order."""
        for timestep, loss in zip(t.tolist(), losses.tolist(), strict=True):
            # A loss that is not finite stops training with its own error. If it were stored, it would
            # first make the probabilities undefined, and the error would blame the sampler.
            if abs(loss) <= _MAX_LOSS:
                self._losses[timestep, self._counts[timestep] % self._history] = loss
                self._counts[timestep] += 1

    def state_dict(self) -> SamplerState:
        """Return the stored losses `(T, history)`, and the number of losses of each timestep `(T,)`."""
        return {"losses": self._losses.copy(), "counts": self._counts.astype(np.float64)}

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Restore a state returned by `state_dict`.

        Raises:
            UserError: The state, which comes from a file, does not fit this sampler.
        """
        if state.keys() != {"losses", "counts"}:
            raise _damaged(f"it contains {', '.join(sorted(state)) or 'nothing'}, not counts and losses")
        losses, counts = state["losses"], state["counts"]
        for name, array, shape in (
            ("losses", losses, self._losses.shape),
            ("counts", counts, self._counts.shape),
        ):
            if array.dtype != np.float64 or array.shape != shape:
                raise _damaged(f"its {name} are {array.dtype} {array.shape}, not float64 {shape}")
        if not np.all(np.abs(losses) <= _MAX_LOSS):
            raise _damaged("a loss is not a finite float32 number")
        if not np.all((counts >= 0.0) & (counts <= _MAX_COUNT) & (np.trunc(counts) == counts)):
            raise _damaged("a count is not a non-negative integer")
        self._losses = losses.copy()
        self._counts = counts.astype(np.int64)

    def _probabilities(self) -> NDArray[np.float64] | None:
        """Return `p_t`, float64 `(T,)`, or None while it is uniform."""
        if self._counts.min() < self._history:
            return None
        sizes = np.sqrt(np.mean(self._losses**2, axis=1))
        total = sizes.sum()
        if total == 0.0:
            return None
        probabilities: NDArray[np.float64] = (1.0 - self._uniform_share) * sizes / total
        return probabilities + self._uniform_share / len(sizes)


def _damaged(why: str) -> UserError:
    return UserError("the stored state does not fit timestep sampler 'importance'", why=why)
