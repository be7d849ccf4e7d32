"""PyTorch support for ddim-host.

plugin         the model factory, discovered through the entry point; does not import torch itself
model, adam    `Model`: training step, prediction, loading and returning weights; the optimizer
layers         the operations of the U-Net in PyTorch
kernel_layers  the same with the host's kernels
processes      connecting processes started by torchrun
features       the feature extractors, with their own entry point; does not import torch itself
inception, inception_weights
               the FID network, and the source of its weights
"""
