"""Run one DDIM diffusion experiment on PyTorch or on Jittor, every part of it a plugin."""

from ddim_host.hookspecs import hookimpl

__all__ = ["__version__", "hookimpl"]

__version__ = "0.1.0"
