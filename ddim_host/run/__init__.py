"""The life of one experiment: train, sample, store."""
