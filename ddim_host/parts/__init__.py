"""The built-in parts of the host.

Noise schedules, loss weightings, timestep subsets, a subset search, solvers, data sets and feature
extractors.

This module is an ordinary parts plugin, discovered through the same entry point as any other.
"""

from ddim_host.diffusion import solvers
from ddim_host.parts import loss_weightings, noise_schedules, subset_searches, timestep_subsets
from ddim_host.parts.datasets import cifar10, digits, fashion_mnist, images, mnist
from ddim_host.parts.feature_extractors import CifarCNN, DigitsMLP
from ddim_host.plugin.contracts import (
    DatasetFactory,
    FeatureExtractorFactory,
    LossWeighting,
    NoiseScheduleFactory,
    Solver,
    SubsetSearch,
    TimestepSubset,
)
from ddim_host.plugin.hookspecs import hookimpl

__all__: list[str] = []


@hookimpl
def ddim_noise_schedules() -> dict[str, NoiseScheduleFactory]:
    """`linear` (DDPM), `cosine` (improved DDPM), `quad`, `sigmoid` (the DDIM paper's code) and `explicit`."""
    return {
        "linear": noise_schedules.linear,
        "cosine": noise_schedules.cosine,
        "quad": noise_schedules.quad,
        "sigmoid": noise_schedules.sigmoid,
        # `betas` deliberately has no default: the schedule cannot be called without it.
        "explicit": noise_schedules.explicit,  # type: ignore[dict-item]
    }


@hookimpl
def ddim_loss_weightings() -> dict[str, LossWeighting]:
    """`none` (the DDPM objective), `min_snr` and `p2`."""
    return {"none": loss_weightings.none, "min_snr": loss_weightings.min_snr, "p2": loss_weightings.p2}


@hookimpl
def ddim_timestep_subsets() -> dict[str, TimestepSubset]:
    """`linear`, `quad`, `cosine`, `leading`, `trailing`, `explicit` (your own list) and `optimized`."""
    return {
        "linear": timestep_subsets.linear,
        "quad": timestep_subsets.quad,
        "cosine": timestep_subsets.cosine,
        "leading": timestep_subsets.leading,
        "trailing": timestep_subsets.trailing,
        # `t` deliberately has no default: the subset cannot be called without it.
        "explicit": timestep_subsets.explicit,  # type: ignore[dict-item]
        "optimized": timestep_subsets.optimized,
    }


@hookimpl
def ddim_solvers() -> dict[str, Solver]:
    """`ddim`, `dpmpp_2m` (DPM-Solver++), `ipndm`, `unipc` and `heun` (two calls per step)."""
    return {
        "ddim": solvers.ddim,
        "dpmpp_2m": solvers.dpmpp_2m,
        "ipndm": solvers.ipndm,
        "unipc": solvers.unipc,
        "heun": solvers.heun,
    }


@hookimpl
def ddim_subset_searches() -> dict[str, SubsetSearch]:
    """`dynamic_programming`: the shortest path over the errors of a teacher's jumps."""
    return {"dynamic_programming": subset_searches.dynamic_programming}


@hookimpl
def ddim_datasets() -> dict[str, DatasetFactory]:
    """`digits` (built in); `mnist`, `fashion_mnist`, `cifar10` (official files); `images` (your own)."""
    return {
        "digits": digits,
        "mnist": mnist,
        "fashion_mnist": fashion_mnist,
        "cifar10": cifar10,
        "images": images,
    }


@hookimpl
def ddim_feature_extractors() -> dict[str, FeatureExtractorFactory]:
    """`digits_mlp` and `cifar_cnn` (built in); `ddim-torch` provides the features of FID."""
    return {"digits_mlp": DigitsMLP, "cifar_cnn": CifarCNN}
