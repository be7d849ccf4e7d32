"""Jittor support for ddim-host.

plugin         the model factory, discovered through the entry point; does not import Jittor itself
environment    importing Jittor reliably
machine, cuda  requirements of this machine, for the import and for `ddim-host doctor`
sources, patches
               the sources of Jittor's core: the installed ones, or a patched copy
cuda13         CUDA 13 and cuDNN 9, on request
laying         folders that are created once
compiling, first_compile
               compiling the core: the parent process, and the script that compiles
model          `Model`: training step, prediction, loading and returning weights
layers, attention
               the operations of the U-Net in Jittor
kernel_layers, kernel_operators
               the same with the host's kernels, which are wrapped as Jittor operators
processes      connecting processes started by MPI
"""
