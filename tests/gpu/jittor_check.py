"""Check that Jittor works on this GPU, stage by stage, and print which stages failed.

    DDIM_HOST_JITTOR_CUDA13=1 python -m tests.gpu.jittor_check --out FOLDER

Every stage is a separate process with a time limit, so a stage that hangs or dies does not affect the others.
The exit code is 1 if a stage failed.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_MACHINE = """
import platform, shutil, subprocess, sysconfig, pathlib
import numpy
print("Python", platform.python_version(), "NumPy", numpy.__version__)
print("Python.h:", pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())
print(subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout.partition("\\n")[0])
from ddim_jittor.cuda import find_nvcc13
from ddim_jittor.machine import checks
print("nvcc:", shutil.which("nvcc"), find_nvcc13())
found = checks("cuda")
for check in found:
    print("ok  " if check.ok else "FAIL", check.name, check.detail, check.fix)
raise SystemExit(not all(check.ok for check in found))
"""

_IMPORT = """
import numpy as np
from ddim_jittor.environment import import_jittor
jt = import_jittor("cuda")
assert jt.flags.use_cuda == 1
draw = lambda *shape: np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)
def close(ours, right, name):
    ours = ours.numpy()
    error = np.abs(ours - right).max() / np.abs(right).max()
    print(f"{name}: relative error {error:.1e}")
    assert error < 1e-3, name
"""

_CORE = f"""{_IMPORT}
print("has_cuda", jt.has_cuda, "architectures", jt.flags.cuda_archs, "flags", jt.flags.nvcc_flags)
"""

_ELEMENTWISE = f"""{_IMPORT}
a, b = draw(40, 50), draw(50)
close(jt.array(a) * 2 + jt.array(b), a * 2 + b, "broadcast")
close(jt.array(a).sum(1), a.sum(1), "sum")
"""

_MATMUL = f"""{_IMPORT}
a, b = draw(64, 96), draw(96, 32)
close(jt.matmul(jt.array(a), jt.array(b)), a @ b, "matmul")
a, b = draw(4, 16, 24), draw(4, 24, 8)
close(jt.matmul(jt.array(a), jt.array(b)), a @ b, "batched matmul")
"""

_CONVOLUTION = f"""{_IMPORT}
image, weight, seen = draw(2, 3, 9, 9), draw(8, 3, 3, 3), draw(2, 8, 7, 7)
windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (2, 3))
x, w = jt.array(image), jt.array(weight)
y = jt.nn.conv2d(x, w)
close(y, np.einsum("nchwij,ocij->nohw", windows, weight), "convolution")
grad_x, grad_w = jt.grad((y * jt.array(seen)).sum(), [x, w])
close(grad_w, np.einsum("nchwij,nohw->ocij", windows, seen), "gradient of its weight")
padded = np.pad(seen, ((0, 0), (0, 0), (2, 2), (2, 2)))
windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
close(grad_x, np.einsum("nohwij,ocij->nchw", windows, weight[:, :, ::-1, ::-1]), "gradient of its input")
"""

_RANDOM = f"""{_IMPORT}
jt.set_seed(1)
drawn = jt.random((1000,)).numpy()
print("mean", drawn.mean())
assert 0.4 < drawn.mean() < 0.6
"""

_PROGRAMS = (
    ("the machine", _MACHINE, 60),
    ("compile and import the core", _CORE, 300),
    ("elementwise operations", _ELEMENTWISE, 60),
    ("matmul", _MATMUL, 60),
    ("convolution and its gradients", _CONVOLUTION, 90),
    ("random numbers", _RANDOM, 60),
)

_SMALL = (
    *("--model", "unet:base_channels=16,num_res_blocks=1,num_groups=4", "--batch-size", "32"),
    *("--train-steps", "5", "--steps", "2", "--num-images", "4", "--test-images", "32"),
)


def _run(framework: str, out: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "ddim_host", "run", "--plugin", framework, "--device", "cuda"]
    return [*command, "--precision", "fp32", "--loss", "mse", "--out", str(out), *options]


class Stages:
    """Runs commands in order until the time limit.

    Args:
        seconds: Time limit of all commands together, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.failed: list[str] = []

    def run(self, name: str, command: list[str], seconds: float = math.inf) -> bool:
        """Run a command and print its result.

        Args:
            name: Name of the stage.
            command: Program and arguments.
            seconds: Time limit of the command, in seconds.

        Returns:
            True if it succeeded.
        """
        begin = time.monotonic()
        limit = max(1.0, min(seconds, self._end - begin))
        with tempfile.TemporaryFile("w+") as log:
            try:
                code = str(
                    subprocess.run(
                        command, stdout=log, stderr=subprocess.STDOUT, check=False, timeout=limit
                    ).returncode
                )
            except subprocess.TimeoutExpired:
                code = "none before the time limit"
            log.seek(0)
            lines = re.split(r"[\r\n]+", log.read().strip())
        self.report(name, code == "0", f"{time.monotonic() - begin:.0f} s, exit code {code}")
        for line in lines[-(8 if code == "0" else 40) :]:
            print(f"     {line[:400]}", flush=True)
        return code == "0"

    def report(self, name: str, ok: bool, detail: str) -> None:
        """Print the result of a stage, and record a failure."""
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}", flush=True)
        if not ok:
            self.failed.append(name)


def compare(ours: Path, theirs: Path) -> bool:
    """Print the losses of two runs side by side.

    Returns:
        True if they agree within 1%.
    """
    columns = []
    for run in (ours, theirs):
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns.append([float(row[name]) for row in rows for name in ("train_loss", "test_loss")])
    for pair in zip(*columns, strict=True):
        print(f"     {pair[0]:.6f} {pair[1]:.6f}")
    return all(abs(a - b) < 0.01 * b for a, b in zip(*columns, strict=True))


def main() -> int:
    """Run all stages.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument(
        "--seconds", type=float, default=570, help="time limit of all stages in seconds (default: 570)"
    )
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    ours, theirs = out / "small-jittor", out / "small-torch"
    stages = Stages(options.seconds)
    for name, code, seconds in _PROGRAMS:
        stages.run(name, [sys.executable, "-c", code], seconds)
    both = stages.run("a small network in PyTorch", _run("torch", theirs, *_SMALL), 120)
    both &= stages.run("the same in Jittor", _run("jittor", ours, *_SMALL))
    if both:
        stages.report("losses of both", compare(ours, theirs), "must agree within 1%")
    # This run shares most kernels with the small one.
    stages.run("digits", _run("jittor", out / "digits-jittor", "--train-steps", "50"))
    print(f"failed: {', '.join(stages.failed) or 'nothing'}")
    return int(bool(stages.failed))


if __name__ == "__main__":
    sys.exit(main())
