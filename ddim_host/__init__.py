"""Run one DDIM diffusion experiment on PyTorch or Jittor; every part of it is a plugin.

Authors of parts import everything from here. Authors of frameworks also import from `ddim_host.framework`,
and plugin tests import from `ddim_host.testing`. All other modules are private and may move.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ddim_host.errors import UserError
from ddim_host.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from ddim_host.diffusion import (
        DDIMStep,
        NoiseSchedule,
        PredictionType,
        Teacher,
        epsilon_error_ratio,
        strictly_increasing,
    )
    from ddim_host.framework.interface import Loss
    from ddim_host.plugin.contracts import (
        DatasetFactory,
        FeatureExtractor,
        FeatureExtractorFactory,
        LossWeighting,
        NoiseScheduleFactory,
        Observer,
        ObserverFactory,
        SamplerState,
        Solver,
        SubsetSearch,
        TimestepSampler,
        TimestepSamplerFactory,
        TimestepSubset,
    )
    from ddim_host.plugin.data import DataSource, Images, TrainTest
    from ddim_host.plugin.observation import DrawnGrid, Ending, EpochMetrics, ObservedRun, ObservedScore
    from ddim_host.system.cache import cache_errors, cache_folder
    from ddim_host.system.download import download
    from ddim_host.system.files import absolute_path, file_errors, locked, write_bytes

__all__ = [
    "DDIMStep",
    "DataSource",
    "DatasetFactory",
    "DrawnGrid",
    "Ending",
    "EpochMetrics",
    "FeatureExtractor",
    "FeatureExtractorFactory",
    "Images",
    "Loss",
    "LossWeighting",
    "NoiseSchedule",
    "NoiseScheduleFactory",
    "ObservedRun",
    "ObservedScore",
    "Observer",
    "ObserverFactory",
    "PredictionType",
    "SamplerState",
    "Solver",
    "SubsetSearch",
    "Teacher",
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
    "epsilon_error_ratio",
    "file_errors",
    "hookimpl",
    "locked",
    "strictly_increasing",
    "write_bytes",
]

__version__ = "0.1.0"

# Modules are imported when a name is first used: some need NumPy, which `ddim-host --help` should not load.
_MODULES = {
    "absolute_path": "system.files",
    "cache_errors": "system.cache",
    "cache_folder": "system.cache",
    "DataSource": "plugin.data",
    "DDIMStep": "diffusion",
    "download": "system.download",
    "DrawnGrid": "plugin.observation",
    "Ending": "plugin.observation",
    "epsilon_error_ratio": "diffusion",
    "EpochMetrics": "plugin.observation",
    "file_errors": "system.files",
    "Images": "plugin.data",
    "locked": "system.files",
    "Loss": "framework.interface",
    "NoiseSchedule": "diffusion",
    "ObservedRun": "plugin.observation",
    "ObservedScore": "plugin.observation",
    "PredictionType": "diffusion",
    "strictly_increasing": "diffusion",
    "Teacher": "diffusion",
    "TrainTest": "plugin.data",
    "write_bytes": "system.files",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"ddim_host.{_MODULES.get(name, 'plugin.contracts')}")
    globals()[name] = value = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
