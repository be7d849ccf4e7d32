"""PyTorch for ddim-host.

plugin    the model factory, found through the entry point; imports no torch by itself
model     the waist: training step, prediction, weights in and out
layers    the operations of the U-Net
features  the feature extractors, found through an entry point of its own; imports no torch by itself
inception, inception_weights
          the network of FID, and where its weights come from
"""
