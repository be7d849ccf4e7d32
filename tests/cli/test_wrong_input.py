"""Invalid input of `run`, refused before a framework is imported."""

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


# --- Options and files --------------------------------------------------------------------------------------


@pytest.fixture
def refused(
    in_process: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return a function that asserts that `run` fails in an empty folder, and returns its error message."""
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
        ("--noise-schedule linear:beta_end=x", "parameter 'beta_end' of noise schedule 'linear' "
            "must be a number, not 'x'"),
        ("--noise-schedule linear:beta_end=nan", "parameter 'beta_end' of noise schedule 'linear' "
            "must be a number, not 'nan'"),
        ("--noise-schedule linear:beta_end", "cannot read 'beta_end'"),
        ("--noise-schedule linear:beta_end=1", "noise schedule 'linear' needs 0 < beta_start <= "
            "beta_end < 1"),
        ("--noise-schedule linear:beta_end=0.1,beta_end=0.2", "sets 'beta_end' twice"),
        ("--noise-schedule cosine:s=-1", "parameter 's' of noise schedule 'cosine' must be a "
            "number in [0, 1]"),
        ("--timestep-subset quad:span=2", "parameter 'span' of timestep subset 'quad' must be a "
            "number in (0, 1]"),
        ("--loss mse:delta=1", "loss 'mse' has no parameter 'delta'"),
        ("--model unet:channels=8", "has no parameter 'channels'; did you mean 'base_channels'?"),
        ("--model unet:base_channels=7", "base_channels must be an even number"),
        ("--model unet:base_channels=-8", "base_channels must be an even number"),
        ("--model unet:num_groups=7", "32 channels cannot be divided into num_groups = 7"),
        ("--model unet:num_groups=0", "num_groups = 0"),
        ("--model unet:channel_multipliers=1,2,2,2,2", "its size 8 is not divisible by 16"),
        ("--model unet:channel_multipliers=1,1.3", "1.3 x 32 channels is not an integer"),
        ("--model unet:up_attention_resolutions=3", "up_attention_resolutions contains 3"),
        ("--model unet:scale_shift=2", "parameter 'scale_shift' of model 'unet' must be true or "
            "false, not '2'"),
        ("--model unet:downsample_padding=2", "downsample_padding must be 0 or 1"),
        ("--model unet:channel_multipliers=0", "channel_multipliers must contain"),
        ("--model unet:channel_multipliers=", "channel_multipliers must contain"),
        ("--model unet:num_res_blocks=0", "num_res_blocks must be from 1 to 100"),
        ("--model unet:attention_head_dim=5", "64 channels cannot be divided into heads of 5"),
        ("--model unet:dropout=1", "dropout must be a number in [0, 1)"),
        ("--model unet:image_size=8", "has no parameter 'image_size'"),
        ("--data images", "data set 'images' needs a value for its parameter 'path'"),
        ("--data digits:path=/tmp", "data set 'digits' has no parameter 'path'"),
        ("--eta 1.5", "--eta must be a number in [0, 1], not '1.5'"),
        ("--eta -0.1", "--eta must be a number in [0, 1], not '-0.1'"),
        ("--eta nan", "--eta must be a number in [0, 1], not 'nan'"),
        ("--eta zero", "--eta must be a number in [0, 1], not 'zero'"),
        ("--lr 0", "--lr must be a number above 0, not '0'"),
        ("--lr -1", "--lr must be a number above 0, not '-1'"),
        ("--lr nan", "--lr must be a number above 0, not 'nan'"),
        ("--lr inf", "--lr must be a number above 0, not 'inf'"),
        ("--lr 1e999", "--lr must be a number above 0, not '1e999'"),
        ("--lr-warmup-steps -1", "--lr-warmup-steps must be an integer from 0 to "
            "1,000,000,000,000, not '-1'"),
        ("--ema-decay 1", "--ema-decay must be a number in [0, 1), not '1'"),
        ("--ema-decay -0.5", "--ema-decay must be a number in [0, 1), not '-0.5'"),
        ("--max-grad-norm 0", "--max-grad-norm must be a number above 0, not '0'"),
        ("--max-grad-norm nan", "--max-grad-norm must be a number above 0, not 'nan'"),
        ("--clip maybe", "--clip must be true or false, not 'maybe'"),
        ("--seed -1", "--seed must be an integer in [0, 2^63), not '-1'"),
        ("--seed 9223372036854775808", "--seed must be an integer in [0, 2^63), not '9223372036854775808'"),
        ("--seed 1.5", "--seed must be an integer in [0, 2^63), not '1.5'"),
        ("--batch-size 0", "--batch-size must be an integer from 1 to 100,000, not '0'"),
        ("--batch-size 1e3", "--batch-size must be an integer from 1 to 100,000, not '1e3'"),
        ("--train-steps 0", "--train-steps must be an integer from 1 to 1,000,000,000,000, not '0'"),
        ("--train-steps -5", "--train-steps must be an integer from 1 to 1,000,000,000,000, not '-5'"),
        ("--num-images 0", "--num-images must be an integer from 1 to 1,000,000, not '0'"),
        ("--test-images 0", "--test-images must be an integer from 1 to 1,000,000,000,000, not '0'"),
        ("--steps 0", "--steps must be an integer from 1 to 100,000, not '0'"),
        ("--steps 1001", "cannot sample in 1001 steps"),
        ("--steps 51 --num-train-timesteps 50", "fix: use --steps 50 or less"),
        ("--num-train-timesteps 0", "--num-train-timesteps must be an integer from 1 to 100,000, not '0'"),
        ("--num-train-timesteps 20", "noise schedule 'linear' is too steep for 20 timesteps"),
        ("--num-train-timesteps 1000000000000000000000000", "from 1 to 100,000"),
        ("--epochs 0", "--epochs must be an integer from 1 to 1,000,000,000,000, not '0'"),
        ("--epochs 1.5", "--epochs must be an integer from 1 to 1,000,000,000,000, not '1.5'"),
        ("--epochs -1", "--epochs must be an integer from 1 to 1,000,000,000,000, not '-1'"),
        ("--epochs 1 --train-steps 1", "--epochs and --train-steps are mutually exclusive"),
        ("--device gpu", "--device must be one of auto, cpu, cuda, not 'gpu'"),
        ("--precision fp16", "--precision must be one of auto, fp32, bf16, not 'fp16'"),
        ("--resume", "--resume needs --out"),
        ("--resume --out nowhere", "there is no run in nowhere"),
        ("--config nowhere.toml", "cannot read the configuration nowhere.toml"),
        ("--config .", "cannot read the configuration ."),
        ("--data cifar10:path=/no/where", "cannot read CIFAR-10 from /no/where"),
        ("--data images:path=/no/where", "cannot open /no/where\n  why: No such file or directory\n"),
        ("--data images:path=~nosuchuser/x", "there is no home folder ~nosuchuser"),
        ("--lr-warmup-steps 1000000000001", "from 0 to 1,000,000,000,000"),
        ("--model unet:attention_resolutions=3", "contains 3, but the levels are 8, 4 pixels high"),
        ("--model unet:attention_resolutions=3", "fix: set attention_resolutions=8 in the parameters"),
        ("--model unet:base_channels=12", "fix: set num_groups=3 in the parameters of --model"),
        ("--data images:path=/dev/null", "/dev/null is neither a folder nor a file"),
    ],
)  # fmt: skip
def test_invalid_option_is_refused(refused: Callable[..., str], arguments: str, message: str) -> None:
    assert message in refused(*arguments.split())


def test_several_names_are_not_one_part(refused: Callable[..., str]) -> None:
    assert "; in a sweep, repeat the option: --loss mse --loss l2\n" in refused("--loss", "mse,l2")


def test_mistyped_folder_of_a_run_suggests_one_beside_it(
    in_process: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "config.toml").touch()
    error = in_process("sample", "runs/frist").err
    assert "there is no run in runs/frist; did you mean 'runs/first'?\n" in error
    assert f"why: {tmp_path / 'runs' / 'frist'} does not exist\n" in error


def test_missing_arguments_are_shown_in_a_command(in_process: Callable[..., Outcome]) -> None:
    assert "fix: write `ddim-host import SOURCE --out DIR`; see" in in_process("import", "x").err
    assert "fix: write `ddim-host sample RUN`; see" in in_process("sample").err


def test_run_is_not_compared_with_itself(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    done = in_process("compare", tmp_path, tmp_path / ".." / tmp_path.name)
    assert (done.code, f"{tmp_path} is given more than once" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("name", "kind", "fix"),
    [
        ("c.png", "html", "c.html\n"),
        ("c.HTML", "md", "c.md, or use --format html\n"),
        ("c.json", "html", "c.html, or use --format json\n"),
    ],
)
def test_comparison_in_a_file_of_another_format_is_refused(
    in_process: Callable[..., Outcome], tmp_path: Path, name: str, kind: str, fix: str
) -> None:
    done = in_process("compare", tmp_path, "--format", kind, "--out", tmp_path / name)
    assert done.code == 2
    assert f"{name} has the suffix of another format than {kind}\n" in done.err
    assert f"  fix: use --out {tmp_path}/{fix}" in done.err


@pytest.mark.parametrize(("name", "kind"), [("c.htm", "html"), ("c", "md"), ("c.txt", "json")])
def test_comparison_may_have_any_other_suffix(
    in_process: Callable[..., Outcome], tmp_path: Path, name: str, kind: str
) -> None:
    done = in_process("compare", tmp_path, "--format", kind, "--out", tmp_path / name)
    assert "none of these runs can be read" in done.err


def test_existing_run_is_refused_before_anything_is_printed(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    (tmp_path / "config.toml").touch()
    done = in_process("run", "--plugin", "torch", "--out", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"ddim-host: error: {tmp_path} already contains a run\n")


@pytest.mark.parametrize(
    "arguments",
    ["--batch-size 1000000000000", "--num-images 1000000000000", f"--epochs 1{'0' * 400}"],
    ids=["batch size", "images", "epochs"],
)
def test_impossibly_large_numbers_are_refused(refused: Callable[..., str], arguments: str) -> None:
    refused("--dry-run", *arguments.split())


def test_several_frameworks_require_a_choice(
    refused: Callable[..., str], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-jittor")
    site.distribution("ddim-own", "[ddim_host.frameworks]\nown = nowhere\n")
    message = refused(plugin=None)
    assert "no framework was chosen\n  why: installed: own, torch\n" in message
    assert "fix: add --plugin own or --plugin torch" in message


def test_missing_framework_is_an_error(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIM_HOST_DISABLE_PLUGINS", "ddim-torch,ddim-jittor")
    message = refused(plugin=None)
    assert "why: installed: none" in message
    assert "fix: in a clone of ddim-host: `make install`, then `. .venv/bin/activate`; " in message
    assert (
        "`pip install . plugins/losses plugins/timestep_samplers plugins/ddim_torch or plugins/ddim_jittor`"
        in message
    )


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ("troch", "there is no framework plugin named 'troch'; did you mean 'torch'?"),
        (
            "torch,torch",
            "named 'torch,torch'; in a sweep, repeat the option: --plugin torch --plugin torch\n",
        ),
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
        ("eta = 1.5", "eta in {path} must be a number in [0, 1], not 1.5"),
        ("nonsense", "the configuration {path} is not valid TOML"),
        ("loss = 'mes'", "there is no loss named 'mes'"),
        (
            "[noise_schedule]\nname = 'linear'\nparameters.beta_end = 'x'",
            "parameter 'beta_end' of noise schedule 'linear' must be a number, not 'x'",
        ),
    ],
)
def test_invalid_config_file_is_refused(
    refused: Callable[..., str], tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(content, encoding="utf-8")
    assert message.format(path=path) in refused("--config", path)


def test_occupied_out_is_refused(refused: Callable[..., str], tmp_path: Path, tiny_run: Run) -> None:
    file, full = tmp_path / "file", tmp_path / "full"
    file.touch()
    full.mkdir()
    (full / "thesis.txt").touch()
    for path in (file, full):
        assert f"{path} exists and is not an empty folder" in refused("--out", path)
    assert f"continue it with --resume --out {tiny_run.path}" in refused("--out", tiny_run.path)


def test_too_long_out_is_refused(refused: Callable[..., str]) -> None:
    refused("--out", "a" * 300)


@pytest.mark.parametrize(
    "option", ["--eta 1", "--seed 3", "--loss l2", "--epochs 2", "--train-steps 9", "--device auto"]
)
def test_resume_cannot_change_settings(refused: Callable[..., str], tiny_run: Run, option: str) -> None:
    message = refused("--resume", "--out", tiny_run.path, *option.split(), plugin=None)
    assert "--resume cannot change settings, but these differ:" in message
    assert option.split(maxsplit=1)[0].lstrip("-").replace("-", "_") in message.splitlines()[0]


def test_resume_with_a_config_file_does_not_replace_other_files(
    refused: Callable[..., str], tiny_run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "trial.toml"
    text = (tiny_run.path / "config.toml").read_text(encoding="utf-8").replace("seed = 0", "seed = 1")
    path.write_text(text, encoding="utf-8")
    resume = ("--resume", "--config", path)
    assert "but these differ: seed" in refused(*resume, "--out", tiny_run.path, plugin=None)
    assert "--resume needs --out" in refused(*resume, plugin=None)
    (tmp_path / "letter.txt").touch()
    assert "is not an empty folder" in refused(*resume, "--out", tmp_path, plugin=None)
    both = refused(*resume, "--out", tmp_path / "new", "--start-from", tiny_run.path, plugin=None)
    assert "--resume and --start-from are mutually exclusive" in both
    assert not (tmp_path / "new").exists()


def test_damaged_config_cannot_be_resumed(refused: Callable[..., str], tiny_run: Run, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_run.path, tmp_path / "copy"))
    text = (copy / "config.toml").read_text()
    for damaged in (text.replace("eta = 0.0", "eta = 2.0"), text + "[", "\0"):
        (copy / "config.toml").write_text(damaged)
        assert str(copy / "config.toml") in refused("--resume", "--out", copy)


# --- Unreadable images --------------------------------------------------------------------------------------


def read(refused: Callable[..., str], path: Path) -> str:
    return refused("--data", f"images:path={path}")


def test_folder_without_images_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / "notes.txt").touch()
    assert f"there are no images in {folder}" in read(refused, folder)


def test_invalid_archive_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(b"not an archive" * 1000)
    assert str(path) in read(refused, path)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"garbage"])
def test_invalid_first_image_is_refused(refused: Callable[..., str], tmp_path: Path, content: bytes) -> None:
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
    """Like `refused`, for errors that follow a progress bar."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*arguments: str | Path) -> str:
        outcome = in_process("run", "--plugin", "torch", *arguments)
        assert outcome.code == 2, outcome
        assert list(folder.iterdir()) == []
        return last_error(outcome.err)

    return run


def test_truncated_png_is_refused(refused_late: Callable[..., str], pictures: Path, tmp_path: Path) -> None:
    folder = copied(pictures, tmp_path)
    whole = (folder / "07.png").read_bytes()
    (folder / "07.png").write_bytes(whole[: len(whole) // 2])
    assert refused_late("--data", f"images:path={folder}").startswith("cannot decode 07.png")


def test_images_of_different_sizes_are_refused(
    refused_late: Callable[..., str], pictures: Path, tmp_path: Path
) -> None:
    folder = copied(pictures, tmp_path)
    Image.new("RGB", (16, 16)).save(folder / "07.png")
    message = refused_late("--data", f"images:path={folder}")
    assert message.startswith(f"07.png in {folder} is 16 x 16 pixels, but 00.png is 8 x 8")


def test_single_image_is_refused(refused_late: Callable[..., str], pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(pictures / "00.png", folder)
    assert refused_late("--data", f"images:path={folder}").startswith("there are too few images")


def test_cifar10_from_other_files_is_refused(
    refused_late: Callable[..., str], pictures: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "other"), "gztar", pictures))
    for path in (archive, pictures):
        message = refused_late("--data", f"cifar10:path={path}")
        assert message.startswith(f"cannot read CIFAR-10 from {path}\n")
    path = pictures / "00.png"
    message = refused_late("--data", f"cifar10:path={path}")
    assert message.startswith(f"{path} is neither a folder nor a supported archive")


# --- Before training ----------------------------------------------------------------------------------------


def test_train_steps_below_those_of_start_from_are_refused(
    in_process: Callable[..., Outcome], tiny: list[str], tiny_run: Run, tmp_path: Path
) -> None:
    arguments = ["run", "--start-from", tiny_run.path, "--train-steps", "2", "--out", tmp_path / "run"]
    outcome = in_process(*arguments)
    assert outcome.code == 2
    assert "has already been trained for 3 steps" in outcome.err
    assert not (tmp_path / "run").exists()


def test_too_many_images_for_a_grid_are_refused_before_training(
    in_process: Callable[..., Outcome], tmp_path: Path
) -> None:
    outcome = in_process("run", "--plugin", "torch", "--num-images", "10001", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "10,001 images are too many for one grid" in outcome.err
    assert not (tmp_path / "run").exists()
