"""`plugins`: the installed plugins, and the errors of broken ones."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.broken_plugins import BROKEN
from tests.support.commands import DRY
from tests.support.distributions import Site, losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Command, Outcome


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """All broken plugins at once, and a working one."""
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
    """Rows of `plugins --json` with all of them installed: frameworks by name, others by distribution."""
    outcome = ddim_host("plugins", "--json", env=broken.env)
    assert outcome.code == 0, outcome.err
    return {
        row["name" if row["kind"] == "framework" else "distribution"]: row for row in json.loads(outcome.out)
    }


# --- Broken plugins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_is_shown_with_its_error(rows: dict[str, dict[str, Any]], name: str) -> None:
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
def test_error_explains_why_a_plugin_cannot_import_a_framework(
    rows: dict[str, dict[str, Any]], framework: str
) -> None:
    [row] = [
        row for name, row in rows.items() if name in (f"imports-{framework}", f"imports-from-{framework}")
    ]
    assert f"'{framework}' cannot be imported here: this process must not load a framework" in row["error"]


@pytest.mark.parametrize("name", ["no-such-object", "no-reference"])
def test_dangling_entry_point_is_shown_as_an_error(rows: dict[str, dict[str, Any]], name: str) -> None:
    assert rows[name]["status"] == "error"
    assert rows[name]["error"]


def test_errors_are_one_line_each(rows: dict[str, dict[str, Any]]) -> None:
    assert not [row for row in rows.values() if "\n" in row["error"]]


def test_working_plugins_are_unaffected(rows: dict[str, dict[str, Any]]) -> None:
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
    # One of them may import torch here, which can take long enough for a note.
    errors = [line for line in outcome.err.splitlines() if "imports-in-hook" not in line]
    assert (outcome.code, errors) == (0, [])


def test_text_names_broken_plugins_and_their_errors(broken: Site, ddim_host: Command) -> None:
    out = ddim_host("plugins", env=broken.env).out
    assert "  raises 1.0 (raises) is broken: RuntimeError: first line (raises.py:2)\n" in out
    assert re.search(r"^loss \(--loss\)(\n  .*)*\n  fine +works 1.0\n", out, re.MULTILINE)


def test_json_describes_all_plugins(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("plugins", "--json", "mse")
    assert (outcome.code, outcome.out) == (2, "")
    assert "not allowed with argument" in outcome.err


def test_plugin_that_prints_does_not_corrupt_the_json(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("chatty", "print('hello')\n" + losses("fine"))
    json.loads(in_process("plugins", "--json").out)


# --- Output of `plugins` ------------------------------------------------------------------------------------


def test_json_has_exactly_the_documented_keys_and_order(rows: dict[str, dict[str, Any]]) -> None:
    keys = ["name", "distribution", "version", "kind", "entry_point", "provides", "status", "error"]
    assert {tuple(row) for row in rows.values()} == {tuple(keys)}
    order = [(row["kind"], row["name"], row["distribution"]) for row in rows.values()]
    assert order == sorted(order)


def test_built_in_parts_are_listed(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["ddim-host"] == {
        "name": "defaults",
        "distribution": "ddim-host",
        "version": importlib.metadata.version("ddim-host"),
        "kind": "parts",
        "entry_point": "ddim_host.parts",
        "provides": {
            "ddim_noise_schedules": ["cosine", "explicit", "linear", "quad", "sigmoid"],
            "ddim_loss_weightings": rows["ddim-host"]["provides"]["ddim_loss_weightings"],
            "ddim_timestep_subsets": rows["ddim-host"]["provides"]["ddim_timestep_subsets"],
            "ddim_solvers": ["ddim", "dpmpp_2m", "heun", "ipndm", "unipc"],
            "ddim_subset_searches": ["dynamic_programming"],
            "ddim_datasets": ["cifar10", "digits", "fashion_mnist", "images", "mnist"],
            "ddim_feature_extractors": ["cifar_cnn", "digits_mlp"],
        },
        "status": "ok",
        "error": "",
    }
    assert {"linear", "quad", "cosine"} <= set(rows["ddim-host"]["provides"]["ddim_timestep_subsets"])
    assert {"uniform", "antithetic", "importance"} <= set(
        rows["ddim-timestep-samplers"]["provides"]["ddim_timestep_samplers"]
    )


def test_framework_that_was_not_imported_is_available(rows: dict[str, dict[str, Any]]) -> None:
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


def test_table_lists_frameworks_and_parts_with_parameters(
    in_process: Callable[..., Outcome],
) -> None:
    out = in_process("plugins").out
    version = importlib.metadata.version("ddim-host")
    assert "\n\nmodel (--model)\n  unet  " in out
    assert re.search(rf"^framework \(--plugin\)(\n  .*)*\n  torch +ddim-torch {version}\n", out)
    assert re.search(rf"^  huber:delta=0.1 +ddim-losses {version}$", out, re.MULTILINE)
    assert "does not work" not in out


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("huber", ["loss 'huber' of ddim-losses", "Mean pseudo-Huber loss", "delta  number, default 0.1"]),
        ("ddim-losses/huber", ["loss 'huber' of ddim-losses"]),
        (
            "importance",
            [
                "\n    uniform_share  number, default 0.001"
                f"\n{' ':19}Share of the uniform distribution, in [0, 1]. At 0, a timestep whose losses were"
                f"\n{' ':19}all zero is never drawn again.\n",
            ],
        ),
        ("images", ["data set 'images'", "--data images:path=...", "no default"]),
        ("ddim_losses", ["(losses): ok", "\n  loss: balanced, huber"]),
        ("torch", ["ddim-torch", "run with --plugin torch"]),
        (
            "unet",
            [
                "model 'unet', built by every framework",
                "  base_channels             Channels of the first",
                "self-attention on the way down.\n",
                "  scale_shift               Let the time embedding scale",
                "(list of numbers; default 1,2 for 8 x 8 pixels, 1,2,2,2 for 32 x 32 pixels)",
            ],
        ),
    ],
)
def test_details_of_one_name(in_process: Callable[..., Outcome], name: str, texts: list[str]) -> None:
    outcome = in_process("plugins", name)
    assert outcome.code == 0
    for text in texts:
        assert text in outcome.out


def test_unknown_name_is_an_error_with_a_suggestion(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process("plugins", "hubr")
    assert (outcome.code, outcome.out) == (2, "")
    assert "did you mean 'huber'?" in outcome.err


def test_unknown_name_may_belong_to_a_broken_plugin(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("robust-losses", "import no_such_module")
    site.plugin("other-losses", "raise OSError('no disk')")
    outcome = in_process("plugins", "robust")
    assert outcome.code == 2
    assert (
        "\n  why: other-losses 1.0 (other-losses) is broken: OSError: no disk (other_losses.py:2)"
        "\n       robust-losses 1.0 (robust-losses) is broken: ModuleNotFoundError: " in outcome.err
    )


# --- Slow plugins -------------------------------------------------------------------------------------------


def test_slow_plugin_is_named_while_it_loads(site: Site, ddim_host: Command) -> None:
    site.plugin("tired", "import time\ntime.sleep(3)\n" + losses("fine"))
    outcome = ddim_host("plugins", env=site.env)
    assert outcome.code == 0
    assert outcome.err == "note: still loading the plugin tired 1.0 (tired)\n"


def test_fake_distributions_precede_the_real_ones(broken: Site) -> None:
    assert broken.env["PYTHONPATH"].split(os.pathsep)[0] == str(broken.path)
