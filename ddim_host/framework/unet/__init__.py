"""The DDPM U-Net, described once for all frameworks.

    spec               the specification of a network
    description        layers with their canonical names and sizes
    weights            the parameters of the layers, and their initial values
    network            the forward pass, in terms of operations that a framework provides
    diffusers_config   conversion to and from diffusers' configuration and its old weight names

The architecture is DDPM's (arXiv 2006.11239, appendix B); the names and layouts of parameters are those of
diffusers' `UNet2DModel`.
"""

from ddim_host.framework.unet.description import (
    Attention,
    Conv,
    GroupNorm,
    Level,
    Linear,
    ResNet,
    UNet,
)
from ddim_host.framework.unet.diffusers_config import (
    diffusers_config,
    spec_from_diffusers,
    with_canonical_names,
)
from ddim_host.framework.unet.network import Layers, run_unet, time_embedding_table
from ddim_host.framework.unet.spec import UNetSpec
from ddim_host.framework.unet.weights import Parameter, Weights, initial_weights, parameters

__all__ = [
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
    "diffusers_config",
    "initial_weights",
    "parameters",
    "run_unet",
    "spec_from_diffusers",
    "time_embedding_table",
    "with_canonical_names",
]
