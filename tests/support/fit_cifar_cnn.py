"""Fit the classifier behind the features `cifar_cnn`.

python -m tests.support.fit_cifar_cnn CIFAR_FOLDER FILE.safetensors

The folder contains `train/CLASS/` and `test/CLASS/` with CIFAR-10's images, as files that Pillow can read.
On one core with bfloat16 instructions, shared with other work, it took 18 minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy
import torch
from torch import nn
from torch.nn import functional

from tests.support.cifar_folder import labelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

EPOCHS = 8
BATCH_SIZE = 128
_SEED = 0
_WIDTHS = (32, 64, 128)
_SHIFT = 4
_NATURAL = 0.25
"""Share of the images that keep their colours."""


class _Conv(nn.Module):
    """A 3 x 3 convolution with batch normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normalised: torch.Tensor = self.norm(self.conv(x))
        return normalised

    def folded(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the kernel `(3, 3, inputs, outputs)` and the bias, with the normalisation folded in."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias, mean, variance, kernel = (
            tensor.detach().double().numpy()
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var, self.conv.weight)
        )
        scale = weight / np.sqrt(variance + norm.eps)
        return (kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0), bias - mean * scale


class CifarNet(nn.Module):
    """The network of the features `cifar_cnn`, and a linear layer for the ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Conv(3, _WIDTHS[0])
        self.down = nn.ModuleList()
        self.first = nn.ModuleList()
        self.second = nn.ModuleList()
        inputs = _WIDTHS[0]
        for width in _WIDTHS:
            self.down.append(_Conv(inputs, width, stride=2))
            self.first.append(_Conv(width, width))
            self.second.append(_Conv(width, width))
            inputs = width
        self.head = nn.Linear(inputs, 10)

    def means(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the mean of each channel after each of the three stages."""
        means = []
        x = functional.relu(self.stem(x))
        for down, first, second in zip(self.down, self.first, self.second, strict=True):
            x = functional.relu(down(x))
            x = functional.relu(x + second(functional.relu(first(x))))
            means.append(x.mean((2, 3)))
        return means

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.means(x)[-1])
        return logits


def as_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return pixels in [-1, 1], `(N, 3, H, W)`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    return pixels.contiguous(memory_format=torch.channels_last)


def _augmented(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Flip half of the images, and shift each by up to four pixels."""
    size = images.shape[1]
    padded = np.pad(images, ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0)), mode="reflect")
    shifts = rng.integers(0, 2 * _SHIFT + 1, (len(images), 2))
    flips = rng.random(len(images)) < 0.5
    found = np.empty_like(images)
    for index, ((down, across), flip) in enumerate(zip(shifts, flips, strict=True)):
        crop = padded[index, down : down + size, across : across + size]
        found[index] = crop[:, ::-1] if flip else crop
    return _recoloured(found, rng)


def _recoloured(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change saturation, contrast and the level of each channel.

    Early in training, diffusion networks draw shapes long before they draw likely colours. A classifier
    trained only on natural colours reacts to unnatural ones more strongly than to noise.
    """
    shape = (len(images), 1, 1, 1)
    x = images.astype(np.float32)
    grey = x.mean(axis=3, keepdims=True)
    x = grey + (x - grey) * np.exp(rng.uniform(-1.0, 1.2, shape)).astype(np.float32)
    middle = x.mean(axis=(1, 2, 3), keepdims=True)
    x = middle + (x - middle) * np.exp(rng.uniform(-0.8, 0.8, shape)).astype(np.float32)
    x += rng.normal(0.0, 40.0, (len(images), 1, 1, 3)).astype(np.float32)
    natural = rng.random(shape) < _NATURAL
    return np.where(natural, images, np.clip(np.rint(x), 0, 255)).astype(np.uint8)


def _batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    order = rng.permutation(count)
    for first in range(0, count - BATCH_SIZE + 1, BATCH_SIZE):
        yield order[first : first + BATCH_SIZE]


def fit(images: NDArray[np.uint8], labels: NDArray[np.int64], epochs: int = EPOCHS) -> CifarNet:
    """Train with SGD and one cycle of the learning rate."""
    torch.manual_seed(_SEED)
    rng = np.random.default_rng(_SEED)
    network = CifarNet().to(memory_format=torch.channels_last)
    steps = epochs * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps, pct_start=0.25)
    for epoch in range(epochs):
        network.train()
        for chosen in _batches(len(images), rng):
            with torch.autocast("cpu", torch.bfloat16):  # half the time
                logits = network(as_input(_augmented(images[chosen], rng)))
            wanted = torch.from_numpy(labels[chosen])
            loss = functional.cross_entropy(logits.float(), wanted, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
    return network.eval()


@torch.inference_mode()
def accuracy(network: CifarNet, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Return the fraction of correctly classified images."""
    right = 0
    for first in range(0, len(images), 500):
        predicted = network(as_input(images[first : first + 500])).argmax(1).numpy()
        right += int((predicted == labels[first : first + 500]).sum())
    return right / len(images)


@torch.inference_mode()
def weights(network: CifarNet, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float16 | np.float32]]:
    """Return the stored arrays: convolutions in half precision, and scale and mean of each feature."""
    stored: dict[str, NDArray[np.float16 | np.float32]] = {}
    layers = {"stem": network.stem}
    for stage in range(len(_WIDTHS)):
        for name in ("down", "first", "second"):
            layers[f"{name}{stage + 1}"] = getattr(network, name)[stage]
    for name, layer in layers.items():
        kernel, bias = layer.folded()
        # C order, because safetensors writes the memory and ignores strides.
        stored[f"{name}.weight"] = kernel.astype(np.float16, order="C")
        stored[f"{name}.bias"] = bias.astype(np.float32)
    means = [
        torch.cat(network.means(as_input(images[first : first + 500])), 1).numpy()
        for first in range(0, len(images), 500)
    ]
    features = np.concatenate(means).astype(np.float64)
    deviation = features.std(0)
    # A constant channel has no information; scaled up, it would be rounding noise.
    alive = deviation > 1e-4
    stored["scale"] = np.where(alive, 1.0 / np.where(alive, deviation, 1.0), 0.0).astype(np.float32)
    stored["mean"] = features.mean(0).astype(np.float32)
    return stored


def main(folder: str, path: str) -> None:
    train, test = (labelled(Path(folder) / half) for half in ("train", "test"))
    network = fit(*train)
    print(f"recognises {accuracy(network, *test):.2%} of the test images")
    safetensors.numpy.save_file(weights(network, train[0]), path)


if __name__ == "__main__":
    main(*sys.argv[1:])
