"""The command line: `ddim-host COMMAND`.

A command is the module of its name; it is imported only when it is called, so that `--help` answers at once.
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
from ddim_host.errors import UserError, reason
from ddim_host.system.failure import report_failure
from ddim_host.system.launch import launched
from ddim_host.system.parent_death import follow_parent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

__all__ = ["command_line", "main"]

USER_ERROR, OTHER_ERROR = 2, 1

_LAST_WORDS_SECONDS = 1.0
"""What the first process is given to say how it ended, before another one's end makes the launcher end it."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 2 the user's input was wrong, 1 anything else.

    Args:
        arguments: In place of `sys.argv[1:]`.
    """
    follow_parent()
    options = command_line().parse_args(arguments)
    if getattr(options, "strict_plugins", False):
        os.environ["DDIM_HOST_STRICT_PLUGINS"] = "1"  # also for the processes that a command starts
    _leave(_carry_out(options))


def _carry_out(options: argparse.Namespace) -> int:
    """Call the command; the exit code."""
    try:
        _silence_other_ranks(options.command)
        name = options.command.replace("-", "_")
        # No module can be called `import`.
        command = importlib.import_module(f"ddim_host.cli.{name}{'_' * keyword.iskeyword(name)}")
        code: int = command.main(options)
        if sys.stdout is not None:  # as where it was closed before the start
            sys.stdout.flush()  # here, where it is known what to do if nobody reads it
    except UserError as error:
        print(f"ddim-host: error: {error}", file=sys.stderr)
        report_failure(error)
        return USER_ERROR
    except PermissionError as error:
        # Even to ask whether a path exists can be forbidden, and commands ask in many places.
        denied = UserError(f"cannot use {error.filename or 'a file'}", why=reason(error))
        print(f"ddim-host: error: {denied}", file=sys.stderr)
        report_failure(denied)
        return USER_ERROR
    except BrokenPipeError:
        if not _nobody_reads_output():
            raise  # it was another pipe
        # Whoever read the output (`head`, say) has seen enough; Python would complain once more when it ends.
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
    """See to it that of several processes the first one alone speaks.

    Raises:
        UserError: The command is not for several processes.
    """
    launch = launched()
    if launch.count > 1 and not COMMANDS[command].is_shared:
        raise UserError(
            f"`ddim-host {command}` is the work of one process",
            why=f"{launch.launcher} started {launch.count}",
            fix=f"start it without {launch.launcher}",
        )
    if not launch.is_first:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - until the end


def _leave(code: int) -> NoReturn:
    """End this process; of several, in such a way that the launcher ends the others where it failed.

    A failed process would else wait at its end for the others, which wait for it in the midst of a step.
    """
    if code and _is_one_of_several():
        # The launcher ends all of them where one has failed; this one ends already.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not launched().is_first:
            time.sleep(_LAST_WORDS_SECONDS)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _nobody_reads_output() -> bool:
    """Whether standard output is a pipe or a socket whose other end was closed."""
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
    """Return the parser of the whole command line; the documentation is made from it, too."""
    parser = CommandParser(
        prog="ddim-host",
        description="Run one DDIM diffusion experiment on PyTorch or on Jittor, every part of it a plugin.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ddim-host {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name, help=command.summary, description=command.description, allow_abbrev=False
        )
        if command.takes_strict_plugins:
            added.add_argument(
                "--strict-plugins",
                action="store_true",
                help="make a plugin that does not work an error, also where it is not needed",
            )
        command.add_options(added)
    return parser
