"""`sweep.grid`: the experiments of a sweep and their names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import PartChoice, parse_choice
from ddim_host.plugin.registry import Kind
from ddim_host.sweep.grid import AXES, Grid, read_grid, read_value, requested, trial_name

if TYPE_CHECKING:
    from ddim_host.sweep.grid import AxisValue
    from tests.support.commands import Run


@given(st.dictionaries(st.sampled_from(AXES), st.lists(st.sampled_from("abc"), min_size=1), max_size=4))
def test_grid_contains_every_combination_once(axes: dict[str, list[str]]) -> None:
    trials = Grid({name: tuple(values) for name, values in axes.items()}).trials()
    size = 1
    for values in axes.values():
        size *= len(set(values))
    assert len(trials) == size
    assert len({tuple(trial.items()) for trial in trials}) == size
    assert all(trial[name] in axes[name] for trial in trials for name in axes)


def test_equal_parts_are_one_value() -> None:
    loss = (parse_choice("huber:delta=0.1"), parse_choice("huber:delta=0.1"), parse_choice("huber"))
    grid = Grid({"loss": loss, "lr": (read_value("lr", "1e-3"), read_value("lr", "0.001"))})
    assert grid.trials() == [{"loss": loss[0], "lr": 0.001}, {"loss": loss[2], "lr": 0.001}]
    assert grid.varying() == {"loss"}


def test_framework_varies_slowest_and_settings_fastest() -> None:
    trials = Grid({"seed": (0, 1), "loss": ("mse",), "plugin": ("torch", "jittor")}).trials()
    assert [list(trial.values()) for trial in trials] == [
        ["torch", "mse", 0],
        ["torch", "mse", 1],
        ["jittor", "mse", 0],
        ["jittor", "mse", 1],
    ]


def test_too_many_experiments_are_refused_immediately() -> None:
    values = tuple(map(str, range(1000)))
    with pytest.raises(UserError, match="at most 10,000"):
        Grid(dict.fromkeys(AXES, values)).trials()


def test_name_contains_what_differs_between_experiments() -> None:
    values: dict[str, AxisValue] = {
        "plugin": "torch",
        "loss": parse_choice("huber:delta=0.1"),
        "data": PartChoice("images", "ddim-host", {"path": "/a b/c", "sizes": [8, 16]}),
        "seed": 0,
        "clip": False,
    }
    assert trial_name(values, set()) == "torch"
    assert trial_name(values, {"loss", "seed", "clip"}) == "torch,loss=huber-delta=0.1,seed=0,clip=false"
    assert trial_name(values, {"data"}) == "torch,data=ddim-host-images-path=-a-b-c,sizes=8,16"
    long = trial_name({"plugin": "torch", "data": parse_choice("images:path=" + "\u96ea" * 300)}, {"data"})
    assert 100 < len(long.encode()) <= 120


@given(st.dictionaries(st.sampled_from(AXES), st.text(max_size=200), max_size=3))
def test_name_is_a_valid_folder_name(values: dict[str, str]) -> None:
    name = trial_name(values, set(values))
    assert re.fullmatch(r"(?![.-])[\w.,=+-]{1,120}", name)
    assert Path(name).name == name


def test_length_on_the_command_line_takes_precedence() -> None:
    file = Grid({"epochs": (3,), "seed": (0, 1)}, {"samples": "10"})
    asked = Grid({"train_steps": (5,), "seed": (2,)}, {"eta": "0"}).over(file)
    assert dict(asked.axes) == {"train_steps": (5,), "seed": (2,)}
    assert asked.evaluation == {"samples": "10", "eta": "0"}


@pytest.mark.parametrize("one", [None, {}, {"eta": "0"}])
def test_evaluation_is_requested_by_file_or_command_line(one: dict[str, str] | None) -> None:
    assert Grid({}, one).over(Grid()).evaluation == one
    assert Grid().over(Grid({}, one)).evaluation == one


def test_configuration_of_a_run_can_be_swept_over_frameworks(tiny_run: Run) -> None:
    file = read_grid(tiny_run.path / "config.toml")
    assert file.axes["plugin"] == ("ddim-torch/torch",)
    [model] = file.axes["model"]
    assert isinstance(model, PartChoice)
    assert (model.name, model.distribution, model.arguments["base_channels"]) == ("unet", "ddim-torch", 8)
    [both] = Grid({"plugin": ("torch", "jittor")}).over(file).axes["model"]
    assert both == PartChoice("unet", None, model.arguments)
    assert Grid({"plugin": ("ddim-torch/torch",)}).over(file).axes["model"] == (model,)
    chosen = parse_choice("unet:dropout=0.1")
    assert Grid({"plugin": ("jittor",), "model": (chosen,)}).over(file).axes["model"] == (chosen,)


def test_file_contains_values_and_lists_of_values(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(
        """
        plugin = ["torch", "jittor"]
        loss = ["mse", {name = "huber", distribution = "ddim-losses", parameters = {delta = 0.1}}]
        timestep_subset = {name = "explicit", parameters = {t = [0, 500, 999]}}
        lr = [1e-3, 0.5]
        clip = false
        [evaluate]
        steps = [5, 10]
        samples = 100
        """,
        encoding="utf-8",
    )
    grid = read_grid(path)
    assert dict(grid.axes) == {
        "plugin": ("torch", "jittor"),
        "loss": (PartChoice("mse", None, {}), PartChoice("huber", "ddim-losses", {"delta": 0.1})),
        "timestep_subset": (PartChoice("explicit", None, {"t": [0, 500, 999]}),),
        "lr": (0.001, 0.5),
        "clip": (False,),
    }
    assert grid.evaluation == {"steps": "5,10", "samples": "100"}


def test_value_may_look_like_another_parameter(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text('plugin = "torch"\ndata = {name = "images", parameters = {path = "a,size=3"}}', "utf-8")
    [trial] = read_grid(path).trials()
    assert requested(trial).parts[Kind.DATA].arguments == {"path": "a,size=3"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("los = 'mse'", "unknown setting 'los'; did you mean 'loss'"),
        ("seed = []", "seed in .* has no values"),
        ("seed = [[1]]", r"seed in .* must be an integer in .*, not \[1\]"),
        ("lr = [0.1, 0]", "lr in .* must be a number above 0, not 0"),
        ("loss = [1]", "cannot read loss"),
        ("plugin = [1]", "cannot read plugin"),
        ("preset = 1", "cannot read preset"),
        ("evaluate = 1", "must be a table"),
        ("[evaluate]\nsample = 1", "unknown setting 'sample'"),
        ("[evaluate]\nsteps = [[1]]", "cannot read evaluate.steps"),
        ('[evaluate]\nfeatures = "a\\u0000b"', "cannot read evaluate.features"),
        (f"seed = 0x{'f' * 5000}", "not valid TOML"),
        (f"seed = {'9' * 5000}", "not valid TOML"),
        ("=", "not valid TOML"),
    ],
)
def test_invalid_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_grid(path)


def test_request_of_a_trial() -> None:
    request = requested({"plugin": "torch", "loss": parse_choice("l1"), "preset": "paper-cifar10", "seed": 3})
    assert (request.plugin, request.parts[Kind.LOSS].name, request.settings["seed"]) == ("torch", "l1", 3)
    assert (request.parts[Kind.TIMESTEP_SUBSET].name, request.settings["train_steps"]) == ("quad", 800_000)
    shorter = requested({"plugin": "torch", "preset": "paper-cifar10", "epochs": 3})
    assert "train_steps" not in shorter.settings
    with pytest.raises(UserError, match="--epochs and --train-steps are mutually exclusive"):
        requested({"plugin": "torch", "epochs": 3, "train_steps": 3})
