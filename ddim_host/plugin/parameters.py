"""Names and parameters of parts as users write them (`huber:delta=0.1`), checked against signatures."""

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
"""Value of a parameter; users write None as `none`."""

_ARGUMENT_BOUNDARY = re.compile(r",(?=\s*[A-Za-z_]\w*=)")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class _Required:
    """Marker for a parameter without a default."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclass(frozen=True)
class PartChoice:
    """A part as the user requested it.

    Attributes:
        name: The part's name.
        distribution: The distribution it must come from; None for any.
        arguments: Parameters as given: text from the command line, or values from a TOML file.
    """

    name: str
    distribution: str | None
    arguments: Mapping[str, object]


@dataclass(frozen=True)
class Parameter:
    """A keyword-only parameter of a part.

    Attributes:
        name: Its name in the signature.
        annotation: Its type.
        default: Its default, or `REQUIRED`.
    """

    name: str
    annotation: Any
    default: Value | _Required


def parse_choice(text: str) -> PartChoice:
    """Parse `name`, `name:key=value,key=value` or `distribution/name:...`.

    The text is split at the first colon, then at commas followed by a `key=`, then at the first `=`; so
    values may contain colons, commas and equals signs: `explicit:t=0,10,20`, `images:path=C:/a,b`.

    Raises:
        UserError: The name is missing, an argument has no `=`, or nothing follows the colon.
    """
    head, colon, tail = text.partition(":")
    distribution, slash, name = head.rpartition("/")
    name = name.strip()
    if not name or (slash and not distribution):
        raise UserError(f"{text!r} does not name a part", fix="write NAME or NAME:parameter=value,...")
    if colon and not tail.strip():
        raise UserError(
            f"{text!r} has no parameters after the colon", fix=f"write {head} or {head}:parameter=value"
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
            raise UserError(f"{text!r} sets {key!r} twice", fix="remove one of them")
        arguments[key] = value
    return PartChoice(name, distribution or None, arguments)


def format_choice(name: str, values: Mapping[str, Value]) -> str:
    """Return the text that `parse_choice` and `resolve` convert back to these values."""
    arguments = ",".join(f"{written(key)}={format_value(value)}" for key, value in values.items())
    return f"{name}:{arguments}" if arguments else name


def written(name: str) -> str:
    """Return a parameter's name as users write it: `from` for `from_`, a Python keyword."""
    return name[:-1] if keyword.iskeyword(name[:-1]) else name


def format_value(value: Value) -> str:
    """Return a value in the form used on the command line."""
    if isinstance(value, tuple):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def shortened(text: str, most: int) -> str:
    """Return a text, with its middle replaced by `...` if it is longer than `most` characters."""
    end = 2 * most // 5
    return text if len(text) <= most else f"{text[:end]}...{text[-end:]}"


def user_parameters(part: Callable[..., object], arguments: int | None = None) -> tuple[Parameter, ...]:
    """Return the keyword-only parameters of a part.

    Args:
        part: The callable.
        arguments: The number of positional arguments of the call; None skips this check.

    Raises:
        TypeError: The signature cannot be read; or a parameter is not keyword-only, is not annotated or
            has an unsupported type, or its default has a different type.
    """
    try:
        signature = inspect.signature(part)
        keyword_only = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        hints = _types(part, keyword_only)
    except (NameError, TypeError, ValueError) as error:
        raise TypeError(f"cannot resolve the types in its signature: {error}") from error
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
                f"the type of its parameter {name!r} must be bool, int, float, str, Path, tuple[int, ...] or "
                f"tuple[float, ...], or one of these or None, not {written}"
            )
        if default is parameter.empty:
            default = REQUIRED
        elif not _fits(default, annotation):
            raise TypeError(
                f"the default of its parameter {name!r} must be {described_type(annotation)}, "
                f"not {default!r:.40}"
                + (f"; write {tuple(default)!r:.40}" if isinstance(default, list) else "")
            )
        found.append(Parameter(name, annotation, default))
    return tuple(found)


def parameter_descriptions(part: Callable[..., object]) -> dict[str, str]:
    """Return the descriptions in the `Args:` section of a part's docstring, each on one line, by name."""
    found: dict[str, str] = {}
    docstring = inspect.getdoc(part) or ""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    entries = inspect.cleandoc("\n" + section[1]).splitlines() if section else []
    name = ""
    for line in entries:
        entry = re.match(r"\*{0,2}(\w+)(?: \([^)]*\))?:(.*)", line)
        if entry:
            name, found[entry[1]] = entry[1], entry[2].strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _type_of(default: object) -> str:
    """Return a plausible annotation for a parameter with this default."""
    if isinstance(default, tuple | list):
        return f"tuple[{'int' if all(type(item) is int for item in default) else 'float'}, ...]"
    return type(default).__name__ if type(default) in _CONVERTERS else "float"


def _require_only(signature: inspect.Signature, arguments: int) -> None:
    """Check that every parameter beyond the positional arguments can be set by users."""
    by_position = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if len(by_position) > arguments:
        extra = by_position[arguments]
        raise TypeError(
            f"its parameter {extra!r} is positional, so it never gets a value; make it keyword-only"
        )
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            raise TypeError(
                f"its parameters **{parameter.name} never get values; list each as keyword-only, "
                f"with its type"
            )


def _fits(default: object, annotation: Any) -> bool:
    """Return whether a default has its parameter's type; an int is accepted as a float."""
    members = [a for a in typing.get_args(annotation) if a is not Ellipsis]
    if typing.get_origin(annotation) is tuple:
        return isinstance(default, tuple) and all(_fits(item, members[0]) for item in default)
    if members:
        return any(_fits(default, member) for member in members)
    if annotation in (int, float) and isinstance(default, bool):
        return False
    return isinstance(default, int | float if annotation is float else annotation)


def resolve(
    label: str,
    known: Sequence[Parameter],
    arguments: Mapping[str, object],
    *,
    setting: Callable[[str], str] = "NAME:{}=VALUE".format,
) -> dict[str, Value]:
    """Return values for all parameters: the given ones converted to their types, defaults for the others.

    Args:
        label: The owner of the parameters, for messages (`loss 'huber'`).
        known: The existing parameters.
        arguments: Text or TOML values by name.
        setting: Returns an example that sets the parameter with a given name, for messages.

    Raises:
        UserError: An argument is unknown, has the wrong type, or is missing and has no default.
    """
    names = [parameter.name for parameter in known]
    arguments = {f"{name}_" if keyword.iskeyword(name) else name: given for name, given in arguments.items()}
    listed = ", ".join(map(_described, known)) or "none"
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
                    f"parameter {written(parameter.name)!r} of {label} must be "
                    f"{described_type(parameter.annotation)}, not {given!r:.80}",
                    why=f"this parameter: {_described(parameter)}",
                    fix=_how_to_write_a_list(parameter),
                ) from None
        elif isinstance(parameter.default, _Required):
            raise UserError(
                f"{label} needs a value for its parameter {written(parameter.name)!r}",
                why=f"its parameters: {listed}",
                fix=f"write {setting(written(parameter.name))}",
            )
        else:
            values[parameter.name] = parameter.default
    return values


def suggestion(name: str, known: Sequence[str], *, prefix: str = "") -> str:
    """Return `; did you mean 'mse'?` if a known name is similar, otherwise an empty string.

    If exactly one known name contains the requested name as a word, it is preferred: `timestep-sampler` for
    `sampler`.

    Args:
        name: The requested name.
        known: The existing names.
        prefix: Text to write before the suggestion; the comparison ignores it.
    """
    containing = [other for other in known if name in re.split(r"[-_ ]", other)]
    matches = containing if len(containing) == 1 else get_close_matches(name, known, n=1)
    return f"; did you mean {prefix + matches[0]!r}?" if matches else ""


def suggestion_of_part(flag: str, name: str, known: Sequence[str]) -> str:
    """Return a suggestion for a part's name; for several names (`mse,l2`), explain how to sweep over them."""
    several = name.split(",")
    if len(several) > 1 and set(several) <= set(known):
        return f"; in a sweep, repeat the option: {' '.join(f'{flag} {one}' for one in several)}"
    return suggestion(name, known)


def type_name(annotation: Any) -> str:
    """Return the type in words for users: `number`, `integer`, `list of integers`, ..."""
    names = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}
    if annotation in names:
        return names[annotation]
    members = [a for a in typing.get_args(annotation) if a is not types.NoneType]
    if typing.get_origin(annotation) is tuple:
        return f"list of {names[members[0]]}s"
    return f"{type_name(members[0])} or none"


def described_type(annotation: Any) -> str:
    """Return the type in words with its article, for messages: `an integer`, `true or false`."""
    name = type_name(annotation)
    if annotation in (bool, str):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _types(part: Callable[..., object], wanted: Sequence[inspect.Parameter]) -> dict[str, Any]:
    """Return the types of the wanted parameters; those of others may exist only for type checkers."""
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
        ValueError: The value does not fit the type.
        UserError: The value is a path in the home folder of a user who does not exist.
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
    if type(given) is int:  # `channels = 1` in TOML, like `channels=1` on the command line
        return str(given)
    if not isinstance(given, str):
        raise ValueError
    return given


def _path(given: object) -> Path:
    if not isinstance(given, str) or not given:
        raise ValueError
    given.encode("utf-8")  # raises ValueError for names in other encodings, which TOML cannot represent
    # Absolute, so that a stored configuration has the same meaning in any working folder.
    return absolute_path(given)


_CONVERTERS: dict[type, Callable[[object], Value]] = {
    bool: _boolean,
    int: _integer,
    float: _number,
    str: _text,
    Path: _path,
}


def _how_to_write_a_list(parameter: Parameter) -> str:
    """Return how to write a list, including an empty one; return an empty string for other types."""
    if "list" not in type_name(parameter.annotation):
        return ""
    name = written(parameter.name)
    return f"write {name}=ITEM,ITEM,..., or {name}= for an empty list"


def _described(parameter: Parameter) -> str:
    return f"{written(parameter.name)} ({type_name(parameter.annotation)}, {_default_text(parameter)})"


def _default_text(parameter: Parameter) -> str:
    if isinstance(parameter.default, _Required):
        return "required"
    return f"default {format_value(parameter.default)}"
