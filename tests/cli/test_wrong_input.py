"""Wrong input to `run`, refused before a framework is imported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.support.commands import Outcome, Run, last_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.distributions import Site


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
        ("--model unet:channel_multipliers=1,1.3", "1.3 x 32 channels is not a whole number"),
        ("--model unet:up_attention_resolutions=3", "up_attention_resolutions holds 3"),
        ("--model unet:scale_shift=2", "scale_shift=2 is not true or false"),
        ("--model unet:downsample_padding=2", "downsample_padding must be 0 or 1"),
        ("--model unet:channel_multipliers=0", "channel_multipliers must be"),
        ("--model unet:channel_multipliers=", "channel_multipliers must be"),
        ("--model unet:num_res_blocks=0", "num_res_blocks must be from 1 to 100"),
        ("--model unet:attention_head_dim=5", "64 channels do not divide into heads of 5"),
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


def test_one_of_several_frameworks_must_be_chosen(
    refused: Callable[..., str], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-jittor")
    site.distribution("ddim-own", "[ddim_host.frameworks]\nown = nowhere\n")
    message = refused(plugin=None)
    assert "no framework was chosen\n  why: installed: own, torch\n" in message
    assert "fix: add --plugin own or --plugin torch" in message


def test_a_framework_must_be_installed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-torch,ddim-jittor")
    message = refused(plugin=None)
    assert "why: installed: none" in message
    assert 'fix: pip install "ddim-host[torch]", or "ddim-host[jittor]"' in message


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


def test_a_file_begins_no_run_over_something_else(
    refused: Callable[..., str], tiny_run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "trial.toml"
    text = (tiny_run.path / "config.toml").read_text(encoding="utf-8").replace("seed = 0", "seed = 1")
    path.write_text(text, encoding="utf-8")
    resume = ("--resume", "--config", path)
    assert "but these differ: seed" in refused(*resume, "--out", tiny_run.path, plugin=None)
    assert "--resume needs to know which run" in refused(*resume, plugin=None)
    (tmp_path / "letter.txt").touch()
    assert "is not an empty folder" in refused(*resume, "--out", tmp_path, plugin=None)
    both = refused(*resume, "--out", tmp_path / "new", "--start-from", tiny_run.path, plugin=None)
    assert "--resume and --start-from exclude each other" in both
    assert not (tmp_path / "new").exists()


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


# --- Going on -----------------------------------------------------------------------------------------------


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
