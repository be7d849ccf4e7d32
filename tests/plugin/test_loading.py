"""Loading plugins: each fails alone, with an error that says what mends it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pluggy
import pytest

import ddim_losses
from ddim_host.plugin.discovery import DISABLED
from ddim_host.plugin.hookspecs import PROJECT, hookspec
from ddim_host.plugin.loading import STRICT, load_plugins
from tests.support.broken_plugins import HOOK
from tests.support.commands import DRY
from tests.support.distributions import Site, installed, losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Outcome


# --- Broken plugins -----------------------------------------------------------------------------------------


def test_a_missing_part_may_be_that_of_a_broken_plugin(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("robust-losses", "import no_such_module")
    outcome = in_process(*DRY, "--loss", "robust")
    assert outcome.code == 2
    assert "robust-losses 1.0 (robust-losses) is broken: ModuleNotFoundError" in outcome.err


@pytest.mark.usefixtures("no_framework")
def test_a_hook_that_forgets_to_return_is_an_error(site: Site) -> None:
    site.plugin("forgetful", "@hookimpl\ndef ddim_losses():\n    {'huber': abs}")
    assert installed("forgetful").status == "error"


@pytest.mark.usefixtures("no_framework")
def test_impatient_users_are_not_taken_for_a_broken_plugin(site: Site) -> None:
    site.plugin("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins()


# --- What `plugins` says ------------------------------------------------------------------------------------


def test_only_broken_plugins_that_may_give_a_part_are_mentioned(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("odd-losses", HOOK + "[abs]")
    site.plugin("misspelt", "@hookimpl\ndef ddim_loses():\n    return {}")
    site.plugin("odd-data", "@hookimpl\ndef ddim_datasets():\n    return []")
    err = in_process(*DRY, "--loss", "odd").err
    assert "odd-losses 1.0" in err
    assert "misspelt 1.0" in err  # whatever it was meant to give
    assert "odd-data" not in err
    err = in_process(*DRY, "--loss", "odd-data/odd").err
    assert "why: it gives no loss\n  fix: " in err


# --- What mends it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("import no_such_module.part", "install what has the module 'no_such_module'"),
        ("import odd_losses.part", "reinstall it: pip install --force-reinstall odd-losses"),
        ("import torch", f"tell the authors of odd-losses, or switch it off: {DISABLED}=odd-losses"),
        ("1 / 0", f"tell the authors of odd-losses, or switch it off: {DISABLED}=odd-losses"),
    ],
)
def test_the_fix_depends_on_the_cause(
    site: Site, in_process: Callable[..., Outcome], source: str, fix: str
) -> None:
    site.plugin("odd-losses", source)
    assert installed("odd-losses").fix == fix
    out = in_process("plugins", "odd-losses").out
    assert f"\n  fix: {fix}\n" in out
    assert "(odd_losses.py:2)" in out


@pytest.mark.usefixtures("no_framework")
def test_the_innermost_line_of_a_plugin_is_named(site: Site) -> None:
    site.package("deep_losses")
    (site.path / "deep_losses" / "__init__.py").write_text("import deep_losses.extra\n", encoding="utf-8")
    extra = "import json\njson.loads('{')\n"
    (site.path / "deep_losses" / "extra.py").write_text(extra, encoding="utf-8")
    site.distribution("deep", "[ddim_host.plugins]\ndeep = deep_losses\n")
    assert installed("deep").error.endswith(" (deep_losses/extra.py:2)")


# --- One framework per process ------------------------------------------------------------------------------


def test_a_framework_that_does_not_load(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin(
        "ddim-paddle", "raise OSError('no driver')", entry="paddle", group="frameworks", version="3.1"
    )
    outcome = in_process("run", "--plugin", "paddle", "--dry-run")
    assert outcome.code == 2
    assert "the framework plugin 'paddle' does not load" in outcome.err
    assert "ddim-paddle 3.1 (paddle): OSError: no driver" in outcome.err
    assert in_process(*DRY).code == 0


def test_a_framework_without_a_network_does_not_load(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("own-losses", losses("own"), entry="own", group="frameworks")
    outcome = in_process("run", "--plugin", "own", "--dry-run")
    assert outcome.code == 2
    assert "the framework plugin 'own' does not load" in outcome.err
    assert "a framework gives networks, by the hook ddim_model_factories" in outcome.err
    assert "'ddim_host.plugins'" in outcome.err


# --- Switched off, strict, too new, slow --------------------------------------------------------------------


def test_strict_makes_a_broken_plugin_an_error(
    site: Site, in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(STRICT, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert in_process("plugins", "--strict-plugins").code == 0
    assert in_process(*DRY, "--strict-plugins").code == 0
    site.plugin("odd-losses", "raise OSError('no disk')")
    os.environ.pop(STRICT)
    assert in_process(*DRY).code == 0
    for arguments in (DRY, ("plugins",)):
        outcome = in_process(*arguments, "--strict-plugins")
        assert outcome.code == 2
        assert "odd-losses 1.0 (odd-losses) is broken: OSError: no disk" in outcome.err


def test_strict_makes_a_conflict_an_error(
    site: Site, in_process: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STRICT, "1")
    site.plugin("other-losses", losses("mse"))
    outcome = in_process(*DRY)
    assert outcome.code == 2
    assert "the loss 'mse' is given by ddim-losses and other-losses" in outcome.err


# --- Names that two distributions give ----------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_two_entry_points_cannot_share_a_module(site: Site) -> None:
    entry_points = "[ddim_host.plugins]\none = shared\ntwo = shared\n"
    site.distribution("shared", entry_points)
    site.module("shared", "from ddim_host import hookimpl\n" + losses("fine"))
    assert installed("one").status == "ok"
    assert "already loaded under another name" in installed("two").error


# --- Parts --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_an_object_in_a_module_can_be_the_plugin(site: Site) -> None:
    source = """
from ddim_host import hookimpl
class Plugin:
    @hookimpl
    def ddim_losses(self):
        return {'fine': abs}
plugin = Plugin()
"""
    site.distribution("objects", "[ddim_host.plugins]\nobjects = objects_module:plugin\n")
    site.module("objects_module", source)
    assert installed("objects").provides == {"ddim_losses": ["fine"]}


def test_a_hook_can_gain_arguments_without_breaking_plugins() -> None:
    class NewerHost:
        @hookspec
        def ddim_losses(self, host_version: str) -> None:
            """Tells plugins something that those of today do not ask for."""

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(NewerHost)
    manager.register(ddim_losses)
    [given] = manager.hook.ddim_losses(host_version="99")
    assert "mse" in given
