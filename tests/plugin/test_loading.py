"""Loading plugins: each fails alone, with an error that names the remedy."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pluggy
import pytest

import ddim_losses
from ddim_host.errors import UserError
from ddim_host.experiment.assembly import assemble
from ddim_host.experiment.config import Request
from ddim_host.plugin.discovery import DISABLED
from ddim_host.plugin.hookspecs import PROJECT, hookspec
from ddim_host.plugin.loading import STRICT, load_plugins
from tests.support.broken_plugins import HOOK
from tests.support.commands import DRY
from tests.support.distributions import Site, installed, losses

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.commands import Outcome


# --- Broken plugins -----------------------------------------------------------------------------------------


def test_error_of_a_missing_part_mentions_broken_plugins(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("robust-losses", "import no_such_module")
    outcome = in_process(*DRY, "--loss", "robust")
    assert outcome.code == 2
    assert "robust-losses 1.0 (robust-losses) is broken: ModuleNotFoundError" in outcome.err


@pytest.mark.usefixtures("no_framework")
def test_hook_without_return_value_is_an_error(site: Site) -> None:
    site.plugin("forgetful", "@hookimpl\ndef ddim_losses():\n    {'huber': abs}")
    assert installed("forgetful").status == "error"


@pytest.mark.usefixtures("no_framework")
def test_keyboard_interrupt_is_not_a_plugin_error(site: Site) -> None:
    site.plugin("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins()


# --- Output of `plugins` ------------------------------------------------------------------------------------


def test_only_broken_plugins_that_may_provide_the_part_are_mentioned(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("odd-losses", HOOK + "[abs]")
    site.plugin("misspelt", "@hookimpl\ndef ddim_loses():\n    return {}")
    site.plugin("odd-data", "@hookimpl\ndef ddim_datasets():\n    return []")
    err = in_process(*DRY, "--loss", "odd").err
    assert "odd-losses 1.0" in err
    assert "misspelt 1.0" in err  # it could have meant to provide any part
    assert "odd-data" not in err
    err = in_process(*DRY, "--loss", "odd-data/odd").err
    assert "why: it provides no loss\n  fix: " in err


# --- Remedies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "fix"),
    [
        ("import no_such_module.part", "install the distribution that contains the module 'no_such_module'"),
        ("import odd_losses.part", "reinstall it: pip install --no-deps --force-reinstall odd-losses"),
        ("import torch", f"report it to the authors of odd-losses, or disable it: {DISABLED}=odd-losses"),
        ("1 / 0", f"report it to the authors of odd-losses, or disable it: {DISABLED}=odd-losses"),
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
@pytest.mark.parametrize("editable", [True, False])
@pytest.mark.parametrize(
    ("module", "problem", "meant"),
    [
        ("ddim_othr", "did you mean 'ddim_other'?", "ddim_other"),
        ("ddim_other.plugn", "did you mean 'ddim_other.plugin'?", "ddim_other.plugin"),
        ("strata", "it contains ddim_other", "MODULE"),
    ],
)
def test_entry_point_that_names_a_missing_module_is_explained(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    editable: bool,
    module: str,
    problem: str,
    meant: str,
) -> None:
    """Reinstalling would not help: no version of the distribution contains the module."""
    source = tmp_path / "a source"
    source.mkdir()
    root = source if editable else site.path
    (root / "ddim_other").mkdir(parents=True)
    files = ["ddim_other/__init__.py", "ddim_other/plugin.py"]
    for name in files:
        (root / name).touch()
    monkeypatch.syspath_prepend(root)
    info = site.distribution("ddim-other", f"[ddim_host.plugins]\nother = {module}\n")
    if editable:
        (site.path / "_ddim_other.pth").write_text(f"{source}\n\n", encoding="utf-8")
        files = ["_ddim_other.pth"]
    record = "".join(f"{name},,\n" for name in [*files, f"{info.name}/METADATA"])
    (info / "RECORD").write_text(record, encoding="utf-8")
    origin = {"url": source.as_uri(), "dir_info": {"editable": editable}}
    (info / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    plugin = installed("other")
    assert plugin.error == (
        f"its entry point 'other' names the module {module!r}, which ddim-other does not contain; {problem}"
    )
    assert plugin.fix == (
        f'write other = "{meant}" below [project.entry-points."ddim_host.plugins"] in its pyproject.toml, '
        f"and reinstall it: pip install {'-e' if editable else '--no-deps --force-reinstall'} '{source}'"
    )


@pytest.mark.usefixtures("no_framework")
def test_modules_are_not_guessed_for_editable_distributions_of_setuptools(site: Site) -> None:
    info = site.distribution("ddim-other", "[ddim_host.plugins]\nother = ddim_absent\n")
    record = f"__editable___ddim_absent_finder.py,,\n{info.name}/METADATA,,\n"
    (info / "RECORD").write_text(record, encoding="utf-8")
    assert "No module named 'ddim_absent'" in installed("other").error


@pytest.mark.usefixtures("no_framework")
def test_fix_for_a_local_distribution_names_its_folder(site: Site, tmp_path: Path) -> None:
    site.plugin("odd-losses", "1 / 0")
    info = next(site.path.glob("odd*.dist-info"))
    origin = {"url": tmp_path.as_uri(), "dir_info": {}}
    (info / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")
    assert installed("odd-losses").fix == f"correct it in {tmp_path}, or disable it: {DISABLED}=odd-losses"


@pytest.mark.usefixtures("no_framework")
def test_the_innermost_line_of_a_plugin_is_named(site: Site) -> None:
    site.package("deep_losses")
    (site.path / "deep_losses" / "__init__.py").write_text("import deep_losses.extra\n", encoding="utf-8")
    extra = "import json\njson.loads('{')\n"
    (site.path / "deep_losses" / "extra.py").write_text(extra, encoding="utf-8")
    site.distribution("deep", "[ddim_host.plugins]\ndeep = deep_losses\n")
    assert installed("deep").error.endswith(" (deep_losses/extra.py:2)")


# --- One framework per process ------------------------------------------------------------------------------


def test_framework_that_fails_to_load_is_an_error(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin(
        "ddim-paddle", "raise OSError('no driver')", entry="paddle", group="frameworks", version="3.1"
    )
    outcome = in_process("run", "--plugin", "paddle", "--dry-run")
    assert outcome.code == 2
    assert "framework plugin 'paddle' failed to load" in outcome.err
    assert "ddim-paddle 3.1 (paddle): OSError: no driver" in outcome.err
    assert in_process(*DRY).code == 0


MISNAMED = "name the entry point jax instead of my_jax, like the module it imports"


def test_framework_plugin_that_is_not_named_like_its_module_is_explained(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.package("jax")
    site.plugin("ddim-my-jax", "import jax", entry="my_jax", group="frameworks")
    outcome = in_process("run", "--plugin", "my_jax", "--dry-run")
    assert outcome.code == 2
    assert f"fix: in ddim-my-jax, {MISNAMED}" in outcome.err


@pytest.mark.usefixtures("no_framework")
def test_misnamed_framework_plugin_is_explained_when_the_network_is_built(site: Site) -> None:
    site.package("jax")
    site.plugin(
        "ddim-my-jax",
        "def unet(spec, device, precision):\n    import jax\n"
        "@hookimpl\ndef ddim_model_factories():\n    return {'unet': unet}",
        entry="my_jax",
        group="frameworks",
    )
    with pytest.raises(UserError, match="framework 'my_jax' cannot be imported") as caught:
        assemble(Request("my_jax")).build_model()
    assert MISNAMED in caught.value.fix


def test_a_framework_without_a_network_does_not_load(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("own-losses", losses("own"), entry="own", group="frameworks")
    outcome = in_process("run", "--plugin", "own", "--dry-run")
    assert outcome.code == 2
    assert "framework plugin 'own' failed to load" in outcome.err
    assert "a framework plugin must provide networks with the hook ddim_model_factories" in outcome.err
    assert "'ddim_host.plugins'" in outcome.err


# --- Disabled, strict, too new, slow ------------------------------------------------------------------------


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
    assert "ddim-losses and other-losses provide the loss 'mse'" in outcome.err


# --- Names provided by two distributions --------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_two_entry_points_cannot_share_a_module(site: Site) -> None:
    entry_points = "[ddim_host.plugins]\none = shared\ntwo = shared\n"
    site.distribution("shared", entry_points)
    site.module("shared", "from ddim_host import hookimpl\n" + losses("fine"))
    assert installed("one").status == "ok"
    assert "already loaded under another name" in installed("two").error


# --- Parts --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_plugin_can_be_an_object_in_a_module(site: Site) -> None:
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
            """Pass an argument that existing plugins do not accept."""

    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(NewerHost)
    manager.register(ddim_losses)
    [given] = manager.hook.ddim_losses(host_version="99")
    assert "mse" in given
