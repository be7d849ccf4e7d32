"""Without a GPU, Triton interprets its kernels: it must be told before the first one is read."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
