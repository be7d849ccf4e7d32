"""The compute-intensive operations of the network on the CPU, in C++, shared by all frameworks.

The frameworks' own convolutions are about as fast as direct multiplication allows; Winograd's method, in
`source/winograd.h`, needs a quarter of the multiplications. `source/group_norm.h` reads and writes each image
as few times as possible. The sources are compiled for this machine's processor on first use; see
`library.cpu_kernels`.
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
