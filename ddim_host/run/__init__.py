"""Runs: training, sampling and storage of one experiment."""
