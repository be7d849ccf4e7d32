"""The command line: `ddim-host COMMAND`.

A command's module is imported only when it is called, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from ddim_host import __version__
from ddim_host.cli.options import add_run_options
from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

USER_ERROR, OTHER_ERROR = 2, 1


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 2 the user's input was wrong, 1 anything else.

    Args:
        arguments: In place of `sys.argv[1:]`.
    """
    options = _parser().parse_args(arguments)
    try:
        sys.exit(_command(options))
    except UserError as error:
        print(f"ddim-host: error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("\nddim-host: interrupted", file=sys.stderr)
        sys.exit(OTHER_ERROR)


def _command(options: argparse.Namespace) -> int:
    """Call the chosen command.

    Returns:
        The exit code.
    """
    if options.command == "run":
        from ddim_host.cli.run import run  # noqa: PLC0415 - see the module's docstring

        return run(options)
    if options.command == "doctor":
        from ddim_host.cli.doctor import doctor  # noqa: PLC0415

        return doctor(options.plugin)
    from ddim_host.cli.plugins import plugins  # noqa: PLC0415

    return plugins(as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ddim-host",
        description="Run one DDIM diffusion experiment on PyTorch or on Jittor, every part of it a plugin.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ddim-host {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run_parser = commands.add_parser(
        "run",
        help="assemble, train, sample, and leave a run directory",
        description="Assemble an experiment, train it, sample from it, and leave a run directory.",
        allow_abbrev=False,
    )
    add_run_options(run_parser)
    plugins_parser = commands.add_parser(
        "plugins",
        help="what is installed, what it provides, what is broken and why",
        description="Show what is installed, what it provides, what is broken and why.",
        allow_abbrev=False,
    )
    plugins_parser.add_argument("--json", action="store_true", help="as JSON, for other programs")
    doctor_parser = commands.add_parser(
        "doctor",
        help="what works on this machine, and the command that mends what does not",
        description="Show what works on this machine, and the command that mends what does not.",
        allow_abbrev=False,
    )
    doctor_parser.add_argument("--plugin", metavar="NAME", help="look at this framework only")
    return parser
