"""NumPy as a framework for ddim-host.

tensor    arrays that record their operations for computing gradients
layers    the operations of the network
model     the host's interface to a framework
plugin    the hooks
"""
