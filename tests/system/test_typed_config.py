"""Values in the configurations of other programs are read with their types."""

from __future__ import annotations

import pytest

from ddim_host.errors import UserError
from ddim_host.system.typed_config import TypedConfig


def read(**config: object) -> TypedConfig:
    return TypedConfig(
        config,
        "a toy",
        classes=("Toy",),
        defaults={"size": 3, "weight": 0.5, "on": True},
        without_effect={"id"},
    )


def test_values_have_their_types_and_defaults() -> None:
    config = read(size=None, weight=2, id="x", _name="y")
    assert (config.optional_integer("size"), config.number("weight"), config.flag("on")) == (None, 2.0, True)
    assert isinstance(config.number("weight"), float)
    assert read().integer("size") == 3


@pytest.mark.parametrize("value", [None, 1.0, True, "3", 1 << 31, [3]])
def test_other_values_are_refused_as_integers(value: object) -> None:
    with pytest.raises(UserError, match=r"a toy with size = .* cannot be imported") as caught:
        read(size=value).integer("size")
    assert caught.value.why == "size must be an integer"


@pytest.mark.parametrize("value", [None, True, "3", 10**400, float("inf"), float("nan")])
def test_other_values_are_refused_as_numbers(value: object) -> None:
    with pytest.raises(UserError) as caught:
        read(weight=value).number("weight")
    assert caught.value.why == "weight must be a number"


@pytest.mark.parametrize("value", [0, -1.5])
def test_a_number_can_be_required_to_be_positive(value: float) -> None:
    assert read(weight=value).number("weight") == value
    with pytest.raises(UserError) as caught:
        read(weight=value).number("weight", positive=True)
    assert caught.value.why == "weight must be a number above 0"


@pytest.mark.parametrize("value", [None, 1, "true"])
def test_other_values_are_refused_as_flags(value: object) -> None:
    with pytest.raises(UserError) as caught:
        read(on=value).flag("on")
    assert caught.value.why == "on must be true or false"


def test_unknown_keys_and_classes_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        read(gamma=1)
    assert caught.value.why == "Toy has no key 'gamma', so its effect is unknown"
    with pytest.raises(UserError) as caught:
        read(_class_name=["Toy"])
    assert caught.value.why == "only Toy is supported"
