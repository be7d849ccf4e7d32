"""The DDPM U-Net, described once for all frameworks.

    description   layers with their canonical names and sizes
    weights       the arrays that the layers need, and their first values
    network       the computation, over the operations that a framework provides

The architecture is DDPM's (arXiv 2006.11239, appendix B); names and layouts are those of diffusers'
`UNet2DModel`.
"""

from ddim_host.framework.unet.description import (
    GROUP_NORM_EPS,
    Attention,
    Conv,
    GroupNorm,
    Level,
    Linear,
    ResNet,
    UNet,
    UNetSpec,
)
from ddim_host.framework.unet.network import Layers, predict_noise, time_embedding_table
from ddim_host.framework.unet.weights import Parameter, Weights, initial_weights, parameters

__all__ = [
    "GROUP_NORM_EPS",
    "Attention",
    "Conv",
    "GroupNorm",
    "Layers",
    "Level",
    "Linear",
    "Parameter",
    "ResNet",
    "UNet",
    "UNetSpec",
    "Weights",
    "initial_weights",
    "parameters",
    "predict_noise",
    "time_embedding_table",
]
