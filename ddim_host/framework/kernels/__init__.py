"""The heavy operations of the network for the CPU, in C++, once for all frameworks.

The frameworks' own convolutions are about as fast as multiplying everything out allows; `source/winograd.h`
needs a quarter of the multiplications. `source/group_norm.h` reads and writes each image as seldom as it can.
The sources are compiled for the processor at hand when they are first needed; see `library.cpu_kernels`.
"""

from ddim_host.framework.kernels.layers import cached, transform_channels
from ddim_host.framework.kernels.library import (
    DECLARATIONS,
    KERNELS_VARIABLE,
    Kernels,
    cpu_kernels,
    load_kernels,
)

__all__ = [
    "DECLARATIONS",
    "KERNELS_VARIABLE",
    "Kernels",
    "cached",
    "cpu_kernels",
    "load_kernels",
    "transform_channels",
]
