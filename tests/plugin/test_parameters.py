"""The grammar `name:key=value,...`, and the types that parameters get from signatures."""

from __future__ import annotations

import functools
import keyword
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ddim_host.errors import UserError
from ddim_host.plugin.parameters import (
    REQUIRED,
    Parameter,
    PartChoice,
    convert,
    format_choice,
    parameter_descriptions,
    parse_choice,
    resolve,
    suggestion,
    type_name,
    user_parameters,
)
from ddim_host.plugin.registry import Kind, Part

if TYPE_CHECKING:
    from collections.abc import Callable

    from no_such_module import OnlyTypeCheckersKnowIt  # type: ignore[import-not-found]


# --- Grammar ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "distribution", "arguments"),
    [
        ("mse", "mse", None, {}),
        (" mse ", "mse", None, {}),
        ("ddim-losses/mse", "mse", "ddim-losses", {}),
        ("my-losses/huber:delta=0.1", "huber", "my-losses", {"delta": "0.1"}),
        ("quad:span=0.5,x=", "quad", None, {"span": "0.5", "x": ""}),
        ("explicit:t=0,10,20", "explicit", None, {"t": "0,10,20"}),
        ("explicit:t=0,10,20,order=down", "explicit", None, {"t": "0,10,20", "order": "down"}),
        ("images:path=C:/a,b,size=8", "images", None, {"path": "C:/a,b", "size": "8"}),
        ("images:path=/a=b:c/d", "images", None, {"path": "/a=b:c/d"}),
        ("a: x=1, y=2", "a", None, {"x": "1", "y": "2"}),
        ("a:x=1,2=3", "a", None, {"x": "1,2=3"}),
    ],
)
def test_parts_are_read(text: str, name: str, distribution: str | None, arguments: dict[str, str]) -> None:
    assert parse_choice(text) == PartChoice(name, distribution, arguments)


@pytest.mark.parametrize("text", ["", " ", ":", ":x=1", "/mse", "ddim-losses/", "ddim-losses/:x=1"])
def test_a_part_needs_a_name(text: str) -> None:
    with pytest.raises(UserError, match="does not name a part"):
        parse_choice(text)


@pytest.mark.parametrize("text", ["mse:", "ddim-losses/mse: "])
def test_colon_without_parameters_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="has no parameters after the colon") as caught:
        parse_choice(text)
    assert caught.value.fix.startswith(f"write {text.partition(':')[0]} or ")


@pytest.mark.parametrize(
    "text", ["huber:0.1", "huber:=0.1", "huber:a b=1", "huber:1x=1", "huber:delta", "huber:,x=1"]
)
def test_an_argument_needs_a_name_and_a_value(text: str) -> None:
    with pytest.raises(UserError, match="cannot read") as caught:
        parse_choice(text)
    assert "huber:parameter=value" in caught.value.fix


def test_duplicate_argument_is_refused() -> None:
    with pytest.raises(UserError, match="sets 'x' twice"):
        parse_choice("a:x=1,y=2,x=3")


# --- Round trips --------------------------------------------------------------------------------------------

LOOKS_LIKE_AN_ARGUMENT = re.compile(r",\s*[A-Za-z_]\w*=")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not LOOKS_LIKE_AN_ARGUMENT.search(text)
)
paths = texts.filter(lambda text: "\0" not in text).map(lambda text: Path("/", text))
numbers = st.floats(allow_nan=False, allow_infinity=False)
TYPES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    float: numbers,
    str: texts,
    Path: paths,
    tuple[int, ...]: st.lists(st.integers(), min_size=1).map(tuple),
    tuple[float, ...]: st.lists(numbers, min_size=1).map(tuple),
}
OPTIONAL = {
    annotation | None: st.none() | values.filter(lambda value: str(value) != "none")
    for annotation, values in TYPES.items()
}
parameters = st.sampled_from([*TYPES.items(), *OPTIONAL.items()]).flatmap(
    lambda item: st.tuples(st.just(item[0]), item[1])
)
identifiers = st.from_regex(r"[A-Za-z_]\w{0,8}", fullmatch=True).filter(
    lambda name: name.isidentifier() and not keyword.iskeyword(name)
)


@given(st.dictionaries(identifiers, parameters, max_size=4))
def test_displayed_choice_parses_back(given_parameters: dict[str, tuple[Any, Any]]) -> None:
    known = [Parameter(name, annotation, REQUIRED) for name, (annotation, _) in given_parameters.items()]
    values = {name: value for name, (_, value) in given_parameters.items()}
    shown = format_choice("part", values)
    assume(not LOOKS_LIKE_AN_ARGUMENT.search(",".join(map(str, values.values()))))
    choice = parse_choice(shown)
    assert (choice.name, choice.distribution) == ("part", None)
    resolved = resolve("part", known, choice.arguments)
    assert resolved == values
    assert [type(value) for value in resolved.values()] == [type(value) for value in values.values()]


@pytest.mark.parametrize(
    "text", ["/data/a:b", "/data/a,b", "/data/a=b", "/data/a, b=c d", "C:/x,1=2", "/ends,"]
)
def test_unusual_paths_are_parsed(text: str) -> None:
    known = [Parameter("path", Path, REQUIRED), Parameter("size", int, 1)]
    choice = parse_choice(f"images:path={text},size=8")
    if text == "/data/a, b=c d":  # only a TOML file can express this path
        assert set(choice.arguments) == {"path", "b", "size"}
    else:
        assert resolve("images", known, choice.arguments) == {"path": Path(text).absolute(), "size": 8}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        choice = parse_choice(text)
    except UserError:
        return
    assert choice.name
    assert all(name.isidentifier() for name in choice.arguments)


def test_an_empty_list_can_be_typed() -> None:
    shown = format_choice("unet", {"attention_resolutions": ()})
    known = [Parameter("attention_resolutions", tuple[int, ...], REQUIRED)]
    assert resolve("unet", known, parse_choice(shown).arguments) == {"attention_resolutions": ()}


# --- Types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_value", "annotation", "value"),
    [
        ("true", bool, True),
        ("No", bool, False),
        ("1", bool, True),
        ("off", bool, False),
        (True, bool, True),
        ("12", int, 12),
        ("-3", int, -3),
        (12, int, 12),
        ("0.5", float, 0.5),
        ("1e-4", float, 1e-4),
        ("2", float, 2.0),
        (2, float, 2.0),
        ("a b", str, "a b"),
        ("none", str, "none"),
        (3, str, "3"),
        ("/a/b", Path, Path("/a/b")),
        ("none", int | None, None),
        ("3", int | None, 3),
        ("0,10", tuple[int, ...], (0, 10)),
        ([0, 10], tuple[int, ...], (0, 10)),
        ("0.5,1", tuple[float, ...], (0.5, 1.0)),
        ("none", tuple[int, ...] | None, None),
        ("1,2", tuple[int, ...] | None, (1, 2)),
    ],
)
def test_values_are_converted(given_value: object, annotation: Any, value: object) -> None:
    converted = convert(given_value, annotation)
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("given_value", "annotation"),
    [
        ("maybe", bool),
        (1, bool),
        ("", bool),
        ("1.0", int),
        (1.0, int),
        (True, int),
        ("none", int),
        ("", int),
        ("9" * 5000, int),
        ("nan", float),
        (True, float),
        ("x", float),
        (True, str),
        (1.5, str),
        ("", Path),
        (None, Path),
        ("1,", tuple[int, ...]),
        ("1;2", tuple[int, ...]),
        ([1.5], tuple[int, ...]),
        ([True], tuple[int, ...]),
        (3, tuple[int, ...]),
        ("1,nan", tuple[float, ...]),
        ({"a": 1}, tuple[float, ...]),
        ("x", int | None),
    ],
)
def test_other_values_are_refused(given_value: object, annotation: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it has no message; the caller adds one
        convert(given_value, annotation)


def test_integer_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it has no message; the caller adds one
        convert(10**400, float)


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert convert("a/b", Path) == tmp_path / "a/b"
    assert convert("~/b", Path) == Path("/home/someone/b")


def test_home_folder_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(UserError, match="there is no home folder ~nosuchuser\n") as caught:
        convert("~nosuchuser/x", Path)
    assert "~nosuchuser/x" in caught.value.why


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true or false"),
        (int, "integer"),
        (float, "number"),
        (str, "text"),
        (Path, "path"),
        (int | None, "integer or none"),
        (tuple[int, ...], "list of integers"),
        (tuple[float, ...] | None, "list of numbers or none"),
    ],
)
def test_types_have_readable_names(annotation: Any, words: str) -> None:
    assert type_name(annotation) == words


# --- Mistakes of users --------------------------------------------------------------------------------------

HUBER = (
    Parameter("delta", float, 0.1),
    Parameter("size", int | None, None),
    Parameter("path", Path, REQUIRED),
)
LISTED = (
    "its parameters: delta (number, default 0.1), size (integer or none, default none), path (path, required)"
)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"path": "/a", "dleta": "1"}, "loss 'huber' has no parameter 'dleta'; did you mean 'delta'?"),
        ({"path": "/a", "zzz": "1"}, "loss 'huber' has no parameter 'zzz'"),
        ({}, "loss 'huber' needs a value for its parameter 'path'"),
    ],
)
def test_wrong_arguments_list_the_known_ones(arguments: dict[str, object], what: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve("loss 'huber'", HUBER, arguments)
    assert (caught.value.what, caught.value.why) == (what, LISTED)


@pytest.mark.parametrize(
    ("arguments", "what", "why"),
    [
        ({"delta": "x"}, "'delta' of loss 'huber' must be a number, not 'x'", "delta (number, default 0.1)"),
        (
            {"size": "1.5"},
            "'size' of loss 'huber' must be an integer or none, not '1.5'",
            "size (integer or none, default none)",
        ),
    ],
)
def test_error_about_a_value_describes_this_parameter_only(
    arguments: dict[str, object], what: str, why: str
) -> None:
    with pytest.raises(UserError) as caught:
        resolve("loss 'huber'", HUBER, {"path": "/a", **arguments})
    assert (caught.value.what, caught.value.why) == (f"parameter {what}", f"this parameter: {why}")
    assert caught.value.fix == ""


def test_error_about_a_list_says_how_to_write_an_empty_one() -> None:
    known = (Parameter("levels", tuple[int, ...], (4,)),)
    with pytest.raises(
        UserError, match="'levels' of model 'unet' must be a list of integers, not 'none'"
    ) as caught:
        resolve("model 'unet'", known, {"levels": "none"})
    assert caught.value.fix == "write levels=ITEM,ITEM,..., or levels= for an empty list"
    assert resolve("model 'unet'", known, {"levels": ""}) == {"levels": ()}


def test_error_for_a_part_without_parameters() -> None:
    with pytest.raises(UserError) as caught:
        resolve("loss 'mse'", (), {"delta": "1"})
    assert caught.value.why == "its parameters: none"


def test_python_keywords_are_written_without_the_underscore() -> None:
    def part(*, from_: int, to: int = 2) -> None: ...

    known = user_parameters(part)
    for name in ("from", "from_"):
        assert resolve("loss 'x'", known, {name: "1"}) == {"from_": 1, "to": 2}
    assert format_choice("x", {"from_": 1, "to": 2}) == "x:from=1,to=2"
    for arguments in ({}, {"from": "far"}, {"if": "1"}):
        with pytest.raises(UserError) as caught:
            resolve("loss 'x'", known, arguments)
        assert "_" not in str(caught.value)


def test_missing_arguments_get_their_defaults() -> None:
    assert resolve("x", HUBER, {"path": "/a"}) == {"delta": 0.1, "size": None, "path": Path("/a")}


def test_suggestions_need_a_close_match() -> None:
    assert suggestion("mes", ["l2", "mse"]) == "; did you mean 'mse'?"
    assert suggestion("banana", ["l2", "mse"]) == ""


# --- Signatures ---------------------------------------------------------------------------------------------


def function(schedule: object, steps: int = 3, *, delta: float = 0.1, size: int | None = None) -> None:
    pass


class Class:
    def __init__(self, schedule: object, *, delta: float = 0.1, size: int | None = None) -> None:
        pass


class Subclass(Class):
    pass


class Callable_:  # noqa: N801 - named after the builtin
    def __call__(self, schedule: object, *, delta: float = 0.1, size: int | None = None) -> None:
        pass

    def method(self, schedule: object, *, delta: float = 0.1, size: int | None = None) -> None:
        pass


@functools.wraps(function)
def wrapper(*arguments: Any, **options: Any) -> None:
    function(*arguments, **options)


def with_hidden_types(
    schedule: OnlyTypeCheckersKnowIt, *, delta: float = 0.1, size: int | None = None
) -> None:
    pass


def old_style(schedule: object, *, delta: float = 0.1, size: Optional[int] = None) -> None:  # noqa: UP045
    pass


@pytest.mark.parametrize(
    "part",
    [
        function,
        Class,
        Subclass,
        Callable_(),
        Callable_().method,
        wrapper,
        with_hidden_types,
        old_style,
        functools.partial(function, steps=3),
    ],
    ids=[
        "function",
        "class",
        "subclass",
        "object",
        "method",
        "wrapper",
        "hidden types",
        "Optional",
        "partial",
    ],
)
def test_keyword_only_parameters_are_found(part: Callable[..., object]) -> None:
    found = {p.name: (p.annotation, p.default) for p in user_parameters(part) if p.name != "steps"}
    assert found == {"delta": (float, 0.1), "size": (int | None, None)}


def test_positional_parameters_are_hidden_from_users() -> None:
    assert [parameter.name for parameter in user_parameters(function)] == ["delta", "size"]


def test_partial_changes_defaults() -> None:
    part = functools.partial(function, delta=0.7)
    assert {p.name: p.default for p in user_parameters(part)}["delta"] == 0.7


def test_a_parameter_without_default_is_required() -> None:
    def part(*, path: Path) -> None:
        pass

    assert user_parameters(part) == (Parameter("path", Path, REQUIRED),)


def no_annotation(*, delta=0.1) -> None:  # type: ignore[no-untyped-def]
    pass


def no_such_type(*, delta: Nowhere = 0.1) -> None:  # type: ignore[name-defined]  # noqa: F821
    pass


def a_dict(*, delta: dict[str, int] = {}) -> None:  # noqa: B006
    pass


def a_union(*, delta: int | str = 1) -> None:
    pass


def a_pair(*, delta: tuple[int, int] = (1, 2)) -> None:
    pass


def a_choice(*, delta: Literal["a", "b"] = "a") -> None:
    pass


def nested(*, delta: tuple[tuple[int, ...], ...] = ()) -> None:
    pass


def half_an_integer(*, delta: int = 0.5) -> None:  # type: ignore[assignment]
    pass


def text_for_a_path(*, delta: Path | None = "x") -> None:  # type: ignore[assignment]
    pass


def numbers_for_integers(*, delta: tuple[int, ...] = (1, 2.5)) -> None:  # type: ignore[assignment]
    pass


def not_after_the_star(prediction: object, target: object, delta: float = 0.1) -> None:
    pass


def anything(prediction: object, target: object, **options: float) -> None:
    pass


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (no_annotation, "its parameter 'delta' has no annotation; write `delta: float`"),
        (no_such_type, "cannot resolve the types in its signature: name 'Nowhere' is not defined"),
        (
            a_dict,
            "the type of its parameter 'delta' must be bool, int, float, str, Path, tuple[int, ...] or "
            "tuple[float, ...], or one of these or None, not dict[str, int]",
        ),
        (a_union, "one of these or None, not int | str"),
        (a_pair, "one of these or None, not tuple[int, int]"),
        (a_choice, "one of these or None, not typing.Literal['a', 'b']"),
        (nested, "the type of its parameter 'delta' must be bool, int, "),
        (half_an_integer, "the default of its parameter 'delta' must be an integer, not 0.5"),
        (text_for_a_path, "the default of its parameter 'delta' must be a path or none, not 'x'"),
        (
            numbers_for_integers,
            "the default of its parameter 'delta' must be a list of integers, not (1, 2.5)",
        ),
        (
            not_after_the_star,
            "its parameter 'delta' is positional, so it never gets a value; make it keyword-only",
        ),
        (anything, "its parameters **options never get values; list each as keyword-only, with its type"),
        (print, ""),
    ],
)
def test_unusable_parameter_is_an_error_of_the_part(part: Callable[..., object], why: str) -> None:
    with pytest.raises(UserError) as caught:
        Part(Kind.LOSS, "odd", part, "some-losses", "1.2").parameters()
    assert caught.value.what == "loss 'odd' of some-losses 1.2 does not work"
    assert why in caught.value.why
    assert "some-losses" in caught.value.fix


def test_defaults_may_have_any_compatible_type() -> None:
    def part(
        *,
        number: float = 1,
        numbers: tuple[float, ...] = (1, 0.5),
        path: Path | None = None,
        flag: bool = False,
        size: int | None = 3,
    ) -> None: ...

    assert len(user_parameters(part)) == 5


def test_unreadable_signature_is_an_error_of_the_part() -> None:
    with pytest.raises(UserError, match="loss 'odd' of some-losses"):
        Part(Kind.LOSS, "odd", type, "some-losses", "1.2").parameters()


def test_descriptions_are_read_from_the_docstring() -> None:
    class Part:
        """Draw timesteps.

        The paragraph is not a list: of arguments.

        Args:
            schedule: The noise schedule.
            count (int): The number of strata,
                which must divide T: 10, 100.
            from_: First timestep.

        Raises:
            UserError: Never.
        """

    assert parameter_descriptions(Part) == {
        "schedule": "The noise schedule.",
        "count": "The number of strata, which must divide T: 10, 100.",
        "from_": "First timestep.",
    }
    assert parameter_descriptions(lambda: None) == {}
