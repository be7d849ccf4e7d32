"""Jittor for ddim-host.

plugin         the model factory, found through the entry point; imports no Jittor by itself
environment    importing Jittor so that it always works
model          the waist: training step, prediction, weights in and out
layers         the operations of the U-Net
"""
