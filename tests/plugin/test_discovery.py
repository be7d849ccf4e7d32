"""Finding plugins: damaged distributions, unknown groups, disabled plugins."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from ddim_host.plugin.discovery import DISABLED, installed_frameworks
from ddim_host.plugin.loading import load_plugins
from tests.support.commands import DRY
from tests.support.distributions import Site, installed, losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Outcome


# --- Broken plugins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "entry_points"),
    [
        (b"Name: odd\nAuthor: Andr\xe9\nVersion: 1\n", b""),
        (b"Name: odd\nVersion: 1\n", b"[ddim_host.plugins]\nno equals sign\n"),
        (b"Name: odd\nVersion: 1\n", b"[console_scripts]\nno equals sign\n"),
        (b"Name: odd\nVersion: 1\n", b"[console_scripts]\nx = \xff\n"),
    ],
    ids=["metadata not UTF-8", "bad entry point", "bad entry point of others", "entry points not UTF-8"],
)
@pytest.mark.usefixtures("no_framework")
def test_damaged_distribution_does_not_affect_others(
    site: Site, metadata: bytes, entry_points: bytes
) -> None:
    folder = site.distribution("odd", "")
    (folder / "METADATA").write_bytes(metadata)
    (folder / "entry_points.txt").write_bytes(entry_points)
    assert installed("losses").status == "ok"


@pytest.mark.usefixtures("no_framework")
def test_distribution_without_metadata_does_not_affect_others(site: Site) -> None:
    (site.distribution("odd", "") / "METADATA").unlink()
    assert installed("losses").status == "ok"


# --- Remedies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "meant"),
    [
        ("ddim-host.plugins", "ddim_host.plugins"),
        ("ddim_host.plugin", "ddim_host.plugins"),
        ("DDIM.Host.Plugins", "ddim_host.plugins"),
        ("ddim_host.losses", "ddim_host.plugins"),
        ("dimhost.plugins", "ddim_host.plugins"),
        ("ddim_host.framework", "ddim_host.frameworks"),
        ("ddim-host-frameworks", "ddim_host.frameworks"),
        ("console_scripts", None),
        ("pytest11", None),
        ("diffusers.plugins", None),
        ("ddim_host_tools", None),
    ],
)
def test_unknown_entry_point_group_is_reported(
    site: Site, in_process: Callable[..., Outcome], group: str, meant: str | None
) -> None:
    site.distribution("lost-losses", f"[{group}]\nlost = lost_losses\n")
    outcome = in_process("plugins", "lost-losses")
    if meant is None:
        assert "no installed part, plugin or distribution is called 'lost-losses'" in outcome.err
        return
    assert f"its entry-point group {group!r} does not exist; did you mean {meant!r}?" in outcome.out
    assert f'fix: write [project.entry-points."{meant}"] in its pyproject.toml' in outcome.out
    assert "lost-losses 1.0 (lost) is broken: its entry-point group" in in_process("plugins").out


def test_choosing_a_framework_in_the_wrong_group_is_an_error(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.distribution("ddim-paddle", "[ddim_host.framework]\npaddle = ddim_paddle\n")
    outcome = in_process("run", "--plugin", "paddle", "--dry-run")
    assert outcome.code == 2
    assert "did you mean 'ddim_host.frameworks'?" in outcome.err
    assert "paddle" not in installed_frameworks()


def test_framework_in_the_wrong_group_does_not_conflict_with_its_namesake(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.distribution("lost-torch", "[ddim-host.framework]\ntorch = lost_torch\n")
    outcome = in_process("run", "--plugin", "torch", "--dry-run")
    assert outcome.code == 0, outcome.err
    listed = in_process("plugins").out
    assert "several" not in listed
    assert "is given by" not in listed


# --- One framework per process ------------------------------------------------------------------------------


def test_installed_frameworks_come_from_metadata_alone(site: Site) -> None:
    site.plugin("ddim-paddle", "raise SystemExit", entry="paddle", group="frameworks")
    assert {"paddle", "torch"} <= set(installed_frameworks())


# --- Disabled, strict, too new, slow ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["noisy", "Noisy_Losses", "noisy-losses/noisy", " other , noisy"])
@pytest.mark.usefixtures("no_framework")
def test_disabled_plugin_is_not_imported(site: Site, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    site.plugin("noisy-losses", "raise RuntimeError('imported')", entry="noisy")
    monkeypatch.setenv(DISABLED, name)
    plugin = installed("noisy")
    assert (plugin.status, plugin.error) == ("disabled", "")
    assert "noisy_losses" not in sys.modules


def test_disabling_a_plugin_resolves_a_conflict(
    site: Site, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("other-losses", losses("mse"))
    monkeypatch.setenv(DISABLED, "ddim-losses")
    assert "mse (other-losses 1.0)" in in_process(*DRY, "--loss", "mse").out
    monkeypatch.setenv(DISABLED, "torch")
    outcome = in_process(*DRY)
    assert outcome.code == 2
    assert "is disabled" in outcome.err
    assert "disabled\n  ddim-torch" in in_process("plugins").out


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("ddim-host>=99", False),
        ("ddim_host==0.0.*", False),
        ("ddim-host>=0.1", True),
        ("ddim-host", True),
        ("ddim-host>=99; extra == 'new'", True),
        ("numpy>=99", True),
        ("not a requirement!", True),
    ],
)
@pytest.mark.usefixtures("no_framework")
def test_plugin_for_a_newer_host_is_an_error(site: Site, requirement: str, fits: bool) -> None:
    site.plugin("modern", losses("fine"))
    with (site.path / "modern-1.0.dist-info" / "METADATA").open("a", encoding="utf-8") as file:
        file.write(f"Requires-Dist: {requirement}\n")
    plugin = installed("modern")
    assert (plugin.status == "ok") == fits
    if not fits:
        assert plugin.error.startswith("it needs ddim-host")
        assert plugin.fix.startswith("install ddim-host")
        assert "modern" not in sys.modules


# --- Names provided by two distributions --------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_two_distributions_may_share_an_entry_point_name(site: Site) -> None:
    site.plugin("first-losses", losses("one"), entry="losses")
    site.plugin("second-losses", losses("two"), entry="losses", version="2.0")
    same = [plugin for plugin in load_plugins().installed if plugin.name == "losses"]
    assert [(plugin.distribution, plugin.status) for plugin in same] == [
        ("ddim-losses", "ok"),
        ("first-losses", "ok"),
        ("second-losses", "ok"),
    ]


@pytest.mark.usefixtures("no_framework")
def test_a_framework_and_parts_may_share_an_entry_point_name(site: Site) -> None:
    site.plugin("torch-losses", losses("one"), entry="torch")
    assert {plugin.status for plugin in load_plugins().installed if plugin.name == "torch"} == {
        "ok",
        "available",
    }


@pytest.mark.usefixtures("no_framework")
def test_duplicate_distribution_on_the_path_counts_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.plugin("twice_there", losses("fine"))
    hidden = Site(site.path / "hidden")
    hidden.plugin("Twice.There", losses("old"), entry="twice_there", version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(hidden.path), str(site.path)])
    plugin = installed("twice_there")
    assert (plugin.distribution, plugin.version, plugin.status) == ("twice-there", "1.0", "ok")
