"""What the command line says about words that it does not understand."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors look like all others of this program, with the usage left to `--help`."""

    # The names of the arguments are those of the base class, which has more than one signature.
    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As the base class does it, but nothing is left over, and it is this command that says so."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            is_option = unknown[0].startswith("-")
            word = unknown[0].partition("=")[0] if is_option else unknown[0]
            options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
            meant = suggestion(word.lstrip("-"), options, prefix="--") if is_option else ""
            self.error(f"`{self.prog}` does not take {word!r}{meant}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As the base class does it, with what may have been meant."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            meant = suggestion(str(value), choices)
            raise argparse.ArgumentError(
                action, f"there is no {value!r}{meant or ';'} choose from {', '.join(choices)}"
            )

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        print(
            f"ddim-host: error: {UserError(message, fix=f'see `{self.prog} --help`')}",
            file=sys.stderr,
        )
        sys.exit(2)
