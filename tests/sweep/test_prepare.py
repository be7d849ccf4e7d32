"""`sweep --prepare`: folders and commands for schedulers; then `sweep` on their results."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.documentation import blocks_of
from tests.support.repository import ROOT
from tests.sweep.test_sweep import TINY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome

EVALUATION = ["--evaluate-samples=20", "--evaluate-steps=2", "--evaluate-eta=0", "--evaluate-grids=4"]
FOUR = ["--plugin=torch", *TINY, "--loss=l1", "--loss=mse", "--seed=0", "--seed=1"]
TIMES = {
    *("command", "path", "seconds", "warmup_seconds", "images_per_second", "peak_memory_bytes", "throughput"),
}


def gnu_parallel() -> bool:
    """Return whether GNU parallel is installed; another program has the same name."""
    if shutil.which("parallel") is None:
        return False
    done = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False)
    return "GNU parallel" in done.stdout


def calls(folder: Path) -> list[str]:
    """Return the lines of `jobs.txt`."""
    return (folder / "jobs.txt").read_text(encoding="utf-8").splitlines()


def call(line: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a shell, in any folder."""
    return subprocess.run(
        line, shell=True, env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


@pytest.mark.process
def test_prepare_runs_nothing_and_prints_the_next_commands(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = tmp_path / "a folder"
    done = in_process("sweep", *FOUR, *EVALUATION, "--prepare", "--out", folder)
    assert done.code == 0, done.err
    names = [f"torch,loss={loss},seed={seed}" for loss in ("l1", "mse") for seed in (0, 1)]
    assert sorted(path.name for path in folder.iterdir()) == ["jobs.txt", *names]
    for name in names:
        assert [path.name for path in (folder / name).iterdir()] == ["trial.toml"]
        assert f"  {name}" in done.out
    assert [shlex.split(line)[-2:] for line in calls(folder)] == [
        [f"--out={folder / name}", "--resume"] for name in names
    ]
    said = done.out.splitlines()[-3:]
    assert (
        said[0]
        == f"wrote {folder / 'jobs.txt'}: 4 training commands, one per line, to run in any order on any "
        "machine"
    )
    assert said[1].endswith(f"parallel < '{folder / 'jobs.txt'}'")
    assert shlex.split(said[2])[1:] == ["ddim-host", "sweep", f"--out={folder}", "--evaluate", *EVALUATION]
    again = in_process("sweep", *FOUR, "--seed=2", "--prepare", "--out", folder)
    assert again.code == 0, again.err
    assert len(calls(folder)) == 6


def test_prepare_checks_the_experiments(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = in_process("sweep", "--plugin=torch", "--loss=mse", "--loss=msee", "--prepare", "--out", folder)
    assert done.code == 2
    assert "the experiment torch,loss=msee cannot be run" in done.err
    assert not folder.exists()
    both = in_process("sweep", "--plugin=torch", "--prepare", "--dry-run")
    assert both.code == 2
    assert "not allowed with argument" in both.err
    jobs = in_process("sweep", "--plugin=torch", "--prepare", "--jobs=4", "--out", folder)
    assert jobs.code == 2
    assert "--jobs has no effect with --prepare" in jobs.err
    assert not folder.exists()


def test_without_options_and_without_experiments_no_framework_is_chosen(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    for options in ([], ["--out", tmp_path], ["--out", tmp_path / "nowhere"], ["--evaluate"]):
        done = in_process("sweep", *options)
        assert done.code == 2
        assert "no framework was chosen" in done.err
    (tmp_path / "letter.txt").touch()
    assert "exists, but is not a sweep folder" in in_process("sweep", "--out", tmp_path).err


def test_jobs_can_run_in_any_order_and_repeatedly(
    environment: dict[str, str], ddim_host: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "it's a folder"
    command = ["sweep", "--plugin=torch", *TINY, "--seed=0", "--seed=1", "--seed=2", f"--out={folder}"]
    assert ddim_host(*command, "--prepare").code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first, _, third = calls(folder)
    for job in (third, first):
        done = call(job, environment, elsewhere)
        assert done.returncode == 0, done.stderr
    again = call(first, environment, elsewhere)
    assert again.returncode == 0
    assert "already complete" in again.stdout
    assert list(elsewhere.iterdir()) == []
    finished = ddim_host("sweep", "--out", folder)
    assert finished.code == 0, finished.err
    assert finished.out.splitlines()[1:4] == [
        "  torch,seed=0  done",
        "  torch,seed=1  run",
        "  torch,seed=2  done",
    ]
    assert "torch,seed=0: trained" not in finished.out
    assert "torch,seed=1: trained" in finished.out
    assert (folder / "report.html").exists()
    prepared = ddim_host(*command, "--prepare")
    assert "0 training commands" in prepared.out
    assert calls(folder) == []


def test_script_of_the_documentation_runs_the_job_of_its_task(
    environment: dict[str, str], ddim_host: Command, tmp_path: Path
) -> None:
    [script] = [
        block.text
        for block in blocks_of(ROOT / "docs" / "many-processes.md")
        if "SLURM_ARRAY_TASK_ID" in block.text
    ]
    folder = tmp_path / "sweeps" / "losses"
    command = ["sweep", "--plugin=torch", *TINY, "--seed=0", "--seed=1", f"--out={folder}"]
    assert ddim_host(*command, "--prepare").code == 0
    done = call(script, {**environment, "SLURM_ARRAY_TASK_ID": "2"}, tmp_path)
    assert done.returncode == 0, done.stderr
    trained = ddim_host(*command, "--dry-run").out.splitlines()
    assert trained[1:] == ["  torch,seed=0  run", "  torch,seed=1  done"]
    assert "#SBATCH" in script


@pytest.mark.slow
@pytest.mark.skipif(not gnu_parallel(), reason="GNU parallel is not installed (Debian: parallel)")
def test_gnu_parallel_gives_the_same_results(
    environment: dict[str, str], ddim_host: Command, tmp_path: Path
) -> None:
    done = ddim_host("sweep", *FOUR, *EVALUATION, "--out", tmp_path / "alone" / "sweep")
    assert done.code == 0, done.out + done.err
    folder = tmp_path / "scheduled" / "sweep"
    prepared = ddim_host("sweep", *FOUR, *EVALUATION, "--prepare", "--out", folder)
    assert prepared.code == 0, prepared.err
    environment = {**environment, "HOME": str(tmp_path)}  # GNU parallel stores its state there
    jobs, then = (line[18:] for line in prepared.out.splitlines()[-2:])
    scheduled = call(jobs.partition("e.g. with GNU parallel: ")[2], environment, tmp_path)
    assert scheduled.returncode == 0, scheduled.stderr
    assert scheduled.stdout.count("trained 3 steps") == 4
    words = shlex.split(then)
    assert words[0] == "ddim-host"
    finished = ddim_host(*words[1:])
    assert finished.code == 0, finished.out + finished.err
    assert ": trained" not in finished.out
    assert finished.out.count(": evaluated") == 4
    alone, parallel = (described(ddim_host, one) for one in (tmp_path / "alone" / "sweep", folder))
    assert len(alone["runs"]) == 4
    assert all(run["scores"] and run["metrics"] for run in alone["runs"])
    assert alone == parallel
    pages = [
        (one / "report.html").read_text(encoding="utf-8") for one in (tmp_path / "alone" / "sweep", folder)
    ]
    headings, pictures = (
        [re.findall(pattern, page) for page in pages] for pattern in (r"<h\d.*?</h\d>", r"<img[^>]*>")
    )
    assert headings[0] == headings[1] != []
    assert pictures[0] == pictures[1] != []


def described(ddim_host: Command, folder: Path) -> dict[str, Any]:
    """Return the data of a page of these runs, without times, paths and commands."""
    out = folder.parent / "comparison.json"
    runs = sorted(path.parent for path in folder.glob("*/config.toml"))
    done = ddim_host("compare", *runs, "--format", "json", "--out", out)
    assert done.code == 0, done.err

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(item) for key, item in value.items() if key not in TIMES}
        return [without_times(item) for item in value] if isinstance(value, list) else value

    document: dict[str, Any] = without_times(json.loads(out.read_text(encoding="utf-8")))
    return document
