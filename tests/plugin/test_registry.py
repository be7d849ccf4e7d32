"""The registry of parts: lookup by name, and names provided by two distributions."""

from __future__ import annotations

import importlib.metadata
import re
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


# --- Names provided by two distributions --------------------------------------------------------------------


@pytest.fixture
def second_mse(site: Site) -> None:
    site.plugin("other-losses", losses("mse", "own"), version="2.5")


@pytest.mark.usefixtures("second_mse")
def test_ambiguous_name_is_an_error_that_names_both_distributions(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process(*DRY, "--loss", "mse")
    assert outcome.code == 2
    version = importlib.metadata.version("ddim-losses")
    assert f"ddim-losses {version} and other-losses 2.5" in outcome.err
    assert (
        "choose one: --loss ddim-losses/mse or --loss other-losses/mse, or uninstall the others"
        in outcome.err
    )


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
def test_ambiguous_name_is_an_error_only_when_it_is_used(
    in_process: Callable[..., Outcome], loss: str, distribution: str
) -> None:
    outcome = in_process(*DRY, "--loss", loss)
    assert outcome.code == 0
    [line] = [line for line in outcome.out.splitlines() if line.startswith("loss  ")]
    assert line.split()[1:3] == [loss.rpartition("/")[2], f"({distribution}"]


@pytest.fixture
def doctor_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `doctor` start no process for the frameworks."""
    monkeypatch.setattr("ddim_host.cli.doctor.frameworks_by_option", lambda _: {})


@pytest.mark.usefixtures("second_mse", "doctor_of_the_host")
def test_ambiguous_name_is_listed_apart_from_broken_plugins(in_process: Callable[..., Outcome]) -> None:
    """`plugins` and `doctor` agree: both distributions work, and one of them has to be chosen."""
    text = (
        "ddim-losses and other-losses provide the loss 'mse': choose one with --loss ddim-losses/mse or "
        "--loss other-losses/mse\n"
    )
    out = in_process("plugins").out
    assert f"\n\nambiguous\n  {text}" in out
    assert "\nbroken" not in out
    out = in_process("doctor").out
    assert re.search(rf"  ok    ambiguous +{re.escape(text)}", out)
    assert re.search(r"  ok    plugin other-losses 2\.5 \(other-losses\) +loaded\n", out)


@pytest.mark.usefixtures("no_framework", "doctor_of_the_host")
def test_name_that_one_distribution_provides_twice_fails(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.distribution("twice", "[ddim_host.plugins]\na = twice_a\nb = twice_b\n")
    for module in ("twice_a", "twice_b"):
        site.module(module, f"from ddim_host import hookimpl\n{losses('same')}\n")
    problem = "twice provides the loss 'same' twice, so it cannot be used: report it to its authors"
    assert f"\nambiguous\n  {problem}\n" in in_process("plugins").out
    assert re.search(rf"  FAIL  ambiguous +{re.escape(problem)}\n", in_process("doctor").out)


def test_part_is_only_searched_in_the_named_distribution(in_process: Callable[..., Outcome]) -> None:
    outcome = in_process(*DRY, "--loss", "ddim-host/mse")
    assert outcome.code == 2
    assert "there is no loss named 'mse' in ddim-host" in outcome.err


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ("nosuch/mse", ["is not installed", "fix: install nosuch, or write --loss ddim-losses/mse"]),
        ("nosuch/odd", ["the distribution 'nosuch' is not installed", "fix: install nosuch\n"]),
        ("ddim-host/mse", ["it provides no loss", "fix: write --loss ddim-losses/mse"]),
        (
            "ddim-losses/hubr",
            ["in ddim-losses; did you mean 'huber'?", "it provides balanced, huber, l1, l2, mse"],
        ),
    ],
)
def test_error_lists_the_parts_of_the_named_distribution(
    in_process: Callable[..., Outcome], loss: str, said: list[str]
) -> None:
    outcome = in_process(*DRY, "--loss", loss)
    assert outcome.code == 2
    assert all(text in outcome.err for text in said), outcome.err
    assert "did you mean 'mse'" not in outcome.err


def test_own_part_is_offered_first(site: Site, in_process: Callable[..., Outcome]) -> None:
    site.plugin("a-losses", losses("mse"))
    site.plugin("z-losses", losses("mse"))
    offer = "--loss ddim-losses/mse or --loss a-losses/mse or --loss z-losses/mse"
    assert f"choose one: {offer}, or" in in_process(*DRY, "--loss", "mse").err
    assert (
        f"ddim-losses and a-losses and z-losses provide the loss 'mse': choose one with {offer}"
        in in_process("plugins").out
    )


def test_distribution_with_a_duplicate_name_is_not_suggested(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("double", losses("twin"))
    site.distribution("more", "[ddim_host.plugins]\none = more_one\ntwo = more_two\n")
    site.module("more_one", "from ddim_host import hookimpl\n" + losses("echo"))
    site.module("more_two", "from ddim_host import hookimpl\n" + losses("echo", "twin"))
    out = in_process("plugins").out
    assert "more provides the loss 'echo' twice, so it cannot be used: report it to its authors" in out
    assert "double and more provide the loss 'twin': choose one with --loss double/twin or " in out
    site.distribution("third", "[ddim_host.plugins]\nthird = third_module\n")
    site.module("third_module", "from ddim_host import hookimpl\n" + losses("echo"))
    assert (
        "fix: choose one: --loss third/echo, or uninstall the others"
        in in_process(*DRY, "--loss", "echo").err
    )
    assert "provides this name twice" in in_process(*DRY, "--loss", "more/echo").err


@pytest.mark.parametrize("distribution", ["ddim_losses", "DDIM-Losses", "ddim.losses"])
def test_distribution_is_found_by_any_spelling(in_process: Callable[..., Outcome], distribution: str) -> None:
    assert in_process(*DRY, "--loss", f"{distribution}/mse").code == 0


def test_two_distributions_of_one_framework_are_ambiguous(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("fast-torch", "raise SystemExit", entry="torch", group="frameworks")
    outcome = in_process(*DRY)
    assert outcome.code == 2
    assert "fast-torch 1.0" in outcome.err
    assert "choose one: --plugin ddim-torch/torch" in outcome.err
    assert in_process("run", "--plugin", "ddim-torch/torch", "--dry-run").code == 0
    assert "SystemExit" in in_process("run", "--plugin", "fast-torch/torch", "--dry-run").err
    out = in_process("plugins").out
    assert "ddim-torch and fast-torch provide the framework 'torch': choose one with --plugin" in out


def test_default_is_the_own_part_despite_other_distributions(
    site: Site, in_process: Callable[..., Outcome]
) -> None:
    site.plugin("other-losses", losses("mse"))
    default = in_process(*DRY)
    assert default.code == 0, default.err
    assert "mse (ddim-losses" in default.out
    asked = in_process(*DRY, "--loss", "mse")
    assert asked.code == 2
    assert "choose one: --loss ddim-losses/mse" in asked.err
    assert "mse (other-losses" in in_process(*DRY, "--loss", "other-losses/mse").out


# --- Parts --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_framework")
def test_parts_store_their_distribution(site: Site) -> None:
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
def test_one_plugin_may_provide_parts_of_every_kind(site: Site) -> None:
    hooks = [kind.value for kind in Kind if kind is not Kind.MODEL]
    site.plugin(
        "everything", "\n".join(f"@hookimpl\ndef {hook}(): return {{'b': abs, 'a': abs}}" for hook in hooks)
    )
    assert installed("everything").provides == {hook: ["a", "b"] for hook in hooks}
