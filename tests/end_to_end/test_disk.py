"""Full and unwritable disks: one clear error, and the last complete checkpoint stays intact."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ddim_host.experiment.config_file import read_config_file
from ddim_host.run.directory import RunDirectory
from tests.support.commands import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, PythonCode, Run

pytestmark = pytest.mark.slow

# A checkpoint of this network takes 1.0 MB, and the next one is written before it is deleted.
NETWORK = "--model unet:base_channels=8,num_groups=4 --batch-size 8 --test-images 8 --num-images 4 --steps 3"
RUN = f"run --plugin torch --device cpu {NETWORK} --train-steps 6 --lr-warmup-steps 0 --checkpoint-seconds 0"
ROOM = "1600k"


@pytest.fixture
def on_a_small_disk(environment: dict[str, str], tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that runs shell commands with a small file system at `$DISK`, removed afterwards."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "none", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine cannot mount a separate file system")

    def run(*commands: str) -> Outcome:
        script = "\n".join([f"mount -t tmpfs -o size={ROOM} none $DISK || exit 99", *commands])
        done = subprocess.run(
            [*unshare, "sh", "-c", script],
            env={**environment, "DISK": str(disk), "HOST": f"{shlex.quote(sys.executable)} -m ddim_host"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode != 99, done.stderr
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


def weights(run: Path) -> list[bytes]:
    folder = RunDirectory(run).latest_checkpoint()
    return [(folder / f"{name}.safetensors").read_bytes() for name in ("raw", "ema", "training")]


def test_full_disk_leaves_the_last_complete_checkpoint(
    on_a_small_disk: Callable[..., Outcome], ddim_host: Command, tmp_path: Path
) -> None:
    kept = tmp_path / "run"
    full = on_a_small_disk(f"$HOST {RUN} --out $DISK/run", "code=$?", f"cp -r $DISK/run {kept}", "exit $code")
    assert full.code == 2, full.err
    assert "cannot write a checkpoint into" in full.err
    assert "No space left on device" in full.err
    assert "continue with --resume" in full.err
    assert "Traceback" not in full.err
    step = RunDirectory(kept).latest_checkpoint().name
    assert "step-00000001" <= step < "step-00000006"
    assert ddim_host("sample", kept, "--out", tmp_path / "grid.png").code == 0
    assert ddim_host("run", "--resume", "--out", kept).code == 0
    assert ddim_host(*shlex.split(RUN), "--out", tmp_path / "straight").code == 0
    assert weights(kept) == weights(tmp_path / "straight")


def test_read_only_run_can_be_sampled_but_not_written(
    on_a_small_disk: Callable[..., Outcome], ddim_host: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert ddim_host(*shlex.split(RUN), "--out", run).code == 0
    (run / "report.html").unlink()  # gives `run --resume` a file to write
    prepare = (f"cp -r {run} $DISK/run || exit 98", "mount -o remount,ro $DISK || exit 98")
    for command in ("run --resume --out", "sample", "evaluate --samples 10 --steps 2 --eta 0"):
        refused = on_a_small_disk(*prepare, f"$HOST {command} $DISK/run")
        assert refused.code == 2, refused.err
        assert "Read-only file system" in refused.err
        assert "Traceback" not in refused.err
    elsewhere = tmp_path / "grid.png"
    assert on_a_small_disk(*prepare, f"$HOST sample $DISK/run --out {elsewhere}").code == 0
    assert elsewhere.exists()


@pytest.mark.parametrize("inside", [".", "checkpoints", "samples", "checkpoints/{step}", "config.toml"])
def test_unreadable_path_is_named_in_the_error(
    tiny_run: Run, environment: dict[str, str], tmp_path: Path, inside: str
) -> None:
    # Root can read everything unless it drops these capabilities.
    drop = "-dac_override,-dac_read_search"
    unprivileged = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if os.geteuid() == 0 else []
    if unprivileged and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    run = tmp_path / "run"
    shutil.copytree(tiny_run.path, run)
    denied = run / inside.format(step=tiny_run.checkpoint.name)
    mode = denied.stat().st_mode
    denied.chmod(0)
    try:
        for command in ("sample", "run --resume --out"):
            refused = subprocess.run(
                [*unprivileged, sys.executable, "-m", "ddim_host", *command.split(), run],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert refused.returncode == 2, refused.stderr
            assert refused.stderr.count("ddim-host: error: cannot ") == 1
            assert "Permission denied" in refused.stderr
            assert "Traceback" not in refused.stderr
    finally:
        denied.chmod(mode)


def test_divergence_keeps_the_last_good_checkpoint(ddim_host: Command, tmp_path: Path) -> None:
    good = tmp_path / "good"
    assert ddim_host(*shlex.split(RUN), "--out", good).code == 0
    worse = tmp_path / "worse"
    options = ["--lr", "1e30", "--train-steps", "20", "--checkpoint-seconds", "1000"]
    diverged = ddim_host("run", "--plugin", "torch", "--start-from", good, *options, "--out", worse)
    assert diverged.code == 1
    assert "no longer finite" in diverged.err
    assert f"the last checkpoint is {worse}" in diverged.err
    assert "Traceback" not in diverged.err
    assert weights(worse) == weights(good)
    assert ddim_host("sample", worse, "--out", tmp_path / "grid.png").code == 0


KILLED_BEFORE_IT_IS_A_RUN = """
import os
from ddim_host.cli import main
from ddim_host.run.directory import RunDirectory
RunDirectory.write_config = lambda *_: os._exit(9)
main()
"""


def test_run_killed_while_it_begins_can_be_started_again(
    ddim_host: Command, python: PythonCode, tmp_path: Path
) -> None:
    good, cut = tmp_path / "good", tmp_path / "cut"
    assert ddim_host(*shlex.split(RUN), "--out", good).code == 0
    options = ["run", "--plugin", "torch", "--start-from", str(good), "--train-steps", "8", "--out", str(cut)]
    assert python(KILLED_BEFORE_IT_IS_A_RUN, *options).code == 9
    assert (cut / "checkpoints" / "step-00000006").is_dir()
    again = ddim_host(*options)
    assert again.code == 0, again.err
    assert read_config_file(cut / "config.toml").first_step == 6
    assert "2 steps of" in (cut / "report.html").read_text(encoding="utf-8")


def test_run_with_start_from_resumes_from_the_other_weights(ddim_host: Command, tmp_path: Path) -> None:
    """Without these, a run killed before its own first checkpoint would resume with random weights."""
    good, cut = tmp_path / "good", tmp_path / "cut"
    assert ddim_host(*shlex.split(RUN), "--out", good).code == 0
    options: list[str | Path] = ["run", "--plugin", "torch", "--start-from", good, "--train-steps", "8"]
    assert ddim_host(*options, "--out", tmp_path / "straight").code == 0
    assert ddim_host(*options, "--out", cut).code == 0
    # The files of such a run when its folder has just been created.
    checkpoints = RunDirectory(cut).checkpoints_path
    shutil.rmtree(checkpoints)
    shutil.copytree(RunDirectory(good).latest_checkpoint(), checkpoints / "step-00000006")
    for name in ("report.html", "metrics.csv"):
        (cut / name).unlink()
    shutil.rmtree(cut / "samples")
    assert ddim_host("run", "--resume", "--out", cut).code == 0
    assert weights(cut) == weights(tmp_path / "straight")
