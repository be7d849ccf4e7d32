"""Every network of the family in Jittor and PyTorch, each in its own process."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddim_host.run.directory import RunDirectory
from tests.end_to_end.test_interruption import SIGNALLED
from tests.support.commands import printed_by
from tests.support.family import TELLING
from tests.support.repository import SUPPORT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.commands import Command, PythonCode

    Arrays = dict[str, np.ndarray[Any, Any]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed"),
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed"),
]

WORKER = SUPPORT / "family_worker.py"
UNUSUAL = (
    "unet:base_channels=16,channel_multipliers=1,1.5,num_res_blocks=1,attention_resolutions=8,"
    "up_attention_resolutions=4,attention_head_dim=4,num_groups=4,dropout=0.1,middle_attention_groups=2,"
    "middle_scale_factor=1.5,scale_shift=true,norm_eps=1e-3,downsample_padding=1,center_input=true,"
    "time_embedding_dim=40,flip_sin_to_cos=true,freq_shift=0"
)


def in_both_frameworks(task: str, folder: Path) -> tuple[Arrays, Arrays]:
    results = []
    for framework in ("torch", "jittor"):
        out = folder / f"{task}-{framework}.npz"
        printed_by(str(WORKER), framework, task, str(out))
        with np.load(out) as arrays:
            results.append(dict(arrays))
    return results[0], results[1]


def test_every_network_predicts_the_same_noise_in_both_frameworks(tmp_path: Path) -> None:
    """`framework/test_config_against_diffusers.py` compares the noise of PyTorch with that of diffusers."""
    in_torch, in_jittor = in_both_frameworks("noise", tmp_path)
    assert {name.partition(", t")[0] for name in in_torch} == set(TELLING)
    for name, expected in in_torch.items():
        size = float(expected.std())
        assert 0.1 < size < 10
        assert float(np.abs(in_jittor[name] - expected).max()) < 1e-4 * max(1.0, size), name


@pytest.mark.parametrize("kernels", ["native", "framework"])
def test_unusual_networks_have_the_same_gradients_in_both_frameworks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str
) -> None:
    """Both the host's kernels and each framework's own operations, which a GPU uses, are tested."""
    monkeypatch.setenv("DDIM_HOST_KERNELS", kernels)
    in_torch, in_jittor = in_both_frameworks("training", tmp_path)
    for name, expected in in_torch.items():
        if kernels == "framework" and "no dropout" not in name:
            continue  # dropout masks agree only with the host's kernels
        if name.endswith("losses"):
            np.testing.assert_allclose(in_jittor[name], expected, rtol=1e-4, err_msg=name)
            assert expected[-1].mean() < 0.9 * expected[0].mean()
            continue
        # The keys' bias shifts all scores of a query equally, which softmax ignores, so its gradient is zero.
        size = float(np.linalg.norm(expected))
        assert size > 1e-6 or name.endswith("to_k.bias")
        assert float(np.linalg.norm(in_jittor[name] - expected)) < 1e-3 * size + 1e-6, name


@pytest.mark.parametrize("framework", ["torch", "jittor"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_unusual_network_trains_resumes_and_samples(
    python: PythonCode, ddim_host: Command, tmp_path: Path, framework: str, precision: str
) -> None:
    """The resumed run ends with the same bits as the uninterrupted one."""
    options = ["run", "--plugin", framework, "--device", "cpu", "--model", UNUSUAL, "--train-steps", "4"]
    options += ["--precision", precision, "--batch-size", "8", "--test-images", "8"]
    options += ["--num-images", "4", "--steps", "3"]
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert ddim_host(*options, "--out", straight).code == 0
    assert python(SIGNALLED, str(int(signal.SIGTERM)), "2", "0", *options, "--out", stopped).code == 1
    assert RunDirectory(stopped).latest_checkpoint().name == "step-00000002"
    assert RunDirectory(stopped).config.provenance_table["precision"] == precision
    resumed = ddim_host("run", "--resume", "--out", stopped)
    assert resumed.code == 0, resumed.err
    one, other = (RunDirectory(run).latest_checkpoint() for run in (straight, stopped))
    for name in ("raw.safetensors", "ema.safetensors", "training.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    sampled = ddim_host("sample", straight, "--num-images", "2", "--steps", "2", "--out", tmp_path / "s.png")
    assert sampled.code == 0, sampled.err
