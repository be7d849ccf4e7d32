"""Records (dataclasses of plain values) read from JSON or CSV files."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ddim_host.errors import UserError
from ddim_host.system.files import file_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_Record = TypeVar("_Record")

_MOST = 2**63
"""Limit on the size of integers: all counts are smaller, and huge integers overflow a float."""


@contextmanager
def record_errors(path: Path, *, fix: str = "") -> Iterator[None]:
    """Turn errors from reading a file of records into a `UserError`.

    Args:
        path: The file.
        fix: The remedy if the file is damaged.
    """
    with file_errors(f"cannot read {path}"):
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged", why=f"{type(error).__name__}: {error}", fix=fix) from None


def read_record(record: type[_Record], values: Mapping[str, Any], **others: object) -> _Record:
    """Build a dataclass of numbers, strings, booleans, literals, records, and tuples and dicts of these.

    Args:
        record: The dataclass.
        values: Values by field name; numbers may be strings. Other names are ignored.
        others: Values of further fields, used without conversion.

    Raises:
        KeyError: A field is missing.
        TypeError: A value has the wrong type.
        ValueError: A string is not a number of the field's type, an integer is too large, or a value is not
            allowed by a `Literal`.
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r:.80} is not a {record.__name__}")
    types_ = typing.get_type_hints(record)
    return record(
        **{name: _value(kind, values[name]) for name, kind in types_.items() if name not in others}, **others
    )


def _value(kind: Any, value: Any) -> Any:
    if kind in (int, float):
        return _number(kind, value)
    if dataclasses.is_dataclass(kind):
        return read_record(typing.cast("type[Any]", kind), value)
    if kind in (str, bool) and isinstance(value, kind):
        return value
    return _composite(kind, value)


def _composite(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType and types.NoneType in arguments:
        [given] = set(arguments) - {types.NoneType}
        return None if value is None else _value(given, value)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], item) for item in value)  # `tuple[X, ...]`
    if origin is dict and isinstance(value, dict):
        return {_value(arguments[0], key): _value(arguments[1], item) for key, item in value.items()}
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{value!r:.80} is not one of {', '.join(map(repr, arguments))}")
        return value
    raise TypeError(f"{value!r:.80} is not of type {kind}")


def _number(kind: type[int] | type[float], value: Any) -> int | float:
    try:
        number = kind(value)
    except OverflowError as error:  # an infinite integer
        raise ValueError(f"{value!r:.80} is not of type {kind.__name__}") from error
    if isinstance(value, bool) or (not isinstance(value, str) and number != value):
        raise ValueError(f"{value!r:.80} is not of type {kind.__name__}")
    if isinstance(number, int) and abs(number) >= _MOST:
        raise ValueError(f"{value!r:.80} is too large")
    return number
