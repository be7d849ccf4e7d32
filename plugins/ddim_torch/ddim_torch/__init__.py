"""PyTorch for ddim-host.

plugin    the model factory, found through the entry point; imports no torch by itself
model     the waist: training step, prediction, weights in and out
layers    the operations of the U-Net
"""
