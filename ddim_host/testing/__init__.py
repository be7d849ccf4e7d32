"""Test classes for the authors of parts, one for each kind of part.

    from ddim_host.testing import LossContract
    from my_losses import robust

    class TestRobust(LossContract):
        part = robust

`part` is the callable that the hook provides; `parameters` are values for its keyword-only parameters, if
they differ from the defaults. pytest finds the inherited tests; add your own to the class.
"""

from ddim_host.testing.evaluation import FeatureExtractorContract
from ddim_host.testing.models import ModelFactoryContract, one_batch, tiny_spec
from ddim_host.testing.observation import ObserverContract
from ddim_host.testing.part import PartContract, linear_schedule
from ddim_host.testing.sampling import SolverContract, SubsetSearchContract, TimestepSubsetContract
from ddim_host.testing.training import (
    DatasetContract,
    LossContract,
    LossWeightingContract,
    NoiseScheduleContract,
    TimestepSamplerContract,
)

__all__ = [
    "DatasetContract",
    "FeatureExtractorContract",
    "LossContract",
    "LossWeightingContract",
    "ModelFactoryContract",
    "NoiseScheduleContract",
    "ObserverContract",
    "PartContract",
    "SolverContract",
    "SubsetSearchContract",
    "TimestepSamplerContract",
    "TimestepSubsetContract",
    "linear_schedule",
    "one_batch",
    "tiny_spec",
]
