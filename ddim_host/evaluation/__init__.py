"""Measuring sample quality in a feature space, in NumPy float64; knows no framework.

moments    mean and covariance of features, gathered batch by batch
distances  Fréchet distance, kernel distance, precision and recall
"""

from ddim_host.evaluation.distances import (
    KernelDistance,
    frechet_distance,
    kernel_distance,
    precision_recall,
    squared_mmd,
)
from ddim_host.evaluation.moments import Moments

__all__ = [
    "KernelDistance",
    "Moments",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "squared_mmd",
]
