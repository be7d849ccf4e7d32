"""All extension points, on one screen.

A plugin imports the marker, `from ddim_host import hookimpl`, and implements any of these functions. Each
returns `{name: part}`, except the last two; `ddim_host.plugin.contracts` defines the parts of each kind. The
first and the last two are for framework plugins only.
"""

# mypy: disable-error-code="empty-body"
# A hook specification is a signature and a docstring; pluggy never calls it.

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ddim_host.framework import interface
    from ddim_host.framework.checks import Check
    from ddim_host.plugin import contracts

PROJECT = "ddim_host"

_Hook = TypeVar("_Hook", bound="Callable[..., object]")

hookspec: Callable[[_Hook], _Hook] = pluggy.HookspecMarker(PROJECT)
hookimpl: Callable[[_Hook], _Hook] = pluggy.HookimplMarker(PROJECT)


@hookspec
def ddim_model_factories() -> Mapping[str, interface.ModelFactory]:
    """Networks: `(spec, device, precision) -> Model`. Every framework provides at least one."""


@hookspec
def ddim_noise_schedules() -> Mapping[str, contracts.NoiseScheduleFactory]:
    """Noise schedules: `(num_train_timesteps) -> betas`, float64 `(T,)`, in (0, 1); the last may be 1."""


@hookspec
def ddim_timestep_samplers() -> Mapping[str, contracts.TimestepSamplerFactory]:
    """Timestep samplers, for training: `(schedule) -> TimestepSampler`."""


@hookspec
def ddim_losses() -> Mapping[str, interface.Loss]:
    """Losses: `(prediction, target) -> (B,)`, unreduced, using operators shared by all frameworks."""


@hookspec
def ddim_loss_weightings() -> Mapping[str, contracts.LossWeighting]:
    """Loss weightings: `(schedule, prediction_type) -> ` float64 `(T,)`, a factor per timestep."""


@hookspec
def ddim_timestep_subsets() -> Mapping[str, contracts.TimestepSubset]:
    """Timestep subsets, for sampling: `(schedule, num_inference_steps) -> ` S increasing timesteps."""


@hookspec
def ddim_solvers() -> Mapping[str, contracts.Solver]:
    """Solvers, for sampling: `(x_t, steps, predict, fresh_noise) -> ` (x, x_start) after each step."""


@hookspec
def ddim_subset_searches() -> Mapping[str, contracts.SubsetSearch]:
    """Subset searches, for `optimize`: `(schedule, teacher, sizes) -> ` timesteps for each size S."""


@hookspec
def ddim_datasets() -> Mapping[str, contracts.DatasetFactory]:
    """Image data sets: `() -> DataSource`, uint8 images split into train and test."""


@hookspec
def ddim_feature_extractors() -> Mapping[str, contracts.FeatureExtractorFactory]:
    """Feature extractors, for evaluation: `() -> (images -> float32 (N, D))`."""


@hookspec
def ddim_observers() -> Mapping[str, contracts.ObserverFactory]:
    """Observers, which receive the events of a run: `() -> Observer`."""


@hookspec
def ddim_machine_checks() -> Sequence[Check]:
    """Check that this machine meets a framework plugin's requirements, for `ddim-host doctor`."""


@hookspec
def ddim_process_groups() -> interface.JoinProcesses:
    """Process groups, which connect the processes of a launcher in a framework: `(device) -> Processes`."""
