"""What can be begun, as the command line calls it."""

from __future__ import annotations

from ddim_host.plugin.registry import Kind

__all__ = ["PLUGIN_KINDS"]

PLUGIN_KINDS = {
    "timestep-sampler": Kind.TIMESTEP_SAMPLER,
    "loss": Kind.LOSS,
    "loss-weighting": Kind.LOSS_WEIGHTING,
    "noise-schedule": Kind.NOISE_SCHEDULE,
    "timestep-subset": Kind.TIMESTEP_SUBSET,
    "dataset": Kind.DATA,
    "feature-extractor": Kind.FEATURES,
    "framework": Kind.MODEL,
}
