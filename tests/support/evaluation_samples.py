"""Fictitious scores shared by tests."""

from __future__ import annotations

from ddim_host.evaluation.scores import NoiseFloor, RealImages, Ruler, Sampled, Score, Seconds
from ddim_host.evaluation.statistics import Measures, MeasureSettings
from ddim_host.evaluation.worker import FeatureSpace

SPACE = FeatureSpace("digits_mlp", "digits_mlp", "ddim-host", "0.1.0", "ab" * 32, 128)
TRAIN = RealImages("digits", "train", 1500, "cd" * 32)
TEST = RealImages("digits", "test", 297, "ef" * 32)
RULER = Ruler(SPACE, TRAIN, MeasureSettings())
SAMPLED = Sampled(
    num_images=4000,
    seed=0,
    eta=0.0,
    timesteps=(0, 499, 999),
    timestep_subset="linear",
    solver="ddim",
    clip=1.0,
    checkpoint="latest",
    checkpoint_steps=(1500,),
    weights="ema",
    plugin="torch",
    device="cpu",
    precision="fp32",
)
FLOOR = NoiseFloor(TEST, RULER, Measures(4.27, 0.2, 0.01, 0.77, 0.75), ())


def scored(
    sampled: Sampled = SAMPLED, frechet: float = 1.0, *, ruler: Ruler = RULER, warnings: tuple[str, ...] = ()
) -> Score:
    measures = Measures(frechet, 0.0123, 0.001, 0.75, 0.5)
    return Score(
        sampled,
        ruler,
        measures,
        Seconds(12.5, 0.5, 6.25),
        len(sampled.timesteps),
        128,
        warnings,
        {"ddim-host": "0.1.0"},
    )
