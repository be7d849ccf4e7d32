"""Command-line parser that suggests corrections for unknown words."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence


class CommandParser(argparse.ArgumentParser):
    """Argument parser that prints errors in the format of this program, without the usage message."""

    # The base class overloads this method; the argument names are the same.
    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse like the base class, but report unknown arguments as errors of this subcommand."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            is_option = unknown[0].startswith("-")
            word = unknown[0].partition("=")[0] if is_option else unknown[0]
            options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
            meant = suggestion(word.lstrip("-"), options, prefix="--") if is_option else ""
            self.error(f"`{self.prog}` does not accept {word!r}{meant}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Check the value as the base class does, but suggest similar values."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            meant = suggestion(str(value), choices)
            raise argparse.ArgumentError(action, f"must be one of {', '.join(choices)}, not {value!r}{meant}")

    def _shortest(self) -> str:
        """Return the command with only its required arguments: `ddim-host import SOURCE --out DIR`."""
        words = [self.prog]
        for action in self._actions:
            if action.required:
                words += [*action.option_strings[:1], str(action.metavar or action.dest.upper())]
        return " ".join(words)

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        # Drop argparse's prefix, because messages about values begin with the option.
        text = re.sub(r"^argument (\S+): (?=must be )", r"\1 ", message)
        fix = f"see `{self.prog} --help`"
        if "are required" in message:
            fix = f"write `{self._shortest()}`; {fix}"
        error = UserError(text, fix=fix)
        print(f"ddim-host: error: {error}", file=sys.stderr)
        sys.exit(2)
