"""Parts by name: who gives one, and names that two distributions give."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING

import pytest

from ddim_host.plugin.loading import Plugins, load_plugins
from ddim_host.plugin.parameters import parse_choice
from ddim_host.plugin.registry import Kind
from tests.support.commands import DRY
from tests.support.distributions import Site, installed, losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.commands import Outcome


# --- Names that two distributions give ----------------------------------------------------------------------


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
