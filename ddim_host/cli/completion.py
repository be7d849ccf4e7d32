"""The `ddim-host completion` command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from argcomplete.shell_integration import shellcode

if TYPE_CHECKING:
    import argparse

_LOAD_ZSH_COMPLETION = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }\n"
"""Command that loads zsh's completion system, which defines `compdef`, unless it is already loaded."""


def main(options: argparse.Namespace) -> int:
    """Print the completion script of a shell.

    Returns:
        The exit code.
    """
    script = shellcode(["ddim-host"], use_defaults=False, shell=options.shell)
    print((_LOAD_ZSH_COMPLETION if options.shell == "zsh" else "") + script.strip())
    return 0
