"""Timestep samplers, which draw the timestep of each image of a training batch.

stateless     uniform and antithetic, which ignore the losses
importance    draws timesteps with large losses more often
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddim_host import hookimpl
from ddim_timestep_samplers.importance import Importance
from ddim_timestep_samplers.stateless import Antithetic, Uniform

if TYPE_CHECKING:
    from ddim_host import TimestepSamplerFactory

__all__ = ["Antithetic", "Importance", "Uniform"]


@hookimpl
def ddim_timestep_samplers() -> dict[str, TimestepSamplerFactory]:
    """`uniform` (DDPM), `antithetic` (the DDIM paper's code) and `importance` (improved DDPM)."""
    return {"uniform": Uniform, "antithetic": Antithetic, "importance": Importance}
