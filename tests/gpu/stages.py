"""The stages of the check; each adds verdicts and figures to its findings as soon as it has them."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.framework.unet import initial_weights
from ddim_host.plugin.parameters import PartChoice
from ddim_host.plugin.registry import Kind
from ddim_host.run.batches import TrainingBatches
from ddim_host.run.sampling import Denoiser, Sampler
from tests.benchmarks.in_turn import waiting
from tests.benchmarks.subjects import subject

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from ddim_host.experiment.assembly import Experiment
    from ddim_host.framework.interface import Loss, Model, WhichWeights
    from tests.benchmarks.in_turn import Waiting
    from tests.benchmarks.subjects import Subject
    from tests.gpu.findings import Findings

_FLOPS_OF_A_CALL = 12.44e9
"""FLOPs of the CIFAR-10 network for one image; a training step needs three times as many."""


@dataclass(frozen=True)
class Options:
    """Options of the check.

    Attributes:
        out: Folder of the results.
        device: `cuda`, or `cpu` to test the check itself.
        tiny: Use the smallest sizes.
        images: A folder of images to train on.
        minutes: Minutes of training on them.
    """

    out: Path
    device: str
    tiny: bool
    images: Path | None
    minutes: float

    def number(self, whole: int, tiny: int) -> int:
        """Return `tiny` if the smallest sizes are used, otherwise `whole`."""
        return tiny if self.tiny else whole


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        run: Adds verdicts and figures.
        seconds: Time limit in seconds.
    """

    run: Callable[[Options, Findings], None]
    seconds: float


# --- The machine --------------------------------------------------------------------------------------------


def machine(options: Options, findings: Findings) -> None:
    """Record names and versions, and measure the two rates that bound everything else."""
    import torch  # noqa: PLC0415 - one framework per process, imported only if measured

    findings.figure("torch", torch.__version__)
    findings.figure("NumPy", np.__version__)
    if options.device == "cuda":
        findings.figure("GPU", torch.cuda.get_device_name())
        cudnn: Any = torch.backends.cudnn
        findings.figure("CUDA, cuDNN", f"{torch.version.cuda}, {cudnn.version()}")
    size = options.number(8192, 64)
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(size, size, device=options.device, dtype=dtype)
        seconds = _seconds(lambda: a @ a, options)  # noqa: B023 - called at once
        findings.figure(f"{dtype} product of {size} x {size}", f"{2 * size**3 / seconds / 1e12:.0f} TFLOP/s")
    for channels, pixels in ((128, 32), (256, 16)):
        count = options.number(128, 1)
        x = torch.randn(count, channels, pixels, pixels, device=options.device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        w = torch.randn(channels, channels, 3, 3, device=options.device, dtype=torch.bfloat16)
        w = w.contiguous(memory_format=torch.channels_last)
        seconds = _seconds(lambda: torch.nn.functional.conv2d(x, w, padding=1), options)  # noqa: B023
        rate = 2 * 9 * channels**2 * pixels**2 * count / seconds / 1e12
        findings.figure(
            f"3 x 3 convolution, {channels} channels, {pixels} x {pixels}, {count} images",
            f"{rate:.0f} TFLOP/s",
        )
    big = torch.zeros(options.number(2**30, 2**10), device=options.device, dtype=torch.uint8)
    other = torch.empty_like(big)
    seconds = _seconds(lambda: other.copy_(big), options)
    findings.figure("copy, bytes read and written", f"{2 * len(big) / seconds / 1e12:.2f} TB/s")


def _seconds(call: Callable[[], object], options: Options) -> float:
    """Return the median duration of a call."""
    times = []
    for _ in range(options.number(8, 2)):
        _wait(options)
        started = time.perf_counter()
        for _ in range(5):
            call()
        _wait(options)
        times.append((time.perf_counter() - started) / 5)
    return statistics.median(times)


def _wait(options: Options) -> None:
    import torch  # noqa: PLC0415

    if options.device == "cuda":
        torch.cuda.synchronize()


# --- Correctness --------------------------------------------------------------------------------------------


def parity(options: Options, findings: Findings) -> None:
    """Compare GPU and CPU in fp32 and bf16, with dropout; also repeat and resume training."""
    steps = options.number(50, 2)
    cpu = _Training(options)
    expected = cpu.losses(steps)
    weights = cpu.model.weights("ema")
    pictures = cpu.pictures(weights)
    for precision, tolerance, pixels in (("fp32", 1e-4, 2.0), ("bf16", 0.05, 48.0)):
        gpu = _Training(options, on_gpu=True, precision=precision)
        losses = first = gpu.losses(steps)
        if precision == "bf16":  # rounding makes single steps differ
            losses, expected = losses.mean(keepdims=True), expected.mean(keepdims=True)
        name = f"{precision}: {steps} losses{', their mean' * (len(losses) < steps)}, CPU and GPU, relative"
        findings.judge(name, _ratio(losses, expected), tolerance)
        resumed = _Training(options, on_gpu=True, precision=precision)
        resumed.resume(gpu)
        findings.judge(
            f"{precision}: a resumed training",
            _largest_difference(gpu.losses(steps), resumed.losses(steps)),
            0.0,
        )
        again = _Training(options, on_gpu=True, precision=precision).losses(steps)
        findings.judge(f"{precision}: the same training again", _largest_difference(first, again), 0.0)
        difference = _largest_difference(gpu.pictures(weights).astype(int), pictures.astype(int))
        findings.judge(f"{precision}: {len(pictures)} images, of 255", difference, pixels)
    few, count = options.number(3, 1), options.number(16, 1)
    large = [
        _Training(options, on_gpu=on_gpu, size="cifar10", batch_size=count).losses(few)
        for on_gpu in (False, True)
    ]
    findings.judge(f"fp32: CIFAR-10 network, {few} losses, relative", _ratio(large[1], large[0]), 1e-4)


# --- CUDA graphs --------------------------------------------------------------------------------------------


def capture(options: Options, findings: Findings) -> None:
    """Compare CUDA graphs with eager steps, bit for bit, including a loss that no graph can capture."""
    steps = options.number(20, 3)
    for precision in ("fp32", "bf16"):
        eager = _Training(options, on_gpu=True, precision=precision, graphs=False)
        captured = _Training(options, on_gpu=True, precision=precision)
        difference = _largest_difference(eager.losses(steps), captured.losses(steps))
        findings.judge(f"{precision}: {steps} losses, captured and eager", difference, 0.0)
        weights = eager.model.weights("ema")
        difference = _largest_difference(
            eager.pictures(weights).astype(int), captured.pictures(weights).astype(int)
        )
        findings.judge(f"{precision}: images, captured and eager", difference, 0.0)
    eager = _Training(options, on_gpu=True, loss=_synchronizing_loss, graphs=False)
    refused = _Training(options, on_gpu=True, loss=_synchronizing_loss)
    difference = _largest_difference(eager.losses(steps), refused.losses(steps))
    findings.judge("a loss that waits for the GPU, which no graph can capture", difference, 0.0)


def _synchronizing_loss(prediction: Any, target: Any, /) -> Any:
    """Return the mean squared error, computed through a number on the host."""
    difference = prediction - target
    return (difference * difference).mean((1, 2, 3)) * (1.0 + 0.0 * float(difference.detach().sum()))


class _Training:
    """A network in training, on images of noise, with dropout."""

    def __init__(
        self,
        options: Options,
        *,
        on_gpu: bool = False,
        size: str = "digits",
        batch_size: int | None = None,
        precision: str = "fp32",
        loss: Loss | None = None,
        graphs: bool = True,
    ) -> None:
        os.environ["DDIM_HOST_CUDA_GRAPHS"] = "on" if graphs else "off"
        self._options = options
        settings: Any = {
            "device": options.device if on_gpu else "cpu",
            "precision": precision,
            "batch_size": batch_size or options.number(128, 2),
            "steps": options.number(20, 2),
        }
        channels = 3 if size == "cifar10" else 1
        shape = (32, 32, 3) if size == "cifar10" and not options.tiny else (8, 8, channels)
        network = PartChoice("unet", None, {"dropout": "0.1"} | (_TINY if options.tiny else {}))
        request = Request("torch", parts={Kind.MODEL: network}, settings=settings)
        self.experiment: Experiment = assemble(request, image_shape=shape)
        if on_gpu and options.device == "cpu":
            self.model = _interpreted(self.experiment, graphs=graphs)
        else:
            self.model = self.experiment.build_model()
        images = np.random.default_rng(1).integers(0, 256, (512, *shape), dtype=np.uint8)
        self.batches = TrainingBatches(
            images,
            self.experiment.schedule,
            self.experiment.sampler,
            self.experiment.weighting,
            batch_size=self.experiment.config.batch_size,
            random_flip=True,
            seed=0,
        )
        start = initial_weights(self.experiment.unet, 0)
        self.model.load_weights(start, "raw")
        self.model.load_weights(start, "ema")
        self._loss = loss or self.experiment.loss
        self._step = 0

    def losses(self, count: int) -> NDArray[np.float64]:
        """Run training steps; return the mean loss of each."""
        found = []
        for _ in range(count):
            batch = self.batches.batch(self._step)
            found.append(self.model.train_step(batch, self._loss, lr=1e-3, ema_decay=0.9, max_grad_norm=1.0))
            self._step += 1
        return np.array([self.model.to_host(losses).mean(dtype=np.float64) for losses in found])

    def resume(self, other: _Training) -> None:
        """Continue from the state of another `_Training`."""
        for which in _BOTH:
            self.model.load_weights(other.model.weights(which), which)
        self.model.load_training_state(other.model.training_state())
        self._step = other._step

    def pictures(self, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
        """Return images sampled with the given weights."""
        self.model.load_weights(weights, "ema")
        sampler = Sampler(
            Denoiser(((self.model, 1.0),), "ema"),
            self.experiment.sampling_plan().steps,
            image_shape=self.experiment.image_shape,
            seed=0,
            limit=1.0,
        )
        count = self._options.number(64, 2)
        return np.concatenate(list(sampler.images(count, batch_size=count)))


_BOTH: tuple[WhichWeights, ...] = ("raw", "ema")
_TINY = {"base_channels": "8", "channel_multipliers": "1,2", "num_res_blocks": "1", "num_groups": "4"}


def _interpreted(experiment: Experiment, *, graphs: bool) -> Model:
    """Return the GPU's model without a GPU: Triton interprets the kernels, and nothing is captured."""
    import torch  # noqa: PLC0415

    from ddim_torch.cuda_model import CudaModel  # noqa: PLC0415

    precision: Any = experiment.config.precision
    return CudaModel(experiment.unet.spec, torch.device("cpu"), precision, graphs=graphs)


def _largest_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.max(np.abs(one - other)))


def _ratio(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(found / expected - 1)))


# --- Speed --------------------------------------------------------------------------------------------------


def speed(options: Options, findings: Findings) -> None:
    """Measure training and sampling with and without CUDA graphs, in fp32, and in diffusers."""
    _in_turn(options, findings, ["torch-bf16", "torch-bf16-eager", "torch", "diffusers-bf16"])


def compiled(options: Options, findings: Findings) -> None:
    """Compare with diffusers under torch.compile, which takes minutes to compile."""
    peers = [] if options.device == "cpu" else ["diffusers-bf16-compiled"]
    _in_turn(options, findings, ["torch-bf16", *peers])


def _in_turn(options: Options, findings: Findings, names: list[str]) -> None:
    """Measure the CIFAR-10 network in rounds, each contender in a separate process.

    A figure is recorded after each contender's warm-up, from one extra measurement, and replaced after every
    round.
    """
    size, batch = ("digits", 4) if options.tiny else ("cifar10", 128)
    steps = options.number(16, 1)

    def measure(one: Waiting) -> tuple[float, float]:
        return one.call("training_steps", steps)[0], one.call("sample")[0]

    with ExitStack() as stack:
        contenders = {}
        for name in names:
            one = contenders[name] = stack.enter_context(waiting(contender, name, size, batch))
            for call, arguments in (("training_steps", (3,)), ("sample", ()), ("sample", ())):
                seconds, _ = one.call(call, *arguments)
                print(f"warm-up {call} {name}: {seconds:.2f} s", flush=True)
            findings.figure(name, f"{_rates([measure(one)], steps * batch)}, before the rounds")
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
        for _ in range(options.number(3, 2)):
            for name, one in contenders.items():
                found[name].append(measure(one))
                rounds = len(found[name])
                text = _rates(found[name], steps * batch)
                findings.figure(name, f"{text}, median of {rounds} round{'s' * (rounds > 1)}")


def _rates(found: list[tuple[float, float]], images: int) -> str:
    """Format the medians of measurements.

    Args:
        found: Seconds of some training steps, and of sampling.
        images: Number of images in those training steps.
    """
    training, sampling = (statistics.median(seconds) for seconds in zip(*found, strict=True))
    rate = images / training
    return (
        f"{rate:.0f} images/s in training ({rate * 3 * _FLOPS_OF_A_CALL / 1e12:.0f} TFLOP/s), "
        f"64 images in 20 steps {sampling:.3f} s"
    )


def contender(name: str, size: str, batch_size: int) -> Subject:
    """Return a contender, built in its own process."""
    framework, _, eager = name.partition("-eager")
    os.environ["DDIM_HOST_CUDA_GRAPHS"] = "off" if eager or name.endswith("-eager") else "on"
    return subject(framework, size, batch_size)


# --- Profile ------------------------------------------------------------------------------------------------


def profile(options: Options, findings: Findings) -> None:
    """List the kernels that take the most time in training and sampling, and measure the host's share."""
    import torch  # noqa: PLC0415

    size, batch = ("digits", 4) if options.tiny else ("cifar10", 128)
    measured = contender("torch-bf16", size, batch)
    profiler: Any = torch.profiler
    activity = profiler.ProfilerActivity.CPU
    if options.device == "cuda":
        activity = profiler.ProfilerActivity.CUDA
    calls: dict[str, Callable[[], None]] = {
        "two training steps": lambda: measured.training_steps(2),
        "sampling": measured.sample,
    }
    for name, call in calls.items():
        call()
        call()
        with profiler.profile(activities=[activity]) as profiled:
            started = time.perf_counter()
            call()
            wall = time.perf_counter() - started
        events = profiled.key_averages()
        own = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
        total = sum(getattr(event, own) for event in events) or 1.0
        findings.figure(f"{name}: seconds, and seconds the device is busy", f"{wall:.4f}, {total / 1e6:.4f}")
        ordered = sorted(events, key=lambda e: -getattr(e, own))[: options.number(40, 3)]
        for rank, event in enumerate(ordered, 1):
            label = event.key.replace("|", "/")
            label = f"{label[:70]}...{label[-30:]}" if len(label) > 100 else label
            findings.figure(
                f"{name} {rank}: {label}", f"{getattr(event, own) / total:.1%}, {event.count} calls"
            )
    batches = _Training(options, size="cifar10", batch_size=batch).batches
    started = time.perf_counter()
    for step in range(options.number(20, 2)):
        batches.batch(step)
    rate = options.number(20, 2) * batch / (time.perf_counter() - started)
    findings.figure("batches made by the host", f"{rate:.0f} images/s on one core")


# --- Jittor -------------------------------------------------------------------------------------------------


def jittor(options: Options, findings: Findings) -> None:
    """Check Jittor on the GPU, from its core to a run; see `tests.gpu.jittor_check`."""
    if options.device == "cpu":
        findings.figure("Jittor on a GPU", "not checked without a GPU")
        return
    command = [sys.executable, "-m", "tests.gpu.jittor_check", "--out", str(options.out / "jittor")]
    with subprocess.Popen([*command, "--seconds", "230"], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith(("ok  ", "FAIL")):
                what, _, detail = line[4:].strip().partition(": ")
                findings.add(what, line.startswith("ok"), detail)
            else:
                print(line, end="", flush=True)
    code = process.returncode
    findings.add("Jittor's core, operations and a run", code == 0, f"exit code {code}")


# --- Training on real images --------------------------------------------------------------------------------


def train(options: Options, findings: Findings) -> None:
    """Run the command line on the caller's images for some minutes, stop it with a signal, and sample."""
    run = options.out / "run"
    command = [sys.executable, "-m", "ddim_host"]
    arguments = ["--plugin", "torch", "--data", f"images:path={options.images}", "--device", options.device]
    environment = {**os.environ, "DDIM_HOST_CUDA_GRAPHS": "on"}
    arguments += ["--model", "unet:base_channels=8,num_groups=4"] if options.tiny else []
    process = subprocess.Popen([*command, "run", *arguments, "--out", str(run)], env=environment)
    try:
        process.wait(timeout=60 * options.minutes)
    except subprocess.TimeoutExpired:
        process.terminate()
    code = process.wait()
    kept = (run / "metrics.csv").exists()
    findings.add("the run stops with a checkpoint", kept and code in (0, 1), f"exit code {code}")
    grid = options.out / "grid.png"
    sample = [*command, "sample", str(run), "--out", str(grid), "--num-images", "64", "--steps", "50"]
    code = subprocess.run(sample, env=environment, check=False).returncode
    findings.add("64 images are sampled from it", code == 0, f"exit code {code}")
    metrics = run / "metrics.csv"
    if metrics.exists():
        rows = metrics.read_text(encoding="utf-8").splitlines()
        for row in rows[1:]:
            findings.figure(f"{rows[0]}, row", row)


STAGES: dict[str, Stage] = {
    "machine": Stage(machine, 60),
    "parity": Stage(parity, 150),
    "capture": Stage(capture, 90),
    "speed": Stage(speed, 120),
    "profile": Stage(profile, 60),
    "compiled": Stage(compiled, 240),
    "jittor": Stage(jittor, 240),
    "train": Stage(train, 300),
}
"""The stages, the most important first."""
