"""NumPy as a framework for ddim-host.

tensor    arrays that remember how they came about, and give gradients
layers    the operations that the network consists of
model     everything that the host asks of a framework
plugin    the hooks
"""
