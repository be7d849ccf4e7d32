"""Jittor for ddim-host.

plugin         the model factory, found through the entry point; imports no Jittor by itself
environment    importing Jittor so that it always works
machine, cuda  what it needs on this machine, for it and for `ddim-host doctor`
sources, patches
               the sources that its core is compiled from: the installed ones, or a patched copy
cuda13         CUDA 13 and cuDNN 9, on request
laying         folders that are made once
compiling, first_compile
               compiling its core: the process that waits, and the script that compiles
model          `Model`: training step, prediction, weights in and out
layers, attention
               the operations of the U-Net in Jittor
kernel_layers, kernel_operators
               the same on the host's kernels, and these kernels as operators of Jittor
processes      joining the processes that MPI started
"""
