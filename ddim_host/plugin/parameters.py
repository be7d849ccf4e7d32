"""How a user names a part and sets its parameters: `huber:delta=0.1`, read against a signature."""

from __future__ import annotations

import inspect
import keyword
import math
import re
import types
import typing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ddim_host.errors import UserError
from ddim_host.system.files import absolute_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Scalar: TypeAlias = bool | int | float | str | Path
Value: TypeAlias = Scalar | tuple[int, ...] | tuple[float, ...] | None
"""What a parameter can be. None is written `none`."""

_ARGUMENT_BOUNDARY = re.compile(r",(?=\s*[A-Za-z_]\w*=)")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class _Required:
    """Marks a parameter without a default."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class PartChoice:
    """A part as the user asked for it.

    Attributes:
        name: The part's name.
        distribution: The distribution it must come from; None where the user did not say.
        arguments: Parameters as given: text from the command line, or values from a TOML file.
    """

    name: str
    distribution: str | None
    arguments: Mapping[str, object]


@dataclass(frozen=True)
class Parameter:
    """A keyword-only parameter of a part.

    Attributes:
        name: As in the signature.
        annotation: Its type.
        default: Its default, or `REQUIRED`.
    """

    name: str
    annotation: Any
    default: Value | _Required


def parse_choice(text: str) -> PartChoice:
    """Read `name`, `name:key=value,key=value` or `distribution/name:...`.

    Split at the first colon, then at commas that a `key=` follows, then at the first `=`; so values may hold
    colons, commas and equals signs: `explicit:t=0,10,20`, `images:path=C:/a,b`.

    Raises:
        UserError: There is no name, or an argument has no `=`, or nothing follows the colon.
    """
    head, colon, tail = text.partition(":")
    distribution, slash, name = head.rpartition("/")
    name = name.strip()
    if not name or (slash and not distribution):
        raise UserError(f"{text!r} does not name a part", fix="write name, or name:parameter=value,...")
    if colon and not tail.strip():
        raise UserError(
            f"nothing follows the colon in {text!r}", fix=f"write {head} or {head}:parameter=value"
        )
    arguments: dict[str, object] = {}
    for argument in _ARGUMENT_BOUNDARY.split(tail) if tail else []:
        key, equals, value = argument.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier():
            raise UserError(
                f"cannot read {argument!r} in {text!r}", fix=f"write {name}:parameter=value,parameter=value"
            )
        if key in arguments:
            raise UserError(f"{key!r} is given twice in {text!r}")
        arguments[key] = value
    return PartChoice(name, distribution or None, arguments)


def format_choice(name: str, values: Mapping[str, Value]) -> str:
    """The text that `parse_choice` and `resolve` turn back into these values."""
    arguments = ",".join(f"{written(key)}={format_value(value)}" for key, value in values.items())
    return f"{name}:{arguments}" if arguments else name


def written(name: str) -> str:
    """Return the name of a parameter as users write it: that of `from_`, a keyword of Python, is `from`."""
    return name[:-1] if keyword.iskeyword(name[:-1]) else name


def format_value(value: Value) -> str:
    """The text that a value is written as on a command line, and read back from."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def shortened(text: str, most: int) -> str:
    """Return a text without its middle if it is longer than `most` characters, as a long list is."""
    end = 2 * most // 5
    return text if len(text) <= most else f"{text[:end]}...{text[-end:]}"


def user_parameters(part: Callable[..., object], arguments: int | None = None) -> tuple[Parameter, ...]:
    """The keyword-only parameters of a part.

    Args:
        part: The callable.
        arguments: With how many arguments by position it is called; None where that is not to be checked.

    Raises:
        TypeError: The signature cannot be read; a parameter is not one that users could set, or has no type
            that they can write, or a default of another type.
    """
    try:
        signature = inspect.signature(part)
        keyword_only = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        hints = _types(part, keyword_only)
    except (NameError, TypeError, ValueError) as error:
        raise TypeError(f"the types in its signature cannot be read: {error}") from error
    if arguments is not None:
        _require_only(signature, arguments)
    found = []
    for parameter in keyword_only:
        name, default = parameter.name, parameter.default
        if parameter.annotation is parameter.empty:
            raise TypeError(f"its parameter {name!r} has no annotation; write `{name}: {_type_of(default)}`")
        annotation = hints.get(name)
        if not _supported(annotation):
            written = annotation.__name__ if isinstance(annotation, type) else annotation
            raise TypeError(
                f"its parameter {name!r} has no type that users can set: {written}; there are bool, int, "
                "float, str, Path, tuple[int, ...], tuple[float, ...], and each of these or None"
            )
        if default is parameter.empty:
            default = REQUIRED
        elif not _fits(default, annotation):
            raise TypeError(
                f"the default of its parameter {name!r}, {default!r:.40}, "
                f"is not {_article(type_name(annotation))}"
                + (f"; write {tuple(default)!r:.40}" if isinstance(default, list) else "")
            )
        found.append(Parameter(name, annotation, default))
    return tuple(found)


def _type_of(default: object) -> str:
    """The annotation that a parameter with this default most likely wants."""
    if isinstance(default, tuple | list):
        return f"tuple[{'int' if all(type(item) is int for item in default) else 'float'}, ...]"
    return type(default).__name__ if type(default) in _CONVERTERS else "float"


def _require_only(signature: inspect.Signature, arguments: int) -> None:
    """See to it that what a part is not called with can be set by users."""
    by_position = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(by_position) > arguments:
        extra = by_position[arguments]
        raise TypeError(f"nobody sets its parameter {extra!r}: put `*` before `{extra}` for users to set it")
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            raise TypeError(
                f"nobody sets its parameters **{parameter.name}: write each of them after `*`, with its type"
            )


def _fits(default: object, annotation: Any) -> bool:
    """Whether a default is of its parameter's type; an int is a float, too."""
    members = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    if typing.get_origin(annotation) is tuple:
        return isinstance(default, tuple) and all(_fits(item, members[0]) for item in default)
    if members:
        return any(_fits(default, member) for member in members)
    if annotation in (int, float) and isinstance(default, bool):
        return False
    return isinstance(default, int | float if annotation is float else annotation)


def resolve(label: str, known: Sequence[Parameter], arguments: Mapping[str, object]) -> dict[str, Value]:
    """Values for all parameters: the given ones converted to their types, defaults for the others.

    Args:
        label: What the parameters belong to, for messages (`loss 'huber'`).
        known: The parameters that there are.
        arguments: Text or TOML values by name.

    Raises:
        UserError: An argument is unknown, ill-typed, or missing though it has no default.
    """
    names = [parameter.name for parameter in known]
    arguments = {f"{name}_" if keyword.iskeyword(name) else name: given for name, given in arguments.items()}
    listed = (
        ", ".join(f"{written(p.name)} ({type_name(p.annotation)}, {_default_text(p)})" for p in known)
        or "none"
    )
    for name in arguments:
        if name not in names:
            raise UserError(
                f"{label} has no parameter {written(name)!r}{suggestion(name, names)}",
                why=f"its parameters: {listed}",
            )
    values: dict[str, Value] = {}
    for parameter in known:
        if parameter.name in arguments:
            given = arguments[parameter.name]
            try:
                values[parameter.name] = convert(given, parameter.annotation)
            except ValueError:
                raise UserError(
                    f"{label}: {written(parameter.name)}={given} "
                    f"is not {_article(type_name(parameter.annotation))}",
                    why=f"its parameters: {listed}",
                ) from None
        elif isinstance(parameter.default, _Required):
            raise UserError(
                f"{label} needs {written(parameter.name)}=...",
                why=f"its parameters: {listed}",
                fix=f"write NAME:{written(parameter.name)}=...",
            )
        else:
            values[parameter.name] = parameter.default
    return values


def suggestion(name: str, known: Sequence[str], *, prefix: str = "") -> str:
    """`; did you mean 'mse'?` where something like `name` is known, otherwise nothing.

    Args:
        name: What was asked for.
        known: What there is.
        prefix: What is written before each of them, and makes none more alike.
    """
    matches = get_close_matches(name, known, n=1)
    return f"; did you mean {prefix + matches[0]!r}?" if matches else ""


def type_name(annotation: Any) -> str:
    """The type as users should read it: `number`, `integer`, `list of integers`, ..."""
    names = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}
    if annotation in names:
        return names[annotation]
    members = [a for a in typing.get_args(annotation) if a is not types.NoneType]
    if typing.get_origin(annotation) is tuple:
        return f"list of {names[members[0]]}s"
    return f"{type_name(members[0])} or none"


def _types(part: Callable[..., object], wanted: Sequence[inspect.Parameter]) -> dict[str, Any]:
    """The types of some parameters; the others' may well be known to type checkers only."""
    function = inspect.unwrap(part)
    if inspect.isclass(function):
        function = function.__init__
    elif not inspect.isroutine(function):
        function = type(function).__call__
    annotated = types.SimpleNamespace(
        __annotations__={p.name: p.annotation for p in wanted if p.annotation is not p.empty}
    )
    known = {**getattr(function, "__globals__", {}), "Path": Path}
    return typing.get_type_hints(annotated, globalns=known)


def _supported(annotation: Any) -> bool:
    if annotation in _CONVERTERS:
        return True
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return arguments in ((int, Ellipsis), (float, Ellipsis))
    if origin in (typing.Union, types.UnionType):
        members = [a for a in arguments if a is not types.NoneType]
        return len(members) == 1 and len(arguments) == 2 and _supported(members[0])
    return False


def convert(given: object, annotation: Any) -> Value:
    """Convert text or a TOML value to a parameter's type.

    Raises:
        ValueError: It does not fit.
        UserError: It is a path in the home folder of nobody.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        if given == "none":
            return None
        return convert(given, next(a for a in arguments if a is not types.NoneType))
    if origin is tuple:
        items = (given.split(",") if given else []) if isinstance(given, str) else given
        if not isinstance(items, list | tuple):
            raise ValueError
        if arguments[0] is int:
            return tuple(_integer(item) for item in items)
        return tuple(_number(item) for item in items)
    return _CONVERTERS[annotation](given)


def _boolean(given: object) -> bool:
    if isinstance(given, bool):
        return given
    text = given.lower() if isinstance(given, str) else ""
    if text not in (*_TRUE, *_FALSE):
        raise ValueError
    return text in _TRUE


def _integer(given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise ValueError
    return int(given)


def _number(given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError
    try:
        number = float(given)
    except OverflowError as error:
        raise ValueError from error
    if math.isnan(number):
        raise ValueError
    return number


def _text(given: object) -> str:
    if type(given) is int:  # in TOML as on the command line: channels = 1
        return str(given)
    if not isinstance(given, str):
        raise ValueError
    return given


def _path(given: object) -> Path:
    if not isinstance(given, str) or not given:
        raise ValueError
    given.encode("utf-8")  # a ValueError for names in another encoding, which no TOML file could hold
    # Absolute, so that a stored configuration means the same from another folder.
    return absolute_path(given)


_CONVERTERS: dict[type, Callable[[object], Value]] = {
    bool: _boolean,
    int: _integer,
    float: _number,
    str: _text,
    Path: _path,
}


def _default_text(parameter: Parameter) -> str:
    if isinstance(parameter.default, _Required):
        return "required"
    return f"default {format_value(parameter.default)}"


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}" if noun != "true or false" else noun
