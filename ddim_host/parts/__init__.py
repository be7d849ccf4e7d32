"""The parts that come with the host: noise schedules, timestep subsets, data sets.

This module is an ordinary parts plugin, found through the same entry point as everybody else's.
"""

from ddim_host.contracts import DatasetFactory, LossWeighting, NoiseScheduleFactory, TimestepSubset
from ddim_host.hookspecs import hookimpl
from ddim_host.parts import loss_weightings, noise_schedules, timestep_subsets
from ddim_host.parts.datasets import cifar10, digits, images

__all__: list[str] = []


@hookimpl
def ddim_noise_schedules() -> dict[str, NoiseScheduleFactory]:
    """`linear` (DDPM) and `cosine` (improved DDPM)."""
    return {"linear": noise_schedules.linear, "cosine": noise_schedules.cosine}


@hookimpl
def ddim_loss_weightings() -> dict[str, LossWeighting]:
    """`none`: every timestep counts the same, the DDPM objective."""
    return {"none": loss_weightings.none}


@hookimpl
def ddim_timestep_subsets() -> dict[str, TimestepSubset]:
    """`linear`, `quad`, `cosine` and `leading`."""
    return {
        "linear": timestep_subsets.linear,
        "quad": timestep_subsets.quad,
        "cosine": timestep_subsets.cosine,
        "leading": timestep_subsets.leading,
    }


@hookimpl
def ddim_datasets() -> dict[str, DatasetFactory]:
    """`digits` (embedded), `cifar10` (the official archive) and `images` (a folder or an archive)."""
    return {"digits": digits, "cifar10": cifar10, "images": images}
