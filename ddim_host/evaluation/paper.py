"""The DDIM paper's scores, and a check that other scores are comparable with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddim_host.evaluation.scores import Ruler, Sampled

FID_WEIGHTS = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""SHA-256 of the published weights of the FID network, `pt_inception-2015-12-05-6726825d.pth`."""

_STEPS = (10, 20, 50, 100, 1000)

PAPER_FIDS: dict[float, dict[int, float]] = {
    eta: dict(zip(_STEPS, fids, strict=True))
    for eta, fids in {
        0.0: (13.36, 6.84, 4.67, 4.16, 4.04),
        0.2: (14.04, 7.11, 4.77, 4.25, 4.09),
        0.5: (16.66, 8.35, 5.25, 4.46, 4.29),
        1.0: (41.07, 18.36, 8.01, 5.78, 4.73),
    }.items()
}
"""FID on CIFAR-10 by eta and number of steps (arXiv 2010.02502, table 1)."""

_NUM_IMAGES = 50_000


def is_cifar10(data: str) -> bool:
    """Return whether a data set, with or without parameters, is CIFAR-10, which the paper evaluates."""
    return data.partition(":")[0] == "cifar10"


def differences_from_the_paper(sampled: Sampled, ruler: Ruler) -> list[str]:
    """List the differences from the protocol of the paper's table; an empty list means comparable scores."""
    real, features = ruler.reference, ruler.features
    same = {
        "the images are not from CIFAR-10": is_cifar10(real.data),
        f"the reference is not the {_NUM_IMAGES:,} training images": (
            (real.half, real.num_images) == ("train", _NUM_IMAGES)
        ),
        "the features are not the FID features": features.fingerprint == FID_WEIGHTS,
        f"N is {sampled.num_images:,}, not {_NUM_IMAGES:,}": sampled.num_images == _NUM_IMAGES,
        "the timestep subset is not quad:span=0.8": sampled.timestep_subset == "quad:span=0.8",
        "the solver is not ddim": sampled.solver == "ddim",
        "x_start was clipped": sampled.clip is None,
        "the weights are not averaged": sampled.weights == "ema",
        "the predictions of several checkpoints are averaged": len(sampled.checkpoint_steps) == 1,
    }
    return [difference for difference, holds in same.items() if not holds]
