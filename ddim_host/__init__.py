"""Run one DDIM diffusion experiment on PyTorch or on Jittor, every part of it a plugin.

Everything that the author of a part writes is imported from here; authors of frameworks import from
`ddim_host.framework` too, and tests from `ddim_host.testing`. All other modules may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from ddim_host.diffusion import NoiseSchedule, strictly_increasing
    from ddim_host.plugin.contracts import (
        DatasetFactory,
        FeatureExtractor,
        FeatureExtractorFactory,
        Loss,
        LossWeighting,
        NoiseScheduleFactory,
        SamplerState,
        TimestepSampler,
        TimestepSamplerFactory,
        TimestepSubset,
    )
    from ddim_host.plugin.data import DataSource, Images, TrainTest
    from ddim_host.system.cache import cache_errors, cache_folder
    from ddim_host.system.download import download
    from ddim_host.system.files import absolute_path, file_errors, locked, write_bytes

__all__ = [
    "DataSource",
    "DatasetFactory",
    "FeatureExtractor",
    "FeatureExtractorFactory",
    "Images",
    "Loss",
    "LossWeighting",
    "NoiseSchedule",
    "NoiseScheduleFactory",
    "SamplerState",
    "TimestepSampler",
    "TimestepSamplerFactory",
    "TimestepSubset",
    "TrainTest",
    "UserError",
    "__version__",
    "absolute_path",
    "cache_errors",
    "cache_folder",
    "download",
    "file_errors",
    "hookimpl",
    "locked",
    "strictly_increasing",
    "write_bytes",
]

__version__ = "0.1.0"

# Looked through when a name is asked for: some import NumPy, and `ddim-host --help` needs none of them.
_MODULES = (
    "ddim_host.system.files",
    "ddim_host.system.cache",
    "ddim_host.system.download",
    "ddim_host.plugin.data",
    "ddim_host.plugin.contracts",
    "ddim_host.diffusion",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
