"""`ddim-host new-plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ddim_host.errors import printable
from ddim_host.plugin.discovery import installed_frameworks
from ddim_host.plugin.registry import Kind
from ddim_host.scaffold.names import PLUGIN_KINDS, new_plugin
from ddim_host.scaffold.rendering import write_plugin

if TYPE_CHECKING:
    import argparse


def main(options: argparse.Namespace) -> int:
    """Write a new distribution.

    Returns:
        The exit code.

    Raises:
        UserError: The name cannot be used or is taken, or the folder exists already or cannot be written.
    """
    plugin = new_plugin(options.name, PLUGIN_KINDS[options.kind])
    folder: Path = options.out or Path(plugin.distribution)
    for path in write_plugin(plugin, folder):
        print(f"wrote {printable(path)}")
    use = {
        "feature-extractor": f"evaluate RUN --features {plugin.part}",
        "subset-search": f"optimize RUN {plugin.kind.flag} {plugin.part}",
        "framework": f"run --plugin {plugin.part} --train-steps 20",
    }.get(options.kind, f"run --plugin torch {plugin.kind.flag} {plugin.part}")
    steps = (f"cd {printable(folder)}", "pip install -e '.[test]'", "python -m pytest", f"ddim-host {use}")
    print("\nnext, in the environment of ddim-host:", *steps, sep="\n  ")
    if plugin.kind is Kind.LOSS and "jittor" in installed_frameworks():
        print("the first tests may compile Jittor for minutes; without it: python -m pytest -k 'not jittor'")
    return 0
