"""The GPU kernels compared with PyTorch's operations and the host's kernels; interpreted without a GPU."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ddim_host.framework import cpu_kernels
from tests.support.repository import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("triton", reason="Triton is not installed")
kernels = importlib.import_module("ddim_torch.triton_kernels")
# Triton's interpreter converts arrays of one element to numbers.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")
EPS = 1e-3
"""The `eps` of group norms, large enough to have a visible effect."""
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Images, channels, pixels of an edge, groups: powers of two and others, one program and several, a last chunk
# that is not full, and more than one tile in a chunk.
SIZES = [(2, 32, 4, 8), (3, 24, 4, 2), (2, 12, 6, 4), (1, 8, 20, 2)]
TILES = {"whole": (16384, 2048, 8), "split": (64, 64, 64), "several tiles": (64, 128, 2)}


@pytest.fixture(params=TILES)
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, split, chunks = TILES[request.param]
    monkeypatch.setattr(kernels, "_WHOLE_TILE", whole)
    monkeypatch.setattr(kernels, "_SPLIT_TILE", split)
    monkeypatch.setattr(kernels, "_MOST_CHUNKS", chunks)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return images that are not centred, to expose cancellation in the variance."""
    x = torch.randn(shape) * 2 + 3
    return x.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def close(found: Tensor, expected: Tensor, *, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found.float(), expected.float(), rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("silu", "shifted"), [(True, True), (True, False), (False, False)])
def test_group_norm_and_its_gradients(size: tuple[int, ...], silu: bool, shifted: bool) -> None:
    batch, channels, edge, groups = size
    x = images(batch, channels, edge, edge).requires_grad_()
    weight, bias = torch.randn(2, channels, device=DEVICE).unbind()
    weight.requires_grad_()
    bias.requires_grad_()
    added = torch.randn(batch, channels, device=DEVICE, requires_grad=True) if shifted else None
    whole = x if added is None else x + added[:, :, None, None]
    expected = functional.group_norm(whole, groups, weight, bias, EPS)
    expected = functional.silu(expected) if silu else expected
    grad_y = torch.randn_like(expected)
    wanted = [x, weight, bias] if added is None else [x, weight, bias, added]
    gradients = torch.autograd.grad(expected, wanted, grad_y)

    constants = x.detach(), weight.detach(), bias.detach()
    shift = None if added is None else added.detach()
    y, statistics = kernels.group_norm(*constants, groups, EPS, silu=silu, added=shift)
    close(y, expected)
    of_images = torch.full((batch, 2 * channels), torch.nan, device=DEVICE)
    columns = of_images[:, :channels], of_images[:, channels:]
    grad_x, grad_added = kernels.group_norm_grad(
        *constants, statistics, grad_y, *columns, silu=silu, added=shift
    )
    found = [grad_x, columns[0].sum(0), columns[1].sum(0), grad_added]
    for one, right in zip(found, gradients, strict=False):
        close(one, right, tolerance=5e-4)


@pytest.mark.usefixtures("tiles")
def test_group_norm_in_bf16_rounds_only_at_the_ends() -> None:
    x = images(2, 24, 6, 6, dtype=torch.bfloat16)
    weight, bias = torch.randn(2, 24, device=DEVICE).unbind()
    y, _ = kernels.group_norm(x, weight, bias, 4, EPS, silu=True)
    assert y.dtype == torch.bfloat16
    exact = functional.silu(functional.group_norm(x.float(), 4, weight, bias, EPS))
    close(y, exact.to(torch.bfloat16), tolerance=1e-2)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(
    ("seed", "first", "probability"),
    [
        (0, 1600, 0.3),
        (1, 1600, 0.3),
        (2**63 - 2, 1600, 0.3),
        (2, 837774400, 0.1),  # the 652nd element is between 0.1 in float32 and in float64
    ],
)
def test_dropout_mask_equals_that_of_the_host_kernels(seed: int, first: int, probability: float) -> None:
    native = cpu_kernels()
    if native is None:
        pytest.skip("there are no kernels for this processor")
    x = images(2, 8, 10, 10)
    weight, bias = torch.zeros(8, device=DEVICE), torch.ones(8, device=DEVICE)
    layer = 3
    dropped = kernels.Dropped(torch.tensor(seed, device=DEVICE), layer, first, probability)
    y, _ = kernels.group_norm(x, weight, bias, 2, EPS, silu=False, dropped=dropped)
    ones, expected = np.ones(1600, dtype=np.float32), np.empty(1600, dtype=np.float32)
    native.dropout(ones.ctypes.data, expected.ctypes.data, 1600, first, seed + layer, probability, False)
    np.testing.assert_allclose(y.permute(0, 2, 3, 1).flatten().cpu(), expected, rtol=1e-6)
    alone = kernels.dropout(torch.ones_like(x), dropped)
    np.testing.assert_allclose(alone.permute(0, 2, 3, 1).flatten().cpu(), expected, rtol=1e-6)


def test_dropout_mask_is_the_same_in_the_backward_pass() -> None:
    x, grad_y = images(2, 8, 4, 4), torch.ones(2, 8, 4, 4, device=DEVICE)
    grad_y = grad_y.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.zeros(8, device=DEVICE), torch.ones(8, device=DEVICE)
    dropped = kernels.Dropped(torch.tensor(5, device=DEVICE), 0, 0, 0.5)
    y, statistics = kernels.group_norm(x, weight, bias, 2, EPS, silu=False, dropped=dropped)
    of_images = torch.empty((2, 16), device=DEVICE)
    columns = of_images[:, :8], of_images[:, 8:]
    kernels.group_norm_grad(x, weight, bias, statistics, grad_y, *columns, silu=False, dropped=dropped)
    close(of_images[:, 8:], y.sum((2, 3)))


@pytest.mark.parametrize("with_residual", [True, False])
def test_sums_are_added_in_place(with_residual: bool) -> None:
    x, bias = images(2, 12, 5, 5), torch.randn(12, device=DEVICE)
    residual = images(2, 12, 5, 5) if with_residual else None
    expected = x + bias[:, None, None] + (0 if residual is None else residual)
    assert kernels.add_(x, bias, residual) is x
    close(x, expected)


@pytest.mark.slow
@pytest.mark.process
def test_kernels_compile_for_a_gpu_without_one(environment: dict[str, str]) -> None:
    environment = {name: value for name, value in environment.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.support.compile_kernels"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"^_\w+_kernel", done.stdout, re.MULTILINE)) == {
        name for name in vars(kernels) if name.endswith("_kernel")
    }
