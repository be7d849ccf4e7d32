"""The command line: `ddim-host COMMAND`.

Each command is a module of the same name, imported only when the command is called, so that `--help` is fast.
"""

from __future__ import annotations

import importlib
import keyword
import os
import select
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from ddim_host import __version__
from ddim_host.cli.commands import COMMANDS
from ddim_host.cli.parser import CommandParser
from ddim_host.errors import UserError, print_traceback, reason
from ddim_host.system.failure import report_failure
from ddim_host.system.launch import launched
from ddim_host.system.parent_death import follow_parent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["command_line", "main"]

USER_ERROR, OTHER_ERROR = 2, 1

_LAST_WORDS_SECONDS = 1.0
"""Delay before failed processes other than the first exit.

It lets the first process report its error before the launcher kills it.
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with code 0 for success, 2 for a user error, or 1 for any other failure.

    Args:
        arguments: Arguments to use instead of `sys.argv[1:]`.
    """
    if "_ARGCOMPLETE" in os.environ:  # the shell requests completions
        importlib.import_module("ddim_host.cli.candidates").complete(command_line())
    follow_parent()
    options = command_line().parse_args(arguments)
    if getattr(options, "strict_plugins", False):
        os.environ["DDIM_HOST_STRICT_PLUGINS"] = "1"  # also for the child processes of a command
    _leave(_carry_out(options))


def _carry_out(options: argparse.Namespace) -> int:
    """Call the command, print its errors, and return the exit code."""
    try:
        _silence_other_ranks(options.command)
        name = options.command.replace("-", "_")
        # A module cannot be called `import`, because that is a keyword.
        command = importlib.import_module(f"ddim_host.cli.{name}{'_' * keyword.iskeyword(name)}")
        code: int = command.main(options)
        if sys.stdout is not None:  # None if it was closed before Python started
            sys.stdout.flush()  # flush here, where a closed pipe is handled
    except UserError as error:
        print_traceback(error)
        print(f"ddim-host: error: {error}", file=sys.stderr)
        report_failure(error)
        return USER_ERROR
    except PermissionError as error:
        # Even checking whether a path exists may require permission, and commands check in many places.
        denied = UserError(f"cannot access {error.filename or 'a file'}", why=reason(error))
        print(f"ddim-host: error: {denied}", file=sys.stderr)
        report_failure(denied)
        return USER_ERROR
    except BrokenPipeError:
        if not _output_is_closed():
            raise  # one of the command's own pipes
        # The reader (for example `head`) has stopped reading. Without this, Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OTHER_ERROR
    except KeyboardInterrupt as error:
        print("\nddim-host: interrupted", file=sys.stderr)
        report_failure(error)
        return OTHER_ERROR
    except Exception as error:
        report_failure(error)
        if _is_one_of_several():
            traceback.print_exc()
            return OTHER_ERROR
        raise
    return code


def _silence_other_ranks(command: str) -> None:
    """Discard the standard output of every process except the first.

    Raises:
        UserError: The command does not support several processes.
    """
    launch = launched()
    if launch.count > 1 and not COMMANDS[command].is_shared:
        raise UserError(
            f"`ddim-host {command}` runs in a single process",
            why=f"{launch.launcher} started {launch.count} processes",
            fix=f"run it without {launch.launcher}",
        )
    if not launch.is_first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - open until the process exits


def _leave(code: int) -> NoReturn:
    """Exit; if this is one of several processes and it failed, make the launcher terminate the others.

    A failed process that exits normally would wait for the others, while they wait for it in the middle of a
    step.
    """
    if code and _is_one_of_several():
        # The launcher terminates all processes after a failure; this one is already exiting.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not launched().is_first:
            time.sleep(_LAST_WORDS_SECONDS)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _output_is_closed() -> bool:
    """Return whether standard output is a pipe or socket with a closed reading end."""
    if sys.stdout is None:
        return False
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _is_one_of_several() -> bool:
    try:
        return launched().count > 1
    except UserError:
        return False


def command_line() -> argparse.ArgumentParser:
    """Return the parser of the entire command line; the documentation is generated from it."""
    parser = CommandParser(
        prog="ddim-host",
        description="Run one DDIM diffusion experiment on PyTorch or Jittor; every part of it is a plugin.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ddim-host {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name, help=command.summary, description=command.description, allow_abbrev=False
        )
        if command.accepts_strict_plugins:
            added.add_argument(
                "--strict-plugins",
                action="store_true",
                help="exit with an error if any plugin fails to load, even one that is not needed",
            )
        command.add_options(added)
    return parser
