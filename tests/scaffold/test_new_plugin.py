"""`new-plugin`: its output installs with pip, passes its own tests, and works in a run."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ddim_host.errors import UserError
from ddim_host.plugin.registry import Kind
from ddim_host.scaffold.names import PLUGIN_KINDS, new_plugin
from tests.support.commands import pass_tests
from tests.support.distributions import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Command, Outcome


@pytest.fixture(scope="module")
def written(ddim_host: Command, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Create a new distribution of each kind."""
    folder = tmp_path_factory.mktemp("written")
    for kind in PLUGIN_KINDS:
        outcome = ddim_host("new-plugin", f"my-{kind}", "--kind", kind, cwd=folder)
        assert outcome.code == 0, outcome.err
        steps = f"pip install -e 'ddim-my-{kind}[test]'\n  python -m pytest ddim-my-{kind}\n  ddim-host "
        assert steps in outcome.out
    return {kind: folder / f"ddim-my-{kind}" for kind in PLUGIN_KINDS}


@pytest.fixture(scope="module")
def site(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Build all of them as wheels and install them with pip."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *written.values()], check=True)
    return Site(folder)


@pytest.mark.slow
def test_new_plugins_pass_their_own_tests(
    written: dict[str, Path], site: Site, environment: dict[str, str]
) -> None:
    for folder in written.values():
        pass_tests(cwd=folder, env={**environment, **site.env}, timeout=1200)


@pytest.mark.slow
def test_run_with_all_new_plugins(site: Site, ddim_host: Command, tiny: list[str], tmp_path: Path) -> None:
    parts = [
        f"--{kind.option.replace('_', '-')}=my_{name.replace('-', '_')}"
        for name, kind in PLUGIN_KINDS.items()
        if kind not in (Kind.FEATURES, Kind.MODEL, Kind.SEARCH)
    ]
    path = tmp_path / "run"
    outcome = ddim_host(*tiny, *parts, "--out", path, env=site.env)
    assert outcome.code == 0, outcome.err
    evaluated = ddim_host(
        *("evaluate", path, "--samples", "20", "--steps", "3", "--eta", "0"),
        *("--features", "my_feature_extractor:cells=2"),
        env=site.env,
    )
    assert evaluated.code == 0, evaluated.err
    searched = ddim_host(
        *("optimize", path, "--steps", "2", "--teacher-steps", "5", "--images", "4"),
        *("--search", "my_subset_search:even_share=0.1"),
        env=site.env,
    )
    assert searched.code == 0, searched.err
    framework = ddim_host(*tiny, "--plugin", "my_framework", "--out", tmp_path / "own", env=site.env)
    assert framework.code == 0, framework.err
    table = ddim_host("plugins", env=site.env).out
    assert "does not work" not in table
    assert "my_loss:power=1.5" in table


@pytest.mark.parametrize(
    ("name", "part", "distribution", "package", "class_name"),
    [
        ("mine", "mine", "ddim-mine", "ddim_mine", "Mine"),
        ("my-own", "my_own", "ddim-my-own", "ddim_my_own", "MyOwn"),
        ("ddim_my_own2", "my_own2", "ddim-my-own2", "ddim_my_own2", "MyOwn2"),
    ],
)
def test_all_names_follow_from_the_given_name(
    name: str, part: str, distribution: str, package: str, class_name: str
) -> None:
    plugin = new_plugin(name, Kind.LOSS)
    assert (plugin.part, plugin.distribution, plugin.package, plugin.class_name) == (
        part,
        distribution,
        package,
        class_name,
    )


@pytest.mark.parametrize("name", ["", "ddim-", "2nd", "My", "a b", "a/b", "../a", "class", "a--b", "é", "-a"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="is not a valid name for a plugin"):
        new_plugin(name, Kind.LOSS)


@pytest.mark.parametrize(("name", "keyword"), [("class", "class"), ("none", "None"), ("true", "True")])
def test_keyword_of_python_is_refused_for_that_reason(name: str, keyword: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is not a valid name") as caught:
        new_plugin(name, Kind.OBSERVER)
    assert caught.value.why == f"{keyword!r} is a Python keyword, so no function or class can have this name"
    assert caught.value.fix == f"choose another name, such as my-{name}"


@pytest.mark.usefixtures("site_of_others")
def test_name_of_an_installed_plugin_can_be_freed(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    err = in_process("new-plugin", "there", "--kind", "loss", "--out", tmp_path / "new").err
    assert "fix: choose another name, or first uninstall the existing one: pip uninstall ddim-there\n" in err


@pytest.mark.parametrize(("name", "renamed"), [("my-strata", True), ("strata", False), ("my_strata", False)])
def test_name_of_the_part_is_reported(
    in_process: Callable[..., Outcome], tmp_path: Path, name: str, *, renamed: bool
) -> None:
    out = in_process("new-plugin", name, "--kind", "loss", "--out", tmp_path / "new").out
    assert ("\n\nthe part is called my_strata\n" in out) == renamed


def test_printed_commands_quote_the_folder(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "it's new"
    commands = in_process("new-plugin", "strata", "--kind", "loss", "--out", folder).out.splitlines()
    for first, *words in (
        (f"{folder}[test]", "pip", "install", "-e"),
        (str(folder), "python", "-m", "pytest"),
    ):
        assert [*words, first] in [shlex.split(line) for line in commands if line.startswith("  p")]


@pytest.mark.parametrize(
    ("kind", "meant"), [("sampler", "timestep-sampler"), ("schedule", "noise-schedule"), ("los", "loss")]
)
def test_kind_is_suggested_by_its_words(in_process: Callable[..., Outcome], kind: str, meant: str) -> None:
    assert f"did you mean '{meant}'?" in in_process("new-plugin", "mine", "--kind", kind).err


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("host", "loss", "this project already has a distribution 'ddim-host'"),
        ("ddim-losses", "dataset", "this project already has a distribution 'ddim-losses'"),
        ("torch", "framework", "this project already has a distribution 'ddim-torch'"),
        ("timestep-samplers", "loss", "this project already has a distribution 'ddim-timestep-samplers'"),
        ("there", "loss", "the distribution 'ddim-there' is already installed, and would be replaced"),
        ("lying-about", "loss", "a package 'ddim_lying_about' is already installed"),
        ("mse", "loss", "one with this name is already installed"),
        ("uniform", "timestep-sampler", "one with this name is already installed"),
        ("paddle", "framework", "one with this name is already installed"),
        ("np", "loss", "ddim_np/__init__.py already uses 'np'"),
        ("abs", "loss", "ddim_abs/__init__.py already uses 'abs'"),
        (
            "noise-schedule",
            "timestep-sampler",
            "ddim_noise_schedule/__init__.py already uses 'NoiseSchedule'",
        ),
        ("loss-contract", "loss", "tests/test_loss_contract.py already uses 'LossContract'"),
    ],
)
@pytest.mark.usefixtures("site_of_others")
def test_names_already_in_use_are_refused(
    in_process: Callable[..., Outcome], tmp_path: Path, name: str, kind: str, why: str
) -> None:
    outcome = in_process("new-plugin", name, "--kind", kind, "--out", tmp_path / "new")
    assert outcome.code == 2
    assert "cannot be called" in outcome.err
    assert why in outcome.err
    assert not (tmp_path / "new").exists()


@pytest.fixture
def site_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Site(tmp_path / "others")
    folder.distribution("ddim-there", "")
    folder.distribution("other-paddle", "[ddim_host.frameworks]\npaddle = other_paddle\n")
    folder.package("ddim_lying_about")
    monkeypatch.syspath_prepend(folder.path)


def test_name_of_another_kind_is_free(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    assert in_process("new-plugin", "mse", "--kind", "dataset", "--out", tmp_path / "new").code == 0


def test_new_noise_schedule_refuses_invalid_betas(
    in_process: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    assert in_process("new-plugin", "slow-rise", "--kind", "noise-schedule", "--out", folder).code == 0
    monkeypatch.syspath_prepend(folder)
    part = importlib.import_module("ddim_slow_rise").slow_rise
    assert part(1000)[0] == pytest.approx(1e-4)
    for ends in ({"beta_start": 0.0}, {"beta_start": 0.1}, {"beta_end": 1.0}):
        with pytest.raises(UserError, match="0 < beta_start <= beta_end < 1"):
            part(1000, **ends)
    with pytest.raises(UserError, match="too steep for 20 timesteps"):
        part(20)


def test_existing_folder_is_not_overwritten(in_process: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    outcome = in_process("new-plugin", "mine", "--kind", "loss", "--out", folder)
    assert outcome.code == 2
    assert "already exists" in outcome.err
    assert not list(folder.iterdir())
    missing = tmp_path / "a-file"
    missing.touch()
    outcome = in_process("new-plugin", "mine", "--kind", "loss", "--out", missing / "x")
    assert outcome.code == 2
    assert "cannot write" in outcome.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-file", "mine"]
