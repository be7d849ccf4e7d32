"""Finding and loading plugins: each fails alone, and one framework at most is ever imported."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import types
from typing import TYPE_CHECKING, Any

import pluggy
import pytest

import ddim_losses
from ddim_host.plugin.discovery import DISABLED, Plugin, installed_frameworks
from ddim_host.plugin.hookspecs import PROJECT, hookspec
from ddim_host.plugin.loading import STRICT, Plugins, load_plugins
from ddim_host.plugin.parameters import parse_choice
from ddim_host.plugin.registry import Kind
from tests.support.broken_plugins import BROKEN, HOOK
from tests.support.distributions import Site, losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Command, Outcome, PythonCode

DRY = ("run", "--plugin", "torch", "--dry-run")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """All broken plugins at once, and one that works."""
    site = Site(tmp_path_factory.mktemp("broken"))
    for name, (source, _) in BROKEN.items():
        site.plugin(name, source)
    site.distribution("no-such-object", "[ddim_host.plugins]\nno-such-object = works:nothing\n")
    site.distribution("no-reference", "[ddim_host.plugins]\nno-reference = a b c\n")
    site.plugin("works", losses("fine"))
    site.package("jittor")
    site.package("jax")
    return site


@pytest.fixture(scope="module")
def rows(broken: Site, ddim_host: Command) -> dict[str, dict[str, Any]]:
    """What `plugins --json` says with all of them installed, frameworks by name, all else by distribution."""
    outcome = ddim_host("plugins", "--json", env=broken.env)
    assert outcome.code == 0, outcome.err
    return {
        row["name" if row["kind"] == "framework" else "distribution"]: row for row in json.loads(outcome.out)
    }


# --- Broken plugins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_shown_with_its_error(rows: dict[str, dict[str, Any]], name: str) -> None:
    row = dict(rows[name])
    assert BROKEN[name][1] in row.pop("error")
    assert row == {
        "name": name,
        "distribution": name,
        "version": "1.0",
        "kind": "parts",
        "entry_point": name.replace("-", "_"),
        "provides": {},
        "status": "error",
    }


@pytest.mark.parametrize("framework", ["torch", "jittor", "jax"])
def test_a_plugin_that_imports_a_framework_is_told_why_it_cannot(
    rows: dict[str, dict[str, Any]], framework: str
) -> None:
    [row] = [
        row for name, row in rows.items() if name in (f"imports-{framework}", f"imports-from-{framework}")
    ]
    assert f"'{framework}' cannot be imported here: this process runs no framework" in row["error"]


@pytest.mark.parametrize("name", ["no-such-object", "no-reference"])
def test_an_entry_point_that_leads_nowhere_is_shown_as_an_error(
    rows: dict[str, dict[str, Any]], name: str
) -> None:
    assert rows[name]["status"] == "error"
    assert rows[name]["error"]


def test_errors_are_one_line_each(rows: dict[str, dict[str, Any]]) -> None:
    assert not [row for row in rows.values() if "\n" in row["error"]]


def test_plugins_that_work_are_not_harmed(rows: dict[str, dict[str, Any]]) -> None:
    assert (rows["works"]["status"], rows["works"]["error"]) == ("ok", "")
    assert rows["works"]["provides"] == {"ddim_losses": ["fine"]}
    assert rows["ddim-losses"]["provides"] == {"ddim_losses": ["balanced", "huber", "l1", "l2", "mse"]}


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("plugins",), (*DRY, "--loss", "fine")]
)
def test_commands_work_beside_broken_plugins(
    broken: Site, ddim_host: Command, arguments: tuple[str, ...]
) -> None:
    outcome = ddim_host(*arguments, env=broken.env)
    # One of them may import torch here, which can take long enough to be said.
    errors = [line for line in outcome.err.splitlines() if "imports-in-hook" not in line]
    assert (outcome.code, errors) == (0, [])


def test_plugins_shows_people_who_is_broken_and_why(broken: Site, ddim_host: Command) -> None:
    out = ddim_host("plugins", env=broken.env).out
    assert "  raises 1.0 (raises) is broken: RuntimeError: first line (raises.py:2)\n" in out
    assert re.search(r"^loss \(--loss\)(\n  .*)*\n  fine +works 1.0\n", out, re.MULTILINE)


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
def test_a_damaged_distribution_harms_nobody(site: Site, metadata: bytes, entry_points: bytes) -> None:
    folder = site.distribution("odd", "")
    (folder / "METADATA").write_bytes(metadata)
    (folder / "entry_points.txt").write_bytes(entry_points)
    assert installed("losses").status == "ok"


@pytest.mark.usefixtures("no_framework")
def test_a_distribution_without_metadata_harms_nobody(site: Site) -> None:
    (site.distribution("odd", "") / "METADATA").unlink()
    assert installed("losses").status == "ok"


def test_a_chatty_plugin_does_not_spoil_the_json(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("chatty", "print('hello')\n" + losses("fine"))
    json.loads(in_process("plugins", "--json").out)


@pytest.mark.usefixtures("no_framework")
def test_impatient_users_are_not_taken_for_a_broken_plugin(site: Site) -> None:
    site.plugin("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_plugins()


# --- What `plugins` says ------------------------------------------------------------------------------------


def test_json_has_exactly_the_promised_keys_and_order(rows: dict[str, dict[str, Any]]) -> None:
    keys = ["name", "distribution", "version", "kind", "entry_point", "provides", "status", "error"]
    assert {tuple(row) for row in rows.values()} == {tuple(keys)}
    order = [(row["kind"], row["name"], row["distribution"]) for row in rows.values()]
    assert order == sorted(order)


def test_what_comes_with_the_host_is_found(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["ddim-host"] == {
        "name": "defaults",
        "distribution": "ddim-host",
        "version": importlib.metadata.version("ddim-host"),
        "kind": "parts",
        "entry_point": "ddim_host.parts",
        "provides": {
            "ddim_noise_schedules": ["cosine", "linear", "quad", "sigmoid"],
            "ddim_loss_weightings": rows["ddim-host"]["provides"]["ddim_loss_weightings"],
            "ddim_timestep_subsets": rows["ddim-host"]["provides"]["ddim_timestep_subsets"],
            "ddim_datasets": ["cifar10", "digits", "images"],
            "ddim_feature_extractors": ["digits_mlp"],
        },
        "status": "ok",
        "error": "",
    }
    assert {"linear", "quad", "cosine"} <= set(rows["ddim-host"]["provides"]["ddim_timestep_subsets"])
    assert {"uniform", "antithetic", "importance"} <= set(
        rows["ddim-timestep-samplers"]["provides"]["ddim_timestep_samplers"]
    )


def test_a_framework_that_is_not_imported_is_available(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["torch"] == {
        "name": "torch",
        "distribution": "ddim-torch",
        "version": importlib.metadata.version("ddim-torch"),
        "kind": "framework",
        "entry_point": "ddim_torch.plugin",
        "provides": {},
        "status": "available",
        "error": "",
    }


def test_the_table_names_frameworks_and_parts_with_their_parameters(
    in_process: Callable[..., Outcome],
) -> None:
    out = in_process("plugins").out
    version = importlib.metadata.version("ddim-host")
    assert "\n\nmodel (--model)\n  unet  " in out
    assert re.search(rf"^framework \(--plugin\)(\n  .*)*\n  torch +ddim-torch {version}\n", out)
    assert re.search(rf"^  huber:delta=0.1 +ddim-losses {version}$", out, re.MULTILINE)
    assert "does not work" not in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("huber", ["loss 'huber' of ddim-losses", "Mean pseudo-Huber loss", "delta  number, default 0.1"]),
        ("ddim-losses/huber", ["loss 'huber' of ddim-losses"]),
        ("images", ["data set 'images'", "--data images:path=...", "no default"]),
        ("ddim_losses", ["(losses): ok", "ddim_losses: balanced, huber"]),
        ("torch", ["ddim-torch", "run with --plugin torch"]),
        (
            "unet",
            [
                "model 'unet', built by every framework",
                "  base_channels          Channels of the first",
                "self-attention; the middle always has.\n",
            ],
        ),
    ],
)
def test_one_name_in_detail(in_process: Callable[..., Outcome], name: str, said: list[str]) -> None:
    outcome = in_process("plugins", name)
    assert outcome.code == 0
    for text in said:
        assert text in outcome.out


def test_a_name_that_nothing_has(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("plugins", "hubr")
    assert (outcome.code, outcome.out) == (2, "")
    assert "did you mean 'huber'?" in outcome.err


def test_a_name_that_nothing_has_may_be_that_of_a_broken_plugin(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("robust-losses", "import no_such_module")
    site.plugin("other-losses", "raise OSError('no disk')")
    outcome = in_process("plugins", "robust")
    assert outcome.code == 2
    assert (
        "\n  why: other-losses 1.0 (other-losses) is broken: OSError: no disk (other_losses.py:2)"
        "\n       robust-losses 1.0 (robust-losses) is broken: ModuleNotFoundError: " in outcome.err
    )


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
def test_a_group_that_nobody_reads_is_shown(
    site: Site, in_process: Callable[..., Outcome], group: str, meant: str | None
) -> None:
    site.distribution("lost-losses", f"[{group}]\nlost = lost_losses\n")
    outcome = in_process("plugins", "lost-losses")
    if meant is None:
        assert "nothing installed is called 'lost-losses'" in outcome.err
        return
    assert f"nobody reads the entry points of {group!r}; did you mean {meant!r}?" in outcome.out
    assert f'fix: write [project.entry-points."{meant}"] in its pyproject.toml' in outcome.out
    assert "lost-losses 1.0 (lost) is broken: nobody reads" in in_process("plugins").out


def test_a_framework_in_another_group_is_told_so_when_it_is_chosen(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.distribution("ddim-paddle", "[ddim_host.framework]\npaddle = ddim_paddle\n")
    outcome = in_process("run", "--plugin", "paddle", "--dry-run")
    assert outcome.code == 2
    assert "did you mean 'ddim_host.frameworks'?" in outcome.err
    assert "paddle" not in installed_frameworks()


def test_a_framework_in_another_group_does_not_hold_up_the_one_of_that_name(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.distribution("lost-torch", "[ddim-host.framework]\ntorch = lost_torch\n")
    outcome = in_process("run", "--plugin", "torch", "--dry-run")
    assert outcome.code == 0, outcome.err
    listed = in_process("plugins").out
    assert "several" not in listed
    assert "is given by" not in listed


# --- One framework per process ------------------------------------------------------------------------------

REMEMBERS_MODULES = """
import atexit, sys
atexit.register(lambda: print('modules:', *sys.modules, file=sys.stderr))
from ddim_host.cli import main
main()
"""

PADDLE = """
import paddle
@hookimpl
def ddim_model_factories():
    return {'unet': lambda spec, device, precision: None}
"""


def modules(outcome: Outcome) -> set[str]:
    assert outcome.code == 0, outcome.err
    return set(outcome.err.rpartition("modules:")[2].split())


@pytest.fixture(scope="module")
def paddle(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A second framework plugin, and stand-ins for frameworks that are quickly imported."""
    site = Site(tmp_path_factory.mktemp("paddle"))
    site.plugin("ddim-paddle", PADDLE, entry="paddle", group="frameworks")
    for name in ("paddle", "torch", "tensorflow"):
        site.package(name)
    return site


def test_only_the_chosen_plugin_is_imported(paddle: Site, python: PythonCode) -> None:
    found = modules(python(REMEMBERS_MODULES, *DRY, env=paddle.env))
    assert "ddim_torch.plugin" in found
    assert not {"ddim_paddle", "paddle"} & found


def test_another_framework_can_be_chosen(paddle: Site, python: PythonCode) -> None:
    found = modules(python(REMEMBERS_MODULES, "run", "--plugin", "paddle", "--dry-run", env=paddle.env))
    assert {"ddim_paddle", "paddle"} <= found
    assert not {"ddim_torch.plugin", "torch"} & found


def test_plugins_imports_no_framework_and_no_plugin_of_one(paddle: Site, python: PythonCode) -> None:
    found = modules(python(REMEMBERS_MODULES, "plugins", env=paddle.env))
    assert "ddim_losses" in found
    assert not {"ddim_paddle", "ddim_torch.plugin", "paddle", "torch"} & found


def test_looking_for_another_framework_is_no_error_but_importing_it_is(
    paddle: Site, python: PythonCode
) -> None:
    code = """
import importlib.util
from ddim_host.plugin.loading import load_plugins
load_plugins('torch')
assert importlib.util.find_spec('tensorflow') is not None
assert importlib.util.find_spec('mindspore') is None
try:
    import tensorflow
except ImportError:
    print('refused')
import torch
load_plugins('torch')
"""
    outcome = python(code, env=paddle.env)
    assert (outcome.code, outcome.out, outcome.err) == (0, "refused\n", "")


def test_who_imports_another_framework_is_told_why_it_cannot(paddle: Site, python: PythonCode) -> None:
    code = "from ddim_host.plugin.loading import load_plugins; load_plugins('torch'); import tensorflow"
    outcome = python(code, env=paddle.env)
    assert "'tensorflow' cannot be imported here: this process runs torch" in outcome.err


def test_the_guard_stays_after_loading_and_follows_the_last_choice(paddle: Site, python: PythonCode) -> None:
    code = """
from ddim_host.plugin.loading import load_plugins
load_plugins()
try:
    import torch
except ImportError:
    print('refused')
load_plugins('torch')
import torch
"""
    outcome = python(code, env=paddle.env)
    assert (outcome.code, outcome.out, outcome.err) == (0, "refused\n", "")


@pytest.mark.usefixtures("no_framework")
def test_a_process_that_holds_another_framework_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", types.ModuleType("jax"))
    with pytest.raises(RuntimeError, match="already holds jax"):
        load_plugins("torch")


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


NETWORK = (
    "@hookimpl\ndef ddim_model_factories():\n    return {'unet': lambda spec, device, precision: None}\n"
)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("return 1 / 0", "FAIL  ddim_machine_checks  ZeroDivisionError: division by zero (ddim_own.py:7)"),
        ("raise SystemExit('bye')", "FAIL  ddim_machine_checks  SystemExit: bye (ddim_own.py:7)"),
        ("return [3]", "FAIL  ddim_machine_checks  it gave a int, not a Check"),
        ("return 3", "FAIL  ddim_machine_checks  TypeError: 'int' object is not iterable"),
    ],
)
def test_doctor_survives_a_framework_whose_checks_fail(
    site: Site, in_process: Callable[..., Outcome], body: str, found: str
) -> None:
    checks = f"@hookimpl\ndef ddim_machine_checks():\n    {body}"
    site.plugin("ddim-own", NETWORK + checks, entry="own", group="frameworks")
    outcome = in_process("doctor", "--plugin", "own")
    assert (outcome.code, outcome.err) == (1, "")
    assert found in outcome.out
    assert "fix: tell the authors of ddim-own" in outcome.out


def test_doctor_asks_the_chosen_framework_alone(site: Site, in_process: Callable[..., Outcome]) -> None:
    """Not those that others left behind before they turned out to be broken."""
    site.plugin("odd-parts", "@hookimpl\ndef ddim_machine_checks():\n    1 / 0\n" + losses("odd"))
    site.plugin("ddim-own", NETWORK, entry="own", group="frameworks")
    assert in_process("doctor", "--plugin", "own").out == "own (ddim-own 1.0)\n"


def test_installed_frameworks_come_from_metadata_alone(site: Site) -> None:
    site.plugin("ddim-paddle", "raise SystemExit", entry="paddle", group="frameworks")
    assert {"paddle", "torch"} <= set(installed_frameworks())


# --- Switched off, strict, too new, slow --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["noisy", "Noisy_Losses", "noisy-losses/noisy", " other , noisy"])
@pytest.mark.usefixtures("no_framework")
def test_a_plugin_that_is_switched_off_is_not_imported(
    site: Site, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    site.plugin("noisy-losses", "raise RuntimeError('imported')", entry="noisy")
    monkeypatch.setenv(DISABLED, name)
    plugin = installed("noisy")
    assert (plugin.status, plugin.error) == ("disabled", "")
    assert "noisy_losses" not in sys.modules


def test_switching_off_ends_a_conflict(
    site: Site, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("other-losses", losses("mse"))
    monkeypatch.setenv(DISABLED, "ddim-losses")
    assert "mse (other-losses 1.0)" in in_process(*DRY, "--loss", "mse").out
    monkeypatch.setenv(DISABLED, "torch")
    outcome = in_process(*DRY)
    assert outcome.code == 2
    assert "is switched off" in outcome.err
    assert "switched off\n  ddim-torch" in in_process("plugins").out


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
def test_a_plugin_for_a_newer_host_says_so(site: Site, requirement: str, fits: bool) -> None:
    site.plugin("modern", losses("fine"))
    with (site.path / "modern-1.0.dist-info" / "METADATA").open("a", encoding="utf-8") as file:
        file.write(f"Requires-Dist: {requirement}\n")
    plugin = installed("modern")
    assert (plugin.status == "ok") == fits
    if not fits:
        assert plugin.error.startswith("it needs ddim-host")
        assert plugin.fix.startswith('pip install "ddim-host')
        assert "modern" not in sys.modules


def test_a_slow_plugin_is_named_while_it_loads(site: Site, ddim_host: Command) -> None:
    site.plugin("tired", "import time\ntime.sleep(3)\n" + losses("fine"))
    outcome = ddim_host("plugins", env=site.env)
    assert outcome.code == 0
    assert outcome.err == "loading the plugin tired 1.0 (tired) takes long\n"


# --- Names that two distributions give ----------------------------------------------------------------------


def installed(name: str) -> Plugin:
    [plugin] = [plugin for plugin in load_plugins().installed if plugin.name == name]
    return plugin


@pytest.fixture
def second_mse(site: Site) -> None:
    site.plugin("other-losses", losses("mse", "own"), version="2.5")


@pytest.mark.usefixtures("second_mse")
def test_a_name_given_twice_is_an_error_that_names_both(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process(*DRY, "--loss", "mse")
    assert outcome.code == 2
    version = importlib.metadata.version("ddim-losses")
    assert f"ddim-losses {version} and other-losses 2.5" in outcome.err
    assert "say which: --loss ddim-losses/mse or --loss other-losses/mse, or uninstall one" in outcome.err


@pytest.mark.usefixtures("second_mse")
@pytest.mark.parametrize(
    ("loss", "distribution"),
    [
        ("l2", "ddim-losses"),
        ("own", "other-losses"),
        ("ddim-losses/mse", "ddim-losses"),
        ("other-losses/mse", "other-losses"),
    ],
)
def test_a_name_given_twice_harms_only_those_who_ask_for_it(
    in_process: Callable[..., Outcome], loss: str, distribution: str
) -> None:
    outcome = in_process(*DRY, "--loss", loss)
    assert outcome.code == 0
    [line] = [line for line in outcome.out.splitlines() if line.startswith("loss  ")]
    assert line.split()[1:3] == [loss.rpartition("/")[2], f"({distribution}"]


def test_a_part_is_not_looked_for_elsewhere(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process(*DRY, "--loss", "ddim-host/mse")
    assert outcome.code == 2
    assert "there is no loss named 'mse' in ddim-host" in outcome.err


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("nosuch/mse", ["no distribution 'nosuch' is installed", "fix: write --loss ddim-losses/mse"]),
        ("nosuch/odd", ["no distribution 'nosuch' is installed", "fix: choose another loss"]),
        ("ddim-host/mse", ["it gives no loss", "fix: write --loss ddim-losses/mse"]),
        (
            "ddim-losses/hubr",
            ["in ddim-losses; did you mean 'huber'?", "it gives balanced, huber, l1, l2, mse"],
        ),
    ],
)
def test_who_names_a_distribution_is_told_what_it_gives(
    in_process: Callable[..., Outcome], loss: str, said: list[str]
) -> None:
    outcome = in_process(*DRY, "--loss", loss)
    assert outcome.code == 2
    assert all(text in outcome.err for text in said), outcome.err
    assert "did you mean 'mse'" not in outcome.err


def test_the_own_part_is_offered_first(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("a-losses", losses("mse"))
    site.plugin("z-losses", losses("mse"))
    offer = "--loss ddim-losses/mse or --loss a-losses/mse or --loss z-losses/mse"
    assert f"say which: {offer}, or" in in_process(*DRY, "--loss", "mse").err
    assert f"by ddim-losses and a-losses and z-losses: say which, as in {offer}" in in_process("plugins").out


def test_a_distribution_that_gives_a_name_twice_is_not_advised(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("double", losses("twin"))
    site.distribution("more", "[ddim_host.plugins]\none = more_one\ntwo = more_two\n")
    site.module("more_one", "from ddim_host import hookimpl\n" + losses("echo"))
    site.module("more_two", "from ddim_host import hookimpl\n" + losses("echo", "twin"))
    out = in_process("plugins").out
    assert "the loss 'echo' is given twice by more, and cannot be used: tell its authors" in out
    assert "the loss 'twin' is given by double and more: say which, as in --loss double/twin or " in out
    site.distribution("third", "[ddim_host.plugins]\nthird = third_module\n")
    site.module("third_module", "from ddim_host import hookimpl\n" + losses("echo"))
    assert "fix: say which: --loss third/echo, or uninstall one" in in_process(*DRY, "--loss", "echo").err
    assert "gives this name twice" in in_process(*DRY, "--loss", "more/echo").err


@pytest.mark.parametrize("distribution", ["ddim_losses", "DDIM-Losses", "ddim.losses"])
def test_a_distribution_is_known_by_any_spelling(
    in_process: Callable[..., Outcome], distribution: str
) -> None:
    assert in_process(*DRY, "--loss", f"{distribution}/mse").code == 0


@pytest.mark.usefixtures("no_framework")
def test_two_distributions_may_call_their_entry_points_alike(site: Site) -> None:
    site.plugin("first-losses", losses("one"), entry="losses")
    site.plugin("second-losses", losses("two"), entry="losses", version="2.0")
    same = [plugin for plugin in load_plugins().installed if plugin.name == "losses"]
    assert [(plugin.distribution, plugin.status) for plugin in same] == [
        ("ddim-losses", "ok"),
        ("first-losses", "ok"),
        ("second-losses", "ok"),
    ]


def test_two_distributions_for_one_framework(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("fast-torch", "raise SystemExit", entry="torch", group="frameworks")
    outcome = in_process(*DRY)
    assert outcome.code == 2
    assert "fast-torch 1.0" in outcome.err
    assert "say which: --plugin ddim-torch/torch" in outcome.err
    assert in_process("run", "--plugin", "ddim-torch/torch", "--dry-run").code == 0
    assert "SystemExit" in in_process("run", "--plugin", "fast-torch/torch", "--dry-run").err
    out = in_process("plugins").out
    assert "the framework 'torch' is given by ddim-torch and fast-torch: say which, as in --plugin" in out


def test_the_default_is_the_own_part_whoever_else_gives_its_name(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("other-losses", losses("mse"))
    default = in_process(*DRY)
    assert default.code == 0, default.err
    assert "mse (ddim-losses" in default.out
    asked = in_process(*DRY, "--loss", "mse")
    assert asked.code == 2
    assert "say which: --loss ddim-losses/mse" in asked.err
    assert "mse (other-losses" in in_process(*DRY, "--loss", "other-losses/mse").out


@pytest.mark.usefixtures("no_framework")
def test_a_framework_and_parts_may_share_an_entry_point_name(site: Site) -> None:
    site.plugin("torch-losses", losses("one"), entry="torch")
    assert {plugin.status for plugin in load_plugins().installed if plugin.name == "torch"} == {
        "ok",
        "available",
    }


@pytest.mark.usefixtures("no_framework")
def test_a_distribution_counts_once_however_often_it_is_on_the_path(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.plugin("twice_there", losses("fine"))
    hidden = Site(site.path / "hidden")
    hidden.plugin("Twice.There", losses("old"), entry="twice_there", version="0.9")
    monkeypatch.setattr(sys, "path", [*sys.path, str(hidden.path), str(site.path)])
    plugin = installed("twice_there")
    assert (plugin.distribution, plugin.version, plugin.status) == ("twice-there", "1.0", "ok")


@pytest.mark.usefixtures("no_framework")
def test_two_entry_points_cannot_share_a_module(site: Site) -> None:
    entry_points = "[ddim_host.plugins]\none = shared\ntwo = shared\n"
    site.distribution("shared", entry_points)
    site.module("shared", "from ddim_host import hookimpl\n" + losses("fine"))
    assert installed("one").status == "ok"
    assert "already loaded under another name" in installed("two").error


# --- Parts --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_parts_know_who_provides_them(site: Site) -> None:
    site.plugin("third-party", losses("fine"), version="4.2")
    plugins: Plugins = load_plugins()
    part = plugins.registry.find(Kind.LOSS, parse_choice("fine"))
    assert (part.kind, part.name, part.distribution, part.version) == (
        Kind.LOSS,
        "fine",
        "third-party",
        "4.2",
    )
    assert part.label == "loss 'fine'"
    assert "fine" in plugins.registry.names(Kind.LOSS)
    assert "fine" not in plugins.registry.names(Kind.DATA)


@pytest.mark.usefixtures("no_framework")
def test_one_plugin_may_give_parts_of_every_kind(site: Site) -> None:
    hooks = [kind.value for kind in Kind if kind is not Kind.MODEL]
    site.plugin(
        "everything", "\n".join(f"@hookimpl\ndef {hook}(): return {{'b': abs, 'a': abs}}" for hook in hooks)
    )
    assert installed("everything").provides == {hook: ["a", "b"] for hook in hooks}


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


def test_fake_distributions_come_before_the_real_ones(broken: Site) -> None:
    assert broken.env["PYTHONPATH"].split(os.pathsep)[0] == str(broken.path)


@pytest.mark.parametrize(
    ("given", "framework", "count"),
    [
        ({}, "'torch'", "10000"),
        ({}, "None", None),
        ({"GOMP_SPINCOUNT": "7"}, "'torch'", "7"),
        ({"OMP_WAIT_POLICY": "active"}, "'torch'", None),
    ],
)
def test_threads_wait_awake_for_a_short_time_unless_the_user_says_otherwise(
    given: dict[str, str], framework: str, count: str | None, python: PythonCode
) -> None:
    code = (
        "import os\n"
        "[os.environ.pop(name, None) for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')]\n"
        f"os.environ.update({given})\n"
        "from ddim_host.plugin.loading import load_plugins\n"
        f"load_plugins({framework})\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))\n"
    )
    assert python(code).out.strip() == str(count)


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
