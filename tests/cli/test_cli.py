"""The command line: help, wrong input, and the run directory that a run leaves."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from ddim_host.experiment.settings import SETTINGS
from ddim_host.framework.unet import UNet, UNetSpec, parameters
from ddim_host.run.checkpoints import load_progress
from ddim_host.system.cache import CACHE_VARIABLE, cache_folder
from tests.support.commands import Outcome, Run
from tests.support.distributions import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from tests.support.commands import Command, PythonCode

WEIGHTS = ("raw.safetensors", "ema.safetensors")


# --- Help and imports ---------------------------------------------------------------------------------------

OPTIONS = """
--plugin --data --model --noise-schedule --timestep-sampler --loss --loss-weighting --timestep-subset
--num-train-timesteps --steps --eta --epochs --train-steps --batch-size --lr --seed --device --precision
--out --config --resume --dry-run
"""


def test_help_lists_every_command(ddim_host: Command) -> None:
    outcome = ddim_host("--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("usage: ddim-host")
    for command in ("run", "plugins"):
        assert f"\n    {command} " in outcome.out


def test_output_that_nobody_reads_any_more_is_not_complained_of(environment: dict[str, str]) -> None:
    """As of `ddim-host plugins | head -0`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "ddim_host", "plugins"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_output_that_was_closed_from_the_start_is_no_error(environment: dict[str, str]) -> None:
    """As of `ddim-host plugins >&-`."""
    command = ["sh", "-c", '"$0" -m ddim_host plugins >&-', sys.executable]
    done = subprocess.run(command, stderr=subprocess.PIPE, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_another_pipe_that_breaks_is_not_taken_for_the_output(python: PythonCode) -> None:
    outcome = python("""
import ddim_host.cli.plugins
from ddim_host.cli import main

def broken(options):
    raise BrokenPipeError("that of a helper")

ddim_host.cli.plugins.main = broken
main(["plugins"])
""")
    assert outcome.code == 1
    assert "BrokenPipeError: that of a helper" in outcome.err


def test_help_of_run_lists_every_option(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("run", "--help")
    assert (outcome.code, outcome.err) == (0, "")
    listed = {word for line in outcome.out.splitlines() for word in line.split() if line.startswith("  --")}
    assert {*OPTIONS.split(), *(setting.option for setting in SETTINGS.values())} <= listed


HEAVY = {
    "torch", "jittor", "tensorflow", "jax", "ddim_torch.plugin", "ddim_jittor",
    "scipy", "sklearn", "pandas", "matplotlib", "diffusers",
}  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("run", "--help"), ("plugins",), ("plugins", "--json"), ("run", "--loss")],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_without_need(python: PythonCode, arguments: tuple[str, ...]) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr))\n"
        "from ddim_host.cli import main; main()"
    )
    modules = set(python(code, *arguments).err.rpartition("modules:")[2].split())
    assert "ddim_host.cli" in modules
    assert not HEAVY & (modules | {name.partition(".")[0] for name in modules})


def test_version(ddim_host: Command) -> None:
    outcome = ddim_host("--version")
    expected = (0, f"ddim-host {importlib.metadata.version('ddim-host')}\n", "")
    assert (outcome.code, outcome.out, outcome.err) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("train",),
        ("--plugin", "torch"),
        ("plugins", "one", "two"),
        ("run", "--eta"),
        ("run", "--epo", "3"),
        ("run", "x"),
    ],
    ids=" ".join,
)
def test_misuse_is_one_error_that_leads_to_the_help(
    in_process: Callable[..., Outcome], arguments: tuple[str, ...]
) -> None:
    outcome = in_process(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("ddim-host: error: ")
    assert re.search(r"^  fix: see `ddim-host( \w+)? --help`$", outcome.err, re.MULTILINE)
    assert len(outcome.err.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --los mse", "`ddim-host run` does not take '--los'; did you mean '--loss'?"),
        ("run --stepz=3", "`ddim-host run` does not take '--stepz'; did you mean '--steps'?"),
        ("run x", "`ddim-host run` does not take 'x'"),
        ("run x=y", "`ddim-host run` does not take 'x=y'"),
        ("run -steps 5", "`ddim-host run` does not take '-steps'; did you mean '--steps'?"),
        ("smaple", "argument COMMAND: there is no 'smaple'; did you mean 'sample'? choose from run,"),
        ("run --eta", "argument --eta: expected one argument"),
    ],
)
def test_an_unknown_word_is_answered_by_its_command(
    in_process: Callable[..., Outcome], arguments: str, message: str
) -> None:
    assert in_process(*arguments.split()).err.startswith(f"ddim-host: error: {message}")


def test_an_impatient_user_gets_one_line(
    in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddim_host.cli.plugins.main", interrupted)
    outcome = in_process("plugins")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "\nddim-host: interrupted\n")


# --- Wrong input --------------------------------------------------------------------------------------------


@pytest.fixture
def refused(
    in_process: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs `run` in an empty folder; gives its message, after a look at the exit code and the folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path, plugin: str | None = "torch") -> str:
        outcome = in_process("run", *([] if plugin is None else ["--plugin", plugin]), *arguments)
        assert outcome.code == 2, outcome
        assert list(folder.iterdir()) == []
        assert outcome.err.startswith("ddim-host: error: ")
        first, *rest = outcome.err.splitlines()
        assert all(line.startswith(("  why: ", "  fix: ")) for line in rest)
        assert len(first) > len("ddim-host: error: ")
        return outcome.err

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data digts", "there is no data set named 'digts'; did you mean 'digits'?"),
        ("--model unett", "there is no model named 'unett'; did you mean 'unet'?"),
        ("--noise-schedule liner", "there is no noise schedule named 'liner'; did you mean 'linear'?"),
        ("--timestep-sampler unifrom", "no timestep sampler named 'unifrom'; did you mean 'uniform'?"),
        ("--loss mes", "there is no loss named 'mes'; did you mean 'mse'?"),
        ("--loss-weighting nune", "there is no loss weighting named 'nune'; did you mean 'none'?"),
        ("--timestep-subset quat", "there is no timestep subset named 'quat'; did you mean 'quad'?"),
        ("--loss linear", "why: installed: balanced, huber, l1, l2, mse"),
        ("--loss :x=1", "':x=1' does not name a part"),
        ("--noise-schedule linear:beta=1", "'linear' has no parameter 'beta'; did you mean 'beta_"),
        ("--noise-schedule linear:beta_end=x", "beta_end=x is not a number"),
        ("--noise-schedule linear:beta_end=nan", "beta_end=nan is not a number"),
        ("--noise-schedule linear:beta_end", "cannot read 'beta_end'"),
        ("--noise-schedule linear:beta_end=1", "the ends of the linear noise schedule are out of order"),
        ("--noise-schedule linear:beta_end=0.1,beta_end=0.2", "'beta_end' is given twice"),
        ("--noise-schedule cosine:s=-1", "the offset s of the cosine noise schedule must lie in [0, 1]"),
        ("--timestep-subset quad:span=2", "the span of the quad timestep subset must lie in (0, 1]"),
        ("--loss mse:delta=1", "loss 'mse' has no parameter 'delta'"),
        ("--model unet:channels=8", "has no parameter 'channels'; did you mean 'base_channels'?"),
        ("--model unet:base_channels=7", "base_channels must be an even number"),
        ("--model unet:base_channels=-8", "base_channels must be an even number"),
        ("--model unet:num_groups=7", "32 channels do not divide into num_groups = 7"),
        ("--model unet:num_groups=0", "num_groups = 0"),
        ("--model unet:channel_multipliers=1,2,2,2,2", "its size 8 is not divisible by 16"),
        ("--model unet:channel_multipliers=0", "channel_multipliers must be"),
        ("--model unet:channel_multipliers=", "channel_multipliers must be"),
        ("--model unet:num_res_blocks=0", "num_res_blocks must be from 1 to 100"),
        ("--model unet:attention_head_dim=5", "32 channels do not divide into heads of 5"),
        ("--model unet:dropout=1", "dropout must lie in [0, 1)"),
        ("--model unet:image_size=8", "has no parameter 'image_size'"),
        ("--data images", "data set 'images' needs path="),
        ("--data digits:path=/tmp", "data set 'digits' has no parameter 'path'"),
        ("--eta 1.5", "--eta cannot be '1.5'"),
        ("--eta -0.1", "--eta cannot be '-0.1'"),
        ("--eta nan", "--eta cannot be 'nan'"),
        ("--eta zero", "why: it takes: number, in [0, 1]"),
        ("--lr 0", "--lr cannot be '0'"),
        ("--lr -1", "--lr cannot be '-1'"),
        ("--lr nan", "--lr cannot be 'nan'"),
        ("--lr inf", "--lr cannot be 'inf'"),
        ("--lr 1e999", "--lr cannot be '1e999'"),
        ("--lr-warmup-steps -1", "--lr-warmup-steps cannot be '-1'"),
        ("--ema-decay 1", "--ema-decay cannot be '1'"),
        ("--ema-decay -0.5", "--ema-decay cannot be '-0.5'"),
        ("--max-grad-norm 0", "--max-grad-norm cannot be '0'"),
        ("--max-grad-norm nan", "--max-grad-norm cannot be 'nan'"),
        ("--clip maybe", "--clip cannot be 'maybe'"),
        ("--seed -1", "--seed cannot be '-1'"),
        ("--seed 9223372036854775808", "--seed cannot be '9223372036854775808'"),
        ("--seed 1.5", "--seed cannot be '1.5'"),
        ("--batch-size 0", "--batch-size cannot be '0'"),
        ("--batch-size 1e3", "--batch-size cannot be '1e3'"),
        ("--train-steps 0", "--train-steps cannot be '0'"),
        ("--train-steps -5", "--train-steps cannot be '-5'"),
        ("--num-images 0", "--num-images cannot be '0'"),
        ("--test-images 0", "--test-images cannot be '0'"),
        ("--steps 0", "--steps cannot be '0'"),
        ("--steps 1001", "cannot sample in 1001 steps"),
        ("--steps 51 --num-train-timesteps 50", "fix: use --steps 50 or less"),
        ("--num-train-timesteps 0", "--num-train-timesteps cannot be '0'"),
        ("--num-train-timesteps 20", "the linear noise schedule is too steep for 20 timesteps"),
        ("--num-train-timesteps 1000000000000000000000000", "from 1 to 100,000"),
        ("--epochs 0", "--epochs cannot be '0'"),
        ("--epochs 1.5", "--epochs cannot be '1.5'"),
        ("--epochs -1", "--epochs cannot be '-1'"),
        ("--epochs 1 --train-steps 1", "--epochs and --train-steps both set the length"),
        ("--device gpu", "--device cannot be 'gpu'"),
        ("--precision fp16", "--precision cannot be 'fp16'"),
        ("--resume", "--resume needs to know which run"),
        ("--resume --out nowhere", "there is no run in nowhere"),
        ("--config nowhere.toml", "cannot read the configuration nowhere.toml"),
        ("--config .", "cannot read the configuration ."),
        ("--data cifar10:path=/no/where", "cannot read CIFAR-10 from /no/where"),
        ("--data images:path=/no/where", "cannot open /no/where\n  why: No such file or directory\n"),
        ("--data images:path=~nosuchuser/x", "there is no home folder ~nosuchuser"),
        ("--lr-warmup-steps 1000000000001", "from 0 to 1,000,000,000,000"),
        ("--model unet:attention_resolutions=3", "holds 3, but the levels have 8, 4 pixels"),
        ("--model unet:attention_resolutions=3", "fix: set attention_resolutions=8 in the parameters"),
        ("--model unet:base_channels=12", "fix: set num_groups=3 in the parameters of --model"),
        ("--data images:path=/dev/null", "/dev/null is neither a folder nor a file"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(refused: Callable[..., str], arguments: str, message: str) -> None:
    assert message in refused(*arguments.split())


@pytest.mark.parametrize(
    "arguments",
    ["--batch-size 1000000000000", "--num-images 1000000000000", f"--epochs 1{'0' * 400}"],
    ids=["batch size", "images", "epochs"],
)
def test_numbers_that_no_machine_can_hold_are_refused(refused: Callable[..., str], arguments: str) -> None:
    refused("--dry-run", *arguments.split())


def test_a_framework_must_be_chosen(refused: Callable[..., str]) -> None:
    message = refused(plugin=None)
    assert "no framework was chosen" in message
    assert "fix: add --plugin " in message


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("troch", "there is no framework plugin named 'troch'; did you mean 'torch'?"),
        ("", "there is no framework plugin named ''"),
        ("losses", "there is no framework plugin named 'losses'"),
    ],
)
def test_unknown_frameworks_are_refused(refused: Callable[..., str], plugin: str, message: str) -> None:
    assert message in refused(plugin=plugin)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batchsize = 3", "unknown setting 'batchsize'; did you mean 'batch_size'?"),
        ("eta = 1.5", "eta in {path} cannot be 1.5"),
        ("nonsense", "the configuration {path} is not valid TOML"),
        ("loss = 'mes'", "there is no loss named 'mes'"),
        ("[noise_schedule]\nname = 'linear'\nparameters.beta_end = 'x'", "beta_end=x is not a number"),
    ],
)
def test_wrong_files_are_refused(
    refused: Callable[..., str], tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(content, encoding="utf-8")
    assert message.format(path=path) in refused("--config", path)


def test_an_occupied_out_is_refused(refused: Callable[..., str], tmp_path: Path, tiny_run: Run) -> None:
    file, full = tmp_path / "file", tmp_path / "full"
    file.touch()
    full.mkdir()
    (full / "thesis.txt").touch()
    for path in (file, full):
        assert f"{path} exists and is not an empty folder" in refused("--out", path)
    assert f"continue it with --resume --out {tiny_run.path}" in refused("--out", tiny_run.path)


def test_an_out_whose_name_is_too_long_is_refused(refused: Callable[..., str]) -> None:
    refused("--out", "a" * 300)


@pytest.mark.parametrize(
    "option", ["--eta 1", "--seed 3", "--loss l2", "--epochs 2", "--train-steps 9", "--device auto"]
)
def test_a_resumed_run_keeps_its_settings(refused: Callable[..., str], tiny_run: Run, option: str) -> None:
    message = refused("--resume", "--out", tiny_run.path, *option.split(), plugin=None)
    assert "a resumed run keeps its settings, but these differ:" in message
    assert option.split(maxsplit=1)[0].lstrip("-").replace("-", "_") in message.splitlines()[0]


def test_a_damaged_config_cannot_be_resumed(
    refused: Callable[..., str], tiny_run: Run, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_run.path, tmp_path / "copy"))
    text = (copy / "config.toml").read_text()
    for damaged in (text.replace("eta = 0.0", "eta = 2.0"), text + "[", "\0"):
        (copy / "config.toml").write_text(damaged)
        assert str(copy / "config.toml") in refused("--resume", "--out", copy)


# --- Images that cannot be read -----------------------------------------------------------------------------


def read(refused: Callable[..., str], path: Path) -> str:
    return refused("--data", f"images:path={path}")


def test_a_folder_without_images(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / "notes.txt").touch()
    assert f"there are no images in {folder}" in read(refused, folder)


def test_an_archive_that_is_none(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(b"not an archive" * 1000)
    assert str(path) in read(refused, path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"garbage"])
def test_a_first_image_that_is_none(refused: Callable[..., str], tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "first.png").write_bytes(content)
    assert "first.png" in read(refused, folder)


def copied(pictures: Path, folder: Path) -> Path:
    return Path(shutil.copytree(pictures, folder / "copied"))


def last_error(err: str) -> str:
    assert err.count("ddim-host: error: ") == 1
    assert "Traceback" not in err
    return err.rpartition("ddim-host: error: ")[2]


@pytest.fixture
def refused_late(
    in_process: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """As `refused`, for what is found out after a progress bar was shown."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> str:
        outcome = in_process("run", "--plugin", "torch", *arguments)
        assert outcome.code == 2, outcome
        assert list(folder.iterdir()) == []
        return last_error(outcome.err)

    return run


def test_a_truncated_png(refused_late: Callable[..., str], pictures: Path, tmp_path: Path) -> None:
    folder = copied(pictures, tmp_path)
    whole = (folder / "07.png").read_bytes()
    (folder / "07.png").write_bytes(whole[: len(whole) // 2])
    assert refused_late("--data", f"images:path={folder}").startswith("cannot decode 07.png")


def test_images_of_two_sizes(refused_late: Callable[..., str], pictures: Path, tmp_path: Path) -> None:
    folder = copied(pictures, tmp_path)
    Image.new("RGB", (16, 16)).save(folder / "07.png")
    message = refused_late("--data", f"images:path={folder}")
    assert message.startswith(f"07.png in {folder} is 16 x 16 pixels, but 00.png is 8 x 8")


def test_one_image_is_not_enough(refused_late: Callable[..., str], pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(pictures / "00.png", folder)
    assert refused_late("--data", f"images:path={folder}").startswith("there are too few images")


def test_cifar10_from_another_archive(
    refused_late: Callable[..., str], pictures: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "other"), "gztar", pictures))
    for path in (archive, pictures):
        message = refused_late("--data", f"cifar10:path={path}")
        assert message.startswith(f"cannot read CIFAR-10 from {path}\n")
    path = pictures / "00.png"
    message = refused_late("--data", f"cifar10:path={path}")
    assert message.startswith(f"{path} is neither a folder nor an archive")


# --- What only shows after torch was imported ---------------------------------------------------------------


FADING = """
calls = 0
def fading(prediction, target):
    global calls
    calls += 1
    losses = ((prediction - target) ** 2).reshape((prediction.shape[0], -1)).mean(1)
    return losses if calls < 3 else losses * float("nan")
@hookimpl
def ddim_losses():
    return {"fading": fading}
"""


@pytest.fixture(scope="module")
def images_run(tiny: list[str], pictures: Path) -> list[str]:
    """Options of a run with three rows of metrics and random dropout."""
    model = "unet:base_channels=8,num_groups=4,dropout=0.1"
    learning = ["--timestep-sampler", "importance:history=1", "--num-train-timesteps", "4"]
    options = ["--train-steps", "7", "--data", f"images:path={pictures}", "--model", model]
    return [*short(tiny), *options, *learning, "--noise-schedule", "cosine"]


@pytest.fixture(scope="module")
def variants(
    several_runs: Callable[..., dict[str, Run]],
    tiny: list[str],
    tiny_run: Run,
    images_run: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:
    """Runs that are each compared with another one, or end badly."""
    site = Site(tmp_path_factory.mktemp("site"))
    site.plugin("fading-losses", FADING)
    copies = {
        name: tmp_path_factory.mktemp("copies") / name for name in ("finished", "begun", "damaged", "rowless")
    }
    for copy in copies.values():
        shutil.copytree(tiny_run.path, copy)
    shutil.rmtree(copies["begun"] / "checkpoints")
    (copies["damaged"] / "report.html").unlink()  # a finished run is not read again
    (copies["rowless"] / "metrics.csv").unlink()
    [raw] = copies["damaged"].glob("checkpoints/*/raw.safetensors")
    raw.write_bytes(raw.read_bytes()[:-100])
    runs = several_runs(
        {
            "config": ["run", "--config", str(tiny_run.path / "config.toml")],
            "seed": [*tiny, "--seed", "1"],
            "eta": [*tiny, "--eta", "1"],
            "lr": [*tiny, "--lr", "0.01"],
            "T": [*tiny, "--num-train-timesteps", "500"],
            "longer": [*tiny, "--train-steps", "6"],
            "start-from": ["run", "--start-from", str(tiny_run.path), "--train-steps", "6"],
            "resampled": ["run", "--start-from", str(tiny_run.path), "--seed", "1"],
            "images": images_run,
            "epochs": [*short(images_run), "--epochs", "2"],
            "no-gpu": [*tiny, "--device", "cuda"],
            "unwritable": [*tiny, "--out", "/dev/null/run"],
            "not-utf8-\udcff": tiny,
            "fading": [*tiny, "--loss", "fading"],
            "diverged": [*short(tiny), "--train-steps", "1", "--lr", "1e38"],
            "finished": [*tiny, "--resume", "--out", str(copies["finished"])],
            **{
                name: ["run", "--resume", "--out", str(copies[name])]
                for name in ("begun", "damaged", "rowless")
            },
        },
        env={**site.env, "CUDA_VISIBLE_DEVICES": ""},
    )
    return runs | {name: Run(path, runs[name].outcome) for name, path in copies.items()}


def short(options: Sequence[str]) -> list[str]:
    """The options without `--train-steps`."""
    position = options.index("--train-steps")
    return [*options[:position], *options[position + 2 :]]


@pytest.mark.parametrize(
    "name", ["config", "seed", "eta", "lr", "T", "longer", "start-from", "images", "finished"]
)
def test_runs_end_well(variants: dict[str, Run], name: str) -> None:
    assert variants[name].outcome.code == 0, variants[name].outcome.err


def test_a_gpu_that_is_not_there(variants: dict[str, Run]) -> None:
    outcome = variants["no-gpu"].outcome
    assert outcome.code == 2
    assert last_error(outcome.err).startswith("PyTorch cannot use a GPU on this machine\n  why: torch ")
    assert not variants["no-gpu"].path.exists()


def test_an_out_that_cannot_be_made_is_refused(variants: dict[str, Run]) -> None:
    outcome = variants["unwritable"].outcome
    assert outcome.code == 2
    assert last_error(outcome.err).startswith(
        "cannot use the run directory /dev/null/run\n  why: Not a directory"
    )


def test_an_out_that_is_not_utf8_is_made_or_refused(variants: dict[str, Run]) -> None:
    outcome = variants["not-utf8-\udcff"].outcome
    assert outcome.code == 0 or "ddim-host: error: " in outcome.err


# --- The run directory --------------------------------------------------------------------------------------


def arrays(path: Path) -> dict[str, NDArray[Any]]:
    loaded: dict[str, NDArray[Any]] = safetensors.numpy.load_file(path)
    return loaded


def rows(run: Run) -> list[dict[str, float]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def protocol(run: Run) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run.grid.with_suffix(".json").read_text())
    return document


def test_a_run_ends_well(tiny_run: Run) -> None:
    assert tiny_run.outcome.code == 0, tiny_run.outcome.err
    assert "trained 3 steps" in tiny_run.outcome.out
    assert f"wrote {tiny_run.grid}\n" in tiny_run.outcome.out


def test_a_run_directory_holds_what_it_should_and_nothing_else(tiny_run: Run) -> None:
    files = {
        path.relative_to(tiny_run.path).as_posix() for path in tiny_run.path.rglob("*") if path.is_file()
    }
    assert files == {
        "config.toml",
        "metrics.csv",
        *(
            f"checkpoints/step-00000003/{name}"
            for name in (*WEIGHTS, "training.safetensors", "progress.json")
        ),
        "samples/linear-3-eta-0.png",
        "samples/linear-3-eta-0.json",
        "report.html",
    }


def test_config_says_everything(tiny_run: Run) -> None:
    config = tomllib.loads((tiny_run.path / "config.toml").read_text())
    assert set(SETTINGS) - {"epochs"} <= set(config)
    assert (config["num_train_timesteps"], config["train_steps"], config["seed"]) == (1000, 3, 0)
    parts = {
        name: (table["name"], table["distribution"])
        for name, table in config.items()
        if isinstance(table, dict) and "name" in table
    }
    assert parts == {
        "plugin": ("torch", "ddim-torch"),
        "data": ("digits", "ddim-host"),
        "model": ("unet", "ddim-torch"),
        "noise_schedule": ("linear", "ddim-host"),
        "timestep_sampler": ("uniform", "ddim-timestep-samplers"),
        "loss": ("mse", "ddim-losses"),
        "loss_weighting": ("none", "ddim-host"),
        "timestep_subset": ("linear", "ddim-host"),
    }
    for name, (_, distribution) in parts.items():
        assert config[name]["version"] == importlib.metadata.version(distribution)
    assert config["noise_schedule"]["parameters"] == {"beta_start": 1e-4, "beta_end": 0.02}
    assert config["model"]["parameters"]["num_groups"] == 4
    assert config["model"]["parameters"]["dropout"] == 0.0
    assert config["provenance"]["torch"] == importlib.metadata.version("torch")
    assert (config["precision"], config["provenance"]["precision"]) == ("auto", "fp32")
    assert (config["provenance"]["threads"], config["provenance"]["processes"]) == ("1", "1")
    assert config["provenance"]["command"].startswith("ddim-host run --plugin torch --device cpu")


def test_the_threads_are_those_that_the_framework_uses(
    several_runs: Callable[..., dict[str, Run]], tiny: list[str], tiny_run: Run, ddim_host: Command
) -> None:
    other = several_runs({"two": tiny}, env={"OMP_NUM_THREADS": "2"})["two"]
    assert other.outcome.code == 0, other.outcome.err
    config = tomllib.loads((other.path / "config.toml").read_text())
    assert config["provenance"]["threads"] == "2"
    compared = ddim_host("compare", tiny_run.path, other.path)
    assert "times were measured under different conditions: threads 1 (tiny), 2 (two)" in compared.err


def test_metrics_are_finite_and_end_with_the_run(tiny_run: Run) -> None:
    header = (tiny_run.path / "metrics.csv").read_text().splitlines()[0]
    assert header == (
        "epoch,step,train_loss,test_loss,seconds,images_per_second,warmup_seconds,peak_memory_bytes"
    )
    [row] = rows(tiny_run)
    assert (row["epoch"], row["step"]) == (0, 3)
    assert all(math.isfinite(value) for value in row.values())
    assert 0.5 < row["train_loss"] < 2.0
    assert 0.5 < row["test_loss"] < 2.0
    assert min(row["seconds"], row["images_per_second"], row["warmup_seconds"]) > 0.0
    assert row["peak_memory_bytes"] > 10_000_000


def test_there_is_a_row_for_every_epoch(variants: dict[str, Run]) -> None:
    found = [(row["epoch"], row["step"]) for row in rows(variants["epochs"])]
    assert found == [(1, 3), (2, 5)]  # 18 images in batches of 8


def test_the_checkpoint_is_whole_and_has_canonical_names(tiny_run: Run) -> None:
    spec = UNetSpec(8, 1, 1000, 8, (1, 2), 2, (4,), None, 4, 0.0)
    shapes = {parameter.name: parameter.shape for parameter in parameters(UNet.from_spec(spec))}
    for name in WEIGHTS:
        assert {key: array.shape for key, array in arrays(tiny_run.checkpoint / name).items()} == shapes
    training = arrays(tiny_run.checkpoint / "training.safetensors")
    assert {key: array.shape for key, array in training.items()} == {
        f"{moment}.{name}": shape for name, shape in shapes.items() for moment in ("exp_avg", "exp_avg_sq")
    }
    assert json.loads((tiny_run.checkpoint / "progress.json").read_text())["step"] == 3


def test_averaged_weights_differ_from_raw_ones(tiny_run: Run) -> None:
    raw, ema = (arrays(tiny_run.checkpoint / name) for name in WEIGHTS)
    assert not np.array_equal(raw["conv_in.weight"], ema["conv_in.weight"])


def test_the_grid_holds_all_images(tiny_run: Run) -> None:
    with Image.open(tiny_run.grid) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        assert picture.width == picture.height >= 2 * 64  # 2 x 2 images, enlarged to be seen
        pixels = np.asarray(picture)
    cells = {pixels[y : y + 64, x : x + 64].tobytes() for y in (2, 68) for x in (2, 68)}
    assert len(cells) == 4


def test_the_grid_comes_with_how_it_was_made(tiny_run: Run) -> None:
    document = protocol(tiny_run)
    seconds = document.pop("seconds"), document.pop("warmup_seconds")
    assert min(seconds) > 0.0
    assert document == {
        "kind": "samples",
        "rows": 4,
        "columns": 1,
        "seed": 0,
        "checkpoint": "latest",
        "checkpoint_steps": [3],
        "weights": "ema",
        "timestep_subset": "linear",
        "timesteps": [0, 500, 999],
        "eta": 0.0,
        "clip": True,
        "plugin": "torch",
        "device": "cpu",
        "precision": "fp32",
    }


def test_progress_in_a_log_is_lines(tiny_run: Run) -> None:
    err = tiny_run.outcome.err
    assert "\r" not in err
    assert "\x1b" not in err
    assert {line.partition(":")[0] for line in err.splitlines()} == {
        "warming up (may compile)",
        "training",
        "sampling",
    }
    assert "3/3" in err


def test_progress_of_decoding_in_a_log_is_lines(variants: dict[str, Run]) -> None:
    assert "decoding images" in variants["images"].outcome.err
    assert "\r" not in variants["images"].outcome.err


# --- Dry runs -----------------------------------------------------------------------------------------------


def test_a_dry_run_says_who_provides_what_and_writes_nothing(
    in_process: Callable[..., Outcome], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = in_process(*tiny, "--dry-run", "--timestep-subset", "quad", "--out", tmp_path / "run")
    assert (outcome.code, outcome.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = [line for line in outcome.out.splitlines() if line.endswith(")")]
    provided = {line[:17].strip(): line.rpartition("(")[2].removesuffix(")").split() for line in lines}
    host = ["ddim-host", importlib.metadata.version("ddim-host")]
    torch = ["ddim-torch", importlib.metadata.version("ddim-torch")]
    samplers = ["ddim-timestep-samplers", importlib.metadata.version("ddim-timestep-samplers")]
    assert provided == {
        "plugin": torch,
        "data set": host,
        "model": torch,
        "noise schedule": host,
        "timestep sampler": samplers,
        "loss": ["ddim-losses", importlib.metadata.version("ddim-losses")],
        "loss weighting": host,
        "timestep subset": host,
    }
    assert "\n                  span=0.8\n" in outcome.out
    assert "3 steps of 8 images, lr 0.001" in outcome.out
    assert "4 images in 3 steps, eta 0, clip true, seed 0" in outcome.out
    assert "t = 0, 200, 800\n" in outcome.out


def test_defaults_need_nothing_but_the_framework(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("run", "--plugin", "torch", "--dry-run")
    assert outcome.code == 0
    assert "64 images in 20 steps, eta 0," in outcome.out
    assert "t = 0, 53," in outcome.out


@pytest.mark.parametrize(
    "arguments", ["--num-train-timesteps 1 --noise-schedule cosine --steps 1", "--steps 1000"]
)
def test_the_ends_of_what_is_allowed(in_process: Callable[..., Outcome], arguments: str) -> None:
    assert in_process("run", "--plugin", "torch", "--dry-run", *arguments.split()).code == 0


# --- The same, and something else ---------------------------------------------------------------------------


def same_weights(one: Run, other: Run) -> bool:
    return all(
        (one.checkpoint / name).read_bytes() == (other.checkpoint / name).read_bytes()
        for name in (*WEIGHTS, "training.safetensors")
    )


def test_the_same_settings_give_the_same_bits(tiny_run: Run, variants: dict[str, Run]) -> None:
    again = variants["config"]
    assert same_weights(tiny_run, again)
    assert tiny_run.grid.read_bytes() == again.grid.read_bytes()
    ours, theirs = (tomllib.loads((run.path / "config.toml").read_text()) for run in (tiny_run, again))
    assert ours.pop("provenance") != theirs.pop("provenance")
    assert ours == theirs


def test_another_seed_gives_other_weights_and_images(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert not same_weights(tiny_run, variants["seed"])
    assert tiny_run.grid.read_bytes() != variants["seed"].grid.read_bytes()


def test_another_seed_gives_other_images_from_the_same_weights(
    tiny_run: Run, variants: dict[str, Run]
) -> None:
    assert same_weights(tiny_run, variants["resampled"])
    assert tiny_run.grid.read_bytes() != variants["resampled"].grid.read_bytes()


def test_eta_changes_the_images_and_not_the_training(tiny_run: Run, variants: dict[str, Run]) -> None:
    random = variants["eta"]
    assert same_weights(tiny_run, random)
    assert tiny_run.grid.read_bytes() != random.grid.read_bytes()
    assert protocol(random)["eta"] == 1.0
    assert random.grid.name == "linear-3-eta-1.png"


@pytest.mark.parametrize("setting", ["lr", "T"])
def test_what_is_asked_for_reaches_the_training(
    tiny_run: Run, variants: dict[str, Run], setting: str
) -> None:
    assert not same_weights(tiny_run, variants[setting])


def test_the_timesteps_reach_the_sampling(variants: dict[str, Run]) -> None:
    assert protocol(variants["T"])["timesteps"] == [0, 250, 499]


# --- Going on -----------------------------------------------------------------------------------------------


def test_a_finished_run_can_be_resumed(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert same_weights(tiny_run, variants["finished"])
    assert tiny_run.grid.read_bytes() == variants["finished"].grid.read_bytes()
    assert rows(tiny_run) == rows(variants["finished"])


def test_a_run_begun_from_another_one_goes_on_where_that_ended(variants: dict[str, Run]) -> None:
    assert variants["start-from"].checkpoint.name == "step-00000006"
    assert same_weights(variants["start-from"], variants["longer"])


def test_a_run_without_checkpoint_is_begun_again(tiny_run: Run, variants: dict[str, Run]) -> None:
    assert variants["begun"].outcome.code == 0
    assert same_weights(tiny_run, variants["begun"])


def test_a_damaged_checkpoint_is_named(variants: dict[str, Run]) -> None:
    outcome = variants["damaged"].outcome
    assert outcome.code == 2
    path = variants["damaged"].checkpoint / "raw.safetensors"
    assert last_error(outcome.err).startswith(f"{path} is not a whole safetensors file")


def test_a_finished_run_without_metrics_can_be_resumed(variants: dict[str, Run]) -> None:
    assert "Traceback" not in variants["rowless"].outcome.err


KILLED_AT_STEP_5 = """
import os, signal
from ddim_host.cli import main
from ddim_host.run.directory import RunDirectory
from ddim_host.run.training import Trainer

def decide(trainer, usual=Trainer._decide):
    usual(trainer)
    trainer._checkpoint_is_due = trainer._progress.step == 4

def write_and_die(run, rows, write=RunDirectory.write_metrics):
    write(run, rows)
    if rows[-1].step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Trainer._decide = decide
RunDirectory.write_metrics = write_and_die
main()
"""


ENDS_BEFORE_TRAINING = """
import sys
from ddim_host.cli import main
from ddim_host.run.training import Trainer
Trainer.train = lambda trainer: sys.exit(0)
main()
"""

COMMAND = "from ddim_host.cli import main; main()"


def test_a_resumed_run_equals_one_never_stopped(
    python: PythonCode, images_run: list[str], variants: dict[str, Run], tmp_path: Path
) -> None:
    assert_resumes_exactly(python, images_run, variants["images"], tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jittor") is None, reason="Jittor is not installed")
def test_a_resumed_run_equals_one_never_stopped_in_jittor(
    python: PythonCode, images_run: list[str], tmp_path: Path
) -> None:
    # The user's own cache, and time to compile where it is empty.
    patient = partial(python, env={CACHE_VARIABLE: str(cache_folder())}, timeout=3600.0)
    options = ["jittor" if word == "torch" else word for word in images_run]
    straight = Run(tmp_path / "straight", patient(COMMAND, *options, "--out", tmp_path / "straight"))
    assert straight.outcome.code == 0, straight.outcome.err
    assert_resumes_exactly(patient, options, straight, tmp_path / "stopped")


def assert_resumes_exactly(
    python: Callable[..., Outcome], options: list[str], straight: Run, path: Path
) -> None:
    stopped = Run(path, Outcome(0, "", ""))
    # Killed after a row of metrics that the checkpoint, in the midst of an epoch, does not know of.
    assert python(KILLED_AT_STEP_5, *options, "--out", stopped.path).code == -9
    assert {path.name for path in (stopped.path / "checkpoints").iterdir()} == {
        "step-00000003",  # the best epoch so far
        "step-00000004",  # the newest checkpoint
    }
    assert [row["step"] for row in rows(stopped)] == [3, 5]
    # Weights that a run saved after its last checkpoint are not those of the run that goes on from there.
    checkpoints = path / "checkpoints"
    whole = set(checkpoints.iterdir())
    shutil.copytree(checkpoints / "step-00000003", checkpoints / "step-00000005")
    assert python(ENDS_BEFORE_TRAINING, "run", "--resume", "--out", path).code == 0
    assert set(checkpoints.iterdir()) == whole

    assert python(COMMAND, "run", "--resume", "--out", stopped.path).code == 0

    assert same_weights(straight, stopped)
    assert load_progress(straight.checkpoint).best == load_progress(stopped.checkpoint).best
    for folder in (straight.path / "checkpoints").iterdir():
        for name in WEIGHTS:
            assert (folder / name).read_bytes() == (checkpoints / folder.name / name).read_bytes()
    assert straight.grid.read_bytes() == stopped.grid.read_bytes()
    names = ("epoch", "step", "train_loss", "test_loss")
    kept = [[{name: row[name] for name in names} for row in rows(run)] for run in (straight, stopped)]
    assert kept[0] == kept[1]
    assert [row["step"] for row in kept[0]] == [3, 5, 7]


def test_a_new_run_cannot_be_shorter_than_what_it_begins_with(
    in_process: Callable[..., Outcome], tiny: list[str], tiny_run: Run, tmp_path: Path
) -> None:
    arguments = ["run", "--start-from", tiny_run.path, "--train-steps", "2", "--out", tmp_path / "run"]
    outcome = in_process(*arguments)
    assert outcome.code == 2
    assert "has already taken 3 steps" in outcome.err
    assert not (tmp_path / "run").exists()


def test_too_many_images_for_a_grid_are_refused_before_the_training(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = in_process("run", "--plugin", "torch", "--num-images", "10001", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "10,001 images are too many for one grid" in outcome.err
    assert not (tmp_path / "run").exists()


# --- Divergence ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run(variants: dict[str, Run]) -> None:
    outcome = variants["fading"].outcome
    assert outcome.code == 1
    message = "a loss or a weight is no longer a finite number; training stopped\n  fix: use a smaller --lr"
    assert last_error(outcome.err).startswith(message)
    assert not (variants["fading"].path / "samples").exists()


def test_a_run_that_diverges_in_its_last_step_does_not_end_well(variants: dict[str, Run]) -> None:
    assert variants["diverged"].outcome.code == 1


def test_doctor_says_how_to_get_the_fast_kernels(ddim_host: Command, tmp_path: Path) -> None:
    without = {"CXX": "no-such-compiler", "DDIM_HOST_CACHE": str(tmp_path)}
    missing = ddim_host("doctor", env=without)
    assert missing.code == 1
    assert re.search(r"FAIL  kernels for the CPU +.*there is no C\+\+ compiler no-such-compiler", missing.out)
    assert "fix: sudo apt-get install g++" in missing.out
    off = ddim_host("doctor", env={**without, "DDIM_HOST_KERNELS": "framework"})
    assert re.search(r"ok    kernels for the CPU +switched off by DDIM_HOST_KERNELS", off.out)
    for name in ("CIFAR-10", "FID weights"):  # worth knowing, and no failure
        assert re.search(rf"ok    {name} +not in the cache yet; \d+ MB, downloaded once", off.out)


def test_a_reader_who_has_seen_enough_is_no_error(environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m ddim_host doctor | true"
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""


def test_help_imports_nothing_heavy(python: PythonCode) -> None:
    code = (
        "import sys\n"
        "from ddim_host.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'numpy', 'torch', 'jittor', 'matplotlib', 'scipy', 'sklearn'} & {*sys.modules}\n"
    )
    done = python(code)
    assert done.code == 0, done.err
