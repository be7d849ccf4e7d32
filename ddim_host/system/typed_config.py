"""Validation of configurations written by other programs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from ddim_host.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class TypedConfig:
    """A configuration that contains a class name and its arguments, read by key and type.

    Args:
        config: The content of the file; keys that begin with an underscore are not arguments.
        what: The configured object, for error messages: `a diffusers network`.
        classes: The supported classes; the first is the default.
        defaults: The keys that have an effect, with their defaults.
        without_effect: Known keys that have no effect.

    Raises:
        UserError: The class or a key is unknown.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        what: str,
        *,
        classes: tuple[str, ...],
        defaults: Mapping[str, object],
        without_effect: Collection[str],
    ) -> None:
        self._config, self._what, self._defaults = config, what, defaults
        name = config.get("_class_name", classes[0])
        if name not in classes:
            verb = "is" if len(classes) == 1 else "are"
            self.refuse("_class_name", name, f"only {' and '.join(classes)} {verb} supported")
        for key, value in config.items():
            if key not in defaults and key not in without_effect and not key.startswith("_"):
                self.refuse(key, value, f"{name} has no key {key!r:.80}, so its effect is unknown")

    def __getitem__(self, key: str) -> Any:
        return self._config.get(key, self._defaults[key])

    def integer(self, key: str) -> int:
        """Return the value of a key, an integer below 2^31 in absolute value.

        Raises:
            UserError: The value has the wrong type.
        """
        value = self[key]
        if not is_integer(value):
            self.refuse(key, value, f"{key} must be an integer")
        return int(value)

    def optional_integer(self, key: str) -> int | None:
        """Return the value of a key, an integer below 2^31 in absolute value or None.

        Raises:
            UserError: The value has the wrong type.
        """
        value = self[key]
        if value is not None and not is_integer(value):
            self.refuse(key, value, f"{key} must be an integer or null")
        return None if value is None else int(value)

    def number(self, key: str, *, positive: bool = False) -> float:
        """Return the value of a key, a finite number, above 0 if `positive`.

        Raises:
            UserError: The value has the wrong type.
        """
        value = self[key]
        if not is_number(value) or (positive and not value > 0.0):
            self.refuse(key, value, f"{key} must be a number{' above 0' * positive}")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return the value of a key, a boolean.

        Raises:
            UserError: The value has the wrong type.
        """
        value = self[key]
        if not isinstance(value, bool):
            self.refuse(key, value, f"{key} must be true or false")
        return value

    def refuse(self, key: str, value: object, why: str) -> NoReturn:
        """Raise a `UserError` about the value of a key."""
        raise UserError(f"{self._what} with {key} = {value!r:.80} cannot be imported", why=why)


def is_integer(value: object) -> bool:
    """Return whether a value is an integer below 2^31 in absolute value."""
    return type(value) is int and abs(value) < 1 << 31


def is_number(value: object) -> bool:
    """Return whether a value is a small integer (see `is_integer`) or a finite float."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))
