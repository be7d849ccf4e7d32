"""One experiment lived through: train, sample, keep."""
