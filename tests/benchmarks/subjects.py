"""The measured networks, each behind the same three calls.

Every call waits for the device to finish and includes everything that a user waits for: a training step draws
its batch and noise, clips the gradient, and updates the optimizer and the averaged weights.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.framework.unet import initial_weights
from ddim_host.run.batches import TrainingBatches
from ddim_host.run.sampling import Denoiser, Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.plugin.data import Images
    from ddim_host.plugin.parameters import Value

__all__ = [
    "FRAMEWORKS",
    "INFERENCE_ONLY",
    "SIZES",
    "DenoisingDiffusion",
    "Diffusers",
    "OpenVino",
    "Subject",
    "subject",
]

FRAMEWORKS = (
    "torch",
    "torch-bf16",
    "jittor",
    "jittor-bf16",
    "diffusers",
    "diffusers-bf16",
    "diffusers-bf16-compiled",
    "openvino",
    "denoising-diffusion-pytorch",
)
"""`diffusers-bf16` uses autocast, channels last and a fused optimizer; `-compiled` also compiles."""

INFERENCE_ONLY = ("openvino",)

SIZES = ("digits", "cifar10")

_SHAPES = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}
_BATCH_SIZES = {"digits": 128, "cifar10": 32}
_NUM_IMAGES = 64
_NUM_STEPS = 20


class Subject(Protocol):
    """A network, ready to be called.

    Attributes:
        batch_size: Images in a training step and in a network call.
        description: The device and the precision.
    """

    batch_size: int
    description: dict[str, str]

    def training_step(self) -> None:
        """Run one training step, from drawing the batch to averaging the weights."""

    def training_steps(self, count: int) -> None:
        """Run steps without waiting for the device between them."""

    def network_call(self) -> None:
        """Predict once, without gradient."""

    def sample(self) -> None:
        """Sample 64 images in 20 steps with eta 0, and copy them to the host."""


def subject(framework: str, size: str, batch_size: int | None = None) -> Subject:
    """Return the network of a framework in one of the sizes.

    Args:
        framework: One of `FRAMEWORKS`.
        size: `digits` (1.0 million parameters) or `cifar10` (35,746,307).
        batch_size: Images in a training step and in a network call; None for the size's default.
    """
    batch_size = batch_size or _BATCH_SIZES[size]
    if framework.startswith("diffusers"):
        return Diffusers(
            size, batch_size=batch_size, bf16="bf16" in framework, compiled="compiled" in framework
        )
    if framework == "openvino":
        return OpenVino(size, batch_size=batch_size)
    if framework == "denoising-diffusion-pytorch":
        return DenoisingDiffusion(size)
    return _Host(framework, size, batch_size)


class _Host:
    """This project on one framework, trained and sampled as in `run`."""

    def __init__(self, framework: str, size: str, batch_size: int) -> None:
        plugin, _, precision = framework.partition("-")
        self.batch_size = batch_size
        images = _images(size)
        settings: dict[str, Value] = {
            "batch_size": self.batch_size,
            "steps": _NUM_STEPS,
            "precision": precision or "fp32",
        }
        self._experiment: Experiment = assemble(Request(plugin, settings=settings), image_shape=_SHAPES[size])
        self._batches = TrainingBatches(
            images,
            self._experiment.schedule,
            self._experiment.sampler,
            self._experiment.weighting,
            batch_size=self.batch_size,
            random_flip=size != "digits",
            seed=0,
        )
        self._model = self._experiment.build_model()
        weights = initial_weights(self._experiment.unet, 0)
        self._model.load_weights(weights, "raw")
        self._model.load_weights(weights, "ema")
        self._step = 0
        height, width, channels = _SHAPES[size]
        noise = np.random.default_rng(0).standard_normal((self.batch_size, channels, height, width))
        self._x_t = self._model.to_device(noise.astype(np.float32))
        # Shared by all calls: only the first one warms up, with an extra network call.
        self._sampler = Sampler(
            Denoiser(((self._model, 1.0),), "ema"),
            self._experiment.sampling_plan().steps,
            image_shape=self._experiment.image_shape,
            seed=0,
            limit=1.0,
        )
        self.description = {
            "device": self._model.device_name,
            "precision": self._model.precision,
        }

    def training_step(self) -> None:
        self.training_steps(1)

    def training_steps(self, count: int) -> None:
        for _ in range(count):
            self._model.train_step(
                self._batches.batch(self._step),
                self._experiment.loss,
                lr=2e-4,
                ema_decay=0.9999,
                max_grad_norm=1.0,
            )
            self._step += 1
        self._model.synchronize()

    def network_call(self) -> None:
        self._model.to_host(self._model.predict(self._x_t, 500, which="ema"))

    def sample(self) -> None:
        for _ in self._sampler.images(_NUM_IMAGES, batch_size=_NUM_IMAGES):
            pass


class Diffusers:
    """The same network in diffusers, trained as in its examples and sampled by its pipeline.

    Args:
        size: `digits` or `cifar10`.
        batch_size: Images in a training step and in a network call; None for the size's default.
        images: Training images; noise if None.
        lr: Learning rate.
        ema_decay: Decay of the averaged weights.
        bf16: Use the fast settings: bf16 autocast, channels last, TF32 and a fused optimizer.
        compiled: Compile the network with torch.compile.
    """

    def __init__(
        self,
        size: str,
        *,
        batch_size: int | None = None,
        images: Images | None = None,
        lr: float = 2e-4,
        ema_decay: float = 0.9999,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        # One framework per process: PyTorch is imported only if it is measured.
        import torch  # noqa: PLC0415
        from diffusers.models.unets.unet_2d import UNet2DModel  # noqa: PLC0415
        from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline  # noqa: PLC0415
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # noqa: PLC0415
        from diffusers.training_utils import EMAModel  # noqa: PLC0415

        small = size == "digits"
        levels = 2 if small else 4
        attends = [level == 1 for level in range(levels)]
        self.batch_size = batch_size or _BATCH_SIZES[size]
        self._torch: Any = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._images = _images(size) if images is None else images
        self._bf16 = bf16
        if bf16:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.benchmark = True
        self._unet = UNet2DModel(
            sample_size=_SHAPES[size][0],
            in_channels=_SHAPES[size][2],
            out_channels=_SHAPES[size][2],
            block_out_channels=(32, 64) if small else (128, 256, 256, 256),
            down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
            up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in attends[::-1]),
            layers_per_block=2,
            attention_head_dim=None,
            norm_num_groups=8 if small else 32,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            norm_eps=1e-6,
            dropout=0.0 if small else 0.1,
        ).to(self._device)
        if bf16:
            self._unet.to(memory_format=torch.channels_last)
        self._scheduler = DDIMScheduler()
        make_pipeline: Any = DDIMPipeline  # it is only partly typed
        self._pipeline = make_pipeline(self._unet, self._scheduler)
        self._pipeline.set_progress_bar_config(disable=True)
        if compiled:
            self._unet.compile()
        self._optimizer = torch.optim.Adam(self._unet.parameters(), lr=lr, fused=bf16)
        self._ema = EMAModel(self._unet.parameters(), decay=ema_decay, foreach=bf16)
        self._rng = np.random.default_rng(0)
        self._x_t = torch.randn(self.batch_size, *self._images.shape[1:], device=self._device)
        self._x_t = self._x_t.permute(0, 3, 1, 2).contiguous()
        self.description = {
            "device": torch.cuda.get_device_name() if self._device == "cuda" else "cpu",
            "precision": "bf16" if bf16 else "fp32",
        }

    def training_step(self) -> None:
        self._enqueue_step().item()

    def training_steps(self, count: int) -> None:
        losses = [self._enqueue_step() for _ in range(count)]
        self._torch.stack(losses).cpu()

    def _enqueue_step(self) -> Any:
        torch = self._torch
        self._unet.train()
        chosen = self._images[self._rng.integers(len(self._images), size=self.batch_size)]
        clean = torch.from_numpy(chosen.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).to(self._device)
        noise = torch.randn_like(clean)
        t = torch.randint(0, 1000, (self.batch_size,), device=self._device)
        noisy = self._scheduler.add_noise(clean, noise, t)
        with self._autocast():
            predicted = self._unet(noisy, t).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._unet.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._ema.step(self._unet.parameters())
        return loss.detach()

    def _autocast(self) -> Any:
        return self._torch.autocast(self._device, dtype=self._torch.bfloat16, enabled=self._bf16)

    def network_call(self) -> None:
        self._unet.eval()
        with self._torch.no_grad(), self._autocast():
            self._unet(self._x_t, 500).sample.cpu()

    def sample(self) -> None:
        self.draw(_NUM_IMAGES, _NUM_STEPS)

    def draw(self, num_images: int, num_steps: int) -> NDArray[np.float32]:
        """Return images in [0, 1], `(N, H, W, C)`."""
        self._unet.eval()
        with self._autocast():
            output = self._pipeline(
                batch_size=num_images, num_inference_steps=num_steps, eta=0.0, output_type="np"
            )
        images: NDArray[np.float32] = output.images
        return images

    def load_average(self) -> None:
        """Load the averaged weights into the network, until `load_raw`."""
        self._ema.store(self._unet.parameters())
        self._ema.copy_to(self._unet.parameters())

    def load_raw(self) -> None:
        """Restore the raw weights."""
        self._ema.restore(self._unet.parameters())


class OpenVino(Diffusers):
    """The same network in OpenVINO, which only samples, on a CPU; the pipeline is that of diffusers.

    OpenVINO chooses the precision: the fastest one that the processor has instructions for.

    Args:
        size: `digits` or `cifar10`.
        batch_size: Images in a network call; None for the default of the size.
    """

    def __init__(self, size: str, *, batch_size: int | None = None) -> None:
        super().__init__(size, batch_size=batch_size)
        sys.path.insert(0, str(Path(sys.prefix) / "peers"))
        import openvino  # noqa: PLC0415 - see `Diffusers`

        torch = self._torch
        forward = self._unet.forward
        self._unet.eval()
        self._unet.forward = lambda x_t, t: forward(x_t, t, return_dict=False)[0]
        with torch.no_grad():
            converted = openvino.convert_model(
                self._unet.cpu(), example_input=(self._x_t.cpu(), torch.tensor(500.0))
            )
        self._compiled = openvino.compile_model(
            converted, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        )
        self._unet.forward = self._predict
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        self.description = {"device": "cpu", "precision": precision.to_string()}

    def _predict(self, x_t: Any, t: Any, **_: Any) -> Any:
        predicted = self._compiled([x_t.cpu().numpy(), np.float32(t)])[0]
        return SimpleNamespace(sample=self._torch.from_numpy(predicted).to(x_t.device))

    def training_step(self) -> None:
        self.training_steps(1)

    def training_steps(self, count: int) -> None:
        raise NotImplementedError(f"OpenVINO cannot take {count} training steps; it only samples")


class DenoisingDiffusion:
    """The network of denoising-diffusion-pytorch in the same widths, trained as in its `Trainer`.

    The network differs: on CIFAR-10 it has 28.5 million parameters, other blocks and other attention. Its
    average is updated every tenth step.
    """

    def __init__(self, size: str) -> None:
        import torch  # noqa: PLC0415 - see `Diffusers`

        sys.path.insert(0, str(Path(sys.prefix) / "peers"))
        declare_torchvision_operators(torch)
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet  # noqa: PLC0415
        from ema_pytorch import EMA  # noqa: PLC0415

        small = size == "digits"
        height, _, channels = _SHAPES[size]
        self._torch: Any = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size = _BATCH_SIZES[size]
        self._images = _images(size)
        self._unet = Unet(
            dim=32 if small else 128,
            dim_mults=(1, 2) if small else (1, 2, 2, 2),
            full_attn=(False, True) if small else (False, True, False, False),
            channels=channels,
            dropout=0.0 if small else 0.1,
            flash_attn=False,
        )
        self._diffusion = GaussianDiffusion(
            self._unet,
            image_size=height,
            timesteps=1000,
            sampling_timesteps=_NUM_STEPS,
            objective="pred_noise",
            beta_schedule="linear",
        ).to(self._device)
        self._optimizer = torch.optim.Adam(self._diffusion.parameters(), lr=2e-4, betas=(0.9, 0.99))
        self._ema = EMA(self._diffusion, beta=0.9999, update_every=10)
        self._rng = np.random.default_rng(0)
        self._x_t = torch.randn(self.batch_size, channels, height, height, device=self._device)
        count = sum(parameter.numel() for parameter in self._unet.parameters())
        self.description = {"device": self._device, "precision": "fp32", "parameters": f"{count:,}"}

    def training_step(self) -> None:
        self.training_steps(1)

    def training_steps(self, count: int) -> None:
        for _ in range(count):
            loss = self._enqueue_step()
        loss.item()

    def _enqueue_step(self) -> Any:
        torch = self._torch
        self._diffusion.train()
        chosen = self._images[self._rng.integers(len(self._images), size=self.batch_size)]
        clean = torch.from_numpy(chosen.transpose(0, 3, 1, 2) / np.float32(255)).to(self._device)
        loss = self._diffusion(clean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._diffusion.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._ema.update()
        return loss

    def network_call(self) -> None:
        self._diffusion.eval()
        with self._torch.no_grad():
            t = self._torch.full((self.batch_size,), 500, device=self._device)
            self._unet(self._x_t, t).cpu()

    def sample(self) -> None:
        self._diffusion.eval()
        self._diffusion.sample(batch_size=_NUM_IMAGES).cpu()


@functools.cache
def declare_torchvision_operators(torch: Any) -> None:
    """Declare two operators without which torchvision does not load beside a CPU build of torch."""
    for name in ("nms", "qnms"):
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        torch.library.define(f"torchvision::{name}", schema)


def _images(size: str) -> NDArray[np.uint8]:
    """Return images of noise: their content does not affect the time."""
    return np.random.default_rng(1).integers(0, 256, (512, *_SHAPES[size]), dtype=np.uint8)
