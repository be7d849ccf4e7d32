"""The `ddim-host new-plugin` command."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.plugin.discovery import framework_name, installed_frameworks
from ddim_host.plugin.registry import Kind
from ddim_host.scaffold.names import PLUGIN_KINDS, new_plugin
from ddim_host.scaffold.rendering import write_plugin

if TYPE_CHECKING:
    import argparse


def main(options: argparse.Namespace) -> int:
    """Write the distribution of a new plugin.

    Returns:
        The exit code.

    Raises:
        UserError: The name is invalid or taken, or the folder already exists or cannot be written.
    """
    plugin = new_plugin(options.name, PLUGIN_KINDS[options.kind])
    folder: Path = options.out or Path(plugin.distribution)
    for path in write_plugin(plugin, folder):
        print(f"wrote {printable(path)}")
    if plugin.part != options.name:
        print(f"\nthe {'framework' if plugin.kind is Kind.MODEL else 'part'} is called {plugin.part}")
    use = {
        "feature-extractor": f"evaluate RUN --features {plugin.part}",
        "subset-search": f"optimize RUN {plugin.kind.flag} {plugin.part}",
        "framework": f"run --plugin {plugin.part} --train-steps 20",
    }.get(options.kind, f"run --plugin torch {plugin.kind.flag} {plugin.part}")
    place = shlex.quote(printable(folder))
    steps = (
        f"pip install -e {shlex.quote(f'{printable(folder)}[test]')}",
        f"python -m pytest {place}",
        f"ddim-host {use}",
    )
    print("\nnext, in the environment where ddim-host is installed:", *steps, sep="\n  ")
    print(
        "to install offline, if hatchling and editables are installed: "
        f"pip install --no-build-isolation -e {place}"
    )
    if plugin.kind is Kind.LOSS and "jittor" in map(framework_name, installed_frameworks()):
        print(
            "the first Jittor tests may spend minutes compiling; to skip them: "
            f"python -m pytest {place} -k 'not jittor'"
        )
    return 0
