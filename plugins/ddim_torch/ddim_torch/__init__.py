"""PyTorch for ddim-host.

plugin         the model factory, found through the entry point; imports no torch by itself
model, adam    `Model`: training step, prediction, weights in and out; the optimizer
layers         the operations of the U-Net in PyTorch
kernel_layers  the same on the host's kernels
processes      joining the processes that torchrun started
features       the feature extractors, found through an entry point of its own; imports no torch by itself
inception, inception_weights
               the network of FID, and where its weights come from
"""
