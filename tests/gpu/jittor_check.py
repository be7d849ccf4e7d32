"""Does Jittor work on this GPU? Tries what it needs, one stage after the other, and says what failed.

    DDIM_HOST_JITTOR_CUDA13=1 python -m tests.gpu.jittor_check --out FOLDER

Every stage is a process of its own with a limit of time: one that hangs or dies does not take the others with
it. The exit code is 1 if one of them failed.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
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

_SMALL = ("--model", "unet:base_channels=16,num_res_blocks=1,num_groups=4", "--batch-size", "32")
_TRAINING = ("--train-steps", "5", "--steps", "2", "--num-images", "4", "--test-images", "32")


def _run(framework: str, device: str, out: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "ddim_host", "run", "--plugin", framework, "--device", device]
    return [*command, "--precision", "fp32", "--loss", "mse", "--out", str(out), *options]


def stage(name: str, command: list[str], seconds: float) -> bool:
    """Run a command and show how it went.

    Args:
        name: What it tries.
        command: Program and arguments.
        seconds: Its limit.

    Returns:
        Whether it succeeded.
    """
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True, timeout=seconds
        )
        code, text = str(done.returncode), done.stdout
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        code, text = "none in time", output.decode() if isinstance(output, bytes) else output
    ok = code == "0"
    print(
        f"{'ok  ' if ok else 'FAIL'} {name}: {time.monotonic() - begin:.0f} s, exit code {code}", flush=True
    )
    lines = text.splitlines()[-(8 if ok else 40) :]
    print("\n".join(f"     {line[:300]}" for line in lines), flush=True)
    return ok


def compare(ours: Path, theirs: Path) -> bool:
    """Show the losses of two runs side by side.

    Returns:
        Whether they agree within 1 %.
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
    parser.add_argument("--seconds", type=float, default=400, help="limit of the slowest stages")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [options.out / name for name in ("small-jittor", "small-torch", "digits-jittor")]

    def python(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    good = [
        stage("the machine", python(_MACHINE), 60),
        stage("compile and import the core", python(_CORE), options.seconds),
        stage("element by element", python(_ELEMENTWISE), 120),
        stage("matmul", python(_MATMUL), 120),
        stage("convolution and its gradients", python(_CONVOLUTION), 120),
        stage("random numbers", python(_RANDOM), 60),
        stage("a small network", _run("jittor", "cuda", runs[0], *_SMALL, *_TRAINING), options.seconds),
        stage("the same in PyTorch", _run("torch", "cuda", runs[1], *_SMALL, *_TRAINING), 120),
    ]
    if good[-1] and good[-2]:
        good.append(compare(runs[0], runs[1]))
        print(f"{'ok  ' if good[-1] else 'FAIL'} losses of both")
    good.append(stage("digits", _run("jittor", "cuda", runs[2], "--train-steps", "50"), options.seconds))
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
