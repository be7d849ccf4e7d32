"""What is checked, stage by stage. Each returns verdicts and figures."""

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
    from tests.benchmarks.subjects import Subject

_FLOPS_OF_A_CALL = 12.44e9
"""Of the CIFAR-10 network, for one image; a training step needs three times as many."""


@dataclass(frozen=True)
class Options:
    """What the caller asked for.

    Attributes:
        out: Where results go.
        device: `cuda`; `cpu` tries the check itself.
        tiny: Whether to use the smallest sizes.
        images: A folder of images to train on.
        minutes: How long to train on them.
    """

    out: Path
    device: str
    tiny: bool
    images: Path | None
    minutes: float

    def number(self, whole: int, tiny: int) -> int:
        """A size."""
        return tiny if self.tiny else whole


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        run: Returns `verdicts` and `figures`.
        seconds: The most that it may take.
    """

    run: Callable[[Options], dict[str, Any]]
    seconds: float


class Findings:
    """Collects verdicts and figures."""

    def __init__(self) -> None:
        self.verdicts: list[dict[str, Any]] = []
        self.figures: dict[str, str] = {}

    def judge(self, what: str, measured: float, limit: float) -> None:
        """A number that must not be above a limit."""
        ok = bool(measured <= limit)
        self.add(what, ok, f"{measured:.3g} (at most {limit:g})")

    def add(self, what: str, ok: bool, measured: str) -> None:
        """A verdict."""
        print(f"{what}: {'ok' if ok else 'BAD'}, {measured}", flush=True)
        self.verdicts.append({"what": what, "ok": ok, "measured": measured})

    def figure(self, what: str, value: str) -> None:
        """Something measured."""
        print(f"{what}: {value}", flush=True)
        self.figures[what] = value

    def result(self) -> dict[str, Any]:
        """What a stage returns."""
        return {"verdicts": self.verdicts, "figures": self.figures}


# --- The machine --------------------------------------------------------------------------------------------


def machine(options: Options) -> dict[str, Any]:
    """Name it, and measure the two rates that bound everything else."""
    import torch  # noqa: PLC0415 - one framework in a process, imported where it is measured

    findings = Findings()
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
    return findings.result()


def _seconds(call: Callable[[], object], options: Options) -> float:
    """The median of some calls."""
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


# --- Is it right --------------------------------------------------------------------------------------------


def parity(options: Options) -> dict[str, Any]:
    """The GPU against the CPU, fp32 and bf16, with dropout; repeated and resumed trainings."""
    findings = Findings()
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
            f"{precision}: a resumed training", _most(gpu.losses(steps), resumed.losses(steps)), 0.0
        )
        again = _Training(options, on_gpu=True, precision=precision).losses(steps)
        findings.judge(f"{precision}: the same training again", _most(first, again), 0.0)
        difference = _most(gpu.pictures(weights).astype(int), pictures.astype(int))
        findings.judge(f"{precision}: {len(pictures)} images, of 255", difference, pixels)
    few, count = options.number(3, 1), options.number(16, 1)
    large = [
        _Training(options, on_gpu=on_gpu, size="cifar10", batch_size=count).losses(few)
        for on_gpu in (False, True)
    ]
    findings.judge(f"fp32: CIFAR-10 network, {few} losses, relative", _ratio(large[1], large[0]), 1e-4)
    return findings.result()


# --- Is it captured -----------------------------------------------------------------------------------------


def capture(options: Options) -> dict[str, Any]:
    """CUDA graphs against the same step by step: equal bit for bit, and a loss that no graph can hold."""
    findings = Findings()
    steps = options.number(20, 3)
    for precision in ("fp32", "bf16"):
        eager = _Training(options, on_gpu=True, precision=precision, graphs=False)
        captured = _Training(options, on_gpu=True, precision=precision)
        difference = _most(eager.losses(steps), captured.losses(steps))
        findings.judge(f"{precision}: {steps} losses, captured and not", difference, 0.0)
        weights = eager.model.weights("ema")
        difference = _most(eager.pictures(weights).astype(int), captured.pictures(weights).astype(int))
        findings.judge(f"{precision}: images, captured and not", difference, 0.0)
    eager = _Training(options, on_gpu=True, loss=_waits, graphs=False)
    refused = _Training(options, on_gpu=True, loss=_waits)
    difference = _most(eager.losses(steps), refused.losses(steps))
    findings.judge("a loss that waits for the GPU, which no graph can hold", difference, 0.0)
    return findings.result()


def _waits(prediction: Any, target: Any, /) -> Any:
    """Mean squared error, by way of a number on the host."""
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
        """Take steps; the mean loss of each."""
        found = []
        for _ in range(count):
            batch = self.batches.batch(self._step)
            found.append(self.model.train_step(batch, self._loss, lr=1e-3, ema_decay=0.9, max_grad_norm=1.0))
            self._step += 1
        return np.array([self.model.to_host(losses).mean(dtype=np.float64) for losses in found])

    def resume(self, other: _Training) -> None:
        """Go on from where another training is."""
        for which in _BOTH:
            self.model.load_weights(other.model.weights(which), which)
        self.model.load_training_state(other.model.training_state())
        self._step = other._step

    def pictures(self, weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.uint8]:
        """Images of given weights."""
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
    """The GPU's model where there is none: Triton interprets the kernels, and nothing is captured."""
    import torch  # noqa: PLC0415

    from ddim_torch.cuda_model import CudaModel  # noqa: PLC0415

    precision: Any = experiment.config.precision
    return CudaModel(experiment.unet.spec, torch.device("cpu"), precision, graphs=graphs)


def _most(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.max(np.abs(one - other)))


def _ratio(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    return float(np.max(np.abs(found / expected - 1)))


# --- How fast -----------------------------------------------------------------------------------------------


def speed(options: Options) -> dict[str, Any]:
    """Training and sampling with and without CUDA graphs, in fp32, and in diffusers as its users run it."""
    return _in_turn(options, ["torch-bf16", "torch-bf16-eager", "torch", "diffusers-bf16"])


def compiled(options: Options) -> dict[str, Any]:
    """The same against diffusers under torch.compile, which takes minutes to compile."""
    if options.device == "cpu":
        return _in_turn(options, ["torch-bf16"])
    return _in_turn(options, ["torch-bf16", "diffusers-bf16-compiled"])


def _in_turn(options: Options, names: list[str]) -> dict[str, Any]:
    """The CIFAR-10 network, each contender in a process of its own."""
    findings = Findings()
    size, batch = ("digits", 4) if options.tiny else ("cifar10", 128)
    steps, rounds = options.number(16, 1), options.number(3, 1)
    found: dict[str, dict[str, list[float]]] = {name: {"training": [], "sampling": []} for name in names}
    with ExitStack() as stack:
        contenders = {}
        for name in names:
            contenders[name] = stack.enter_context(waiting(contender, name, size, batch))
            for call, arguments in (("training_steps", (3,)), ("sample", ()), ("sample", ())):
                seconds, _ = contenders[name].call(call, *arguments)
                print(f"warm-up {call} {name}: {seconds:.2f} s", flush=True)
        for _ in range(rounds):
            for name, one in contenders.items():
                found[name]["training"].append(one.call("training_steps", steps)[0])
                found[name]["sampling"].append(one.call("sample")[0])
    for name, calls in found.items():
        training, sampling = (statistics.median(calls[call]) for call in ("training", "sampling"))
        rate = steps * batch / training
        findings.figure(
            name,
            f"{rate:.0f} images/s in training ({rate * 3 * _FLOPS_OF_A_CALL / 1e12:.0f} TFLOP/s), "
            f"64 images in 20 steps {sampling:.3f} s",
        )
    return findings.result()


def contender(name: str, size: str, batch_size: int) -> Subject:
    """One of those that are compared, made in its own process."""
    framework, _, eager = name.partition("-eager")
    os.environ["DDIM_HOST_CUDA_GRAPHS"] = "off" if eager or name.endswith("-eager") else "on"
    return subject(framework, size, batch_size)


# --- Where the time goes ------------------------------------------------------------------------------------


def profile(options: Options) -> dict[str, Any]:
    """The kernels that take the most time in a training step and in sampling, and what the host needs."""
    import torch  # noqa: PLC0415

    findings = Findings()
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
        findings.figure(f"{name}: seconds, of which the device is busy", f"{wall:.4f}, {total / 1e6:.4f}")
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
    return findings.result()


# --- Jittor -------------------------------------------------------------------------------------------------


def jittor(options: Options) -> dict[str, Any]:
    """What Jittor needs on the GPU, from its core to a run; see `tests.gpu.jittor_check`."""
    findings = Findings()
    if options.device == "cpu":
        findings.figure("Jittor on a GPU", "not tried: there is none")
        return findings.result()
    command = [sys.executable, "-m", "tests.gpu.jittor_check", "--out", str(options.out / "jittor")]
    code = subprocess.run([*command, "--seconds", "230"], check=False).returncode
    findings.add("Jittor's core, operations and a run", code == 0, f"exit code {code}")
    return findings.result()


# --- A training on real images ------------------------------------------------------------------------------


def train(options: Options) -> dict[str, Any]:
    """A run of the command line on the caller's images for some minutes, ended by a signal, then sampled."""
    findings = Findings()
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
    return findings.result()


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
"""In the order of their worth."""
