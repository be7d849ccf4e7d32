"""Interface to frameworks such as PyTorch and Jittor; framework plugins import it.

base        base classes for models and layers: code shared by all frameworks
interface   the host's interface to a framework: `Model`, and its inputs and outputs
checks      checks of a machine, as shown by `ddim-host doctor`
precision   the choice of precision on a CPU
processes   several processes that run one experiment together
unet        the network, written once in terms of a framework's operations
kernels     compute-intensive CPU operations in C++, shared by all frameworks
"""

from ddim_host.framework.base import Dropout, LayersBase, ModelBase
from ddim_host.framework.checks import Check, bf16_check
from ddim_host.framework.interface import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    Batch,
    Device,
    JoinProcesses,
    Loss,
    Model,
    ModelFactory,
    Precision,
    TrainingState,
    WhichWeights,
)
from ddim_host.framework.kernels import (
    DECLARATIONS,
    KERNELS_VARIABLE,
    Kernels,
    cached,
    cpu_kernels,
    transform_channels,
)
from ddim_host.framework.precision import PRECISION_VARIABLE, cpu_precision
from ddim_host.framework.processes import Processes
from ddim_host.framework.unet import (
    Attention,
    Conv,
    GroupNorm,
    Layers,
    Linear,
    UNet,
    UNetSpec,
    Weights,
    initial_weights,
    parameters,
    run_unet,
    time_embedding_table,
)
from ddim_host.system.launch import launched
from ddim_host.system.machine import process_peak_memory_bytes, processor_flags, processor_name

__all__ = [
    "ADAM_BETA1",
    "ADAM_BETA2",
    "ADAM_EPSILON",
    "DECLARATIONS",
    "KERNELS_VARIABLE",
    "PRECISION_VARIABLE",
    "Attention",
    "Batch",
    "Check",
    "Conv",
    "Device",
    "Dropout",
    "GroupNorm",
    "JoinProcesses",
    "Kernels",
    "Layers",
    "LayersBase",
    "Linear",
    "Loss",
    "Model",
    "ModelBase",
    "ModelFactory",
    "Precision",
    "Processes",
    "TrainingState",
    "UNet",
    "UNetSpec",
    "Weights",
    "WhichWeights",
    "bf16_check",
    "cached",
    "cpu_kernels",
    "cpu_precision",
    "initial_weights",
    "launched",
    "parameters",
    "process_peak_memory_bytes",
    "processor_flags",
    "processor_name",
    "run_unet",
    "time_embedding_table",
    "transform_channels",
]
