"""Flat records of numbers, back from the text of a JSON or CSV file."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["read_record"]

_Record = TypeVar("_Record")


def read_record(record: type[_Record], values: Mapping[str, typing.Any], **others: object) -> _Record:
    """Make a dataclass whose fields are int or float.

    Args:
        record: The dataclass.
        values: Numbers or their text, by field name; other names are ignored.
        others: Values of fields that are neither; they are taken as they are.

    Raises:
        KeyError: A field is missing.
        TypeError: A value is neither a number nor text.
        ValueError: A text is not a number of the field's type.
    """
    types = typing.get_type_hints(record)
    numbers = {name: _number(kind, values[name]) for name, kind in types.items() if name not in others}
    return record(**numbers, **others)


def _number(kind: type[int] | type[float], value: typing.Any) -> int | float:
    number = kind(value)
    if not isinstance(value, str) and number != value:
        raise ValueError(f"{value!r} is not an {kind.__name__}")
    return number
