"""Arrays that record the operations that created them, for reverse-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Tensor", "result"]

Array: TypeAlias = NDArray[np.float32]
Backward: TypeAlias = Callable[[Array], Array]
Operand: TypeAlias = "Tensor | Array | float"
Axes: TypeAlias = int | tuple[int, ...]


class Tensor:
    """A float32 array with the operators that losses may use.

    Args:
        array: The values.
        needs_gradient: Whether to compute a gradient for this tensor, as for parameters.
    """

    # Without this NumPy would evaluate `array - tensor` itself, element by element.
    __array_ufunc__ = None

    def __init__(self, array: Array, *, needs_gradient: bool = False) -> None:
        self.array = array
        self.gradient: Array | None = None
        self.needs_gradient = needs_gradient
        self.origins: list[tuple[Tensor, Backward]] = []

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.array.shape

    def __add__(self, other: Operand) -> Tensor:
        """Add."""
        return _joined(self.array + _array(other), (self, lambda g: g), (other, lambda g: g))

    __radd__ = __add__

    def __sub__(self, other: Operand) -> Tensor:
        """Subtract."""
        return _joined(self.array - _array(other), (self, lambda g: g), (other, lambda g: -g))

    def __rsub__(self, other: Operand) -> Tensor:
        """Subtract the tensor from another operand."""
        return -self + other

    def __neg__(self) -> Tensor:
        """Negate."""
        return self * -1.0

    def __mul__(self, other: Operand) -> Tensor:
        """Multiply."""
        a, b = self.array, _array(other)
        return _joined(a * b, (self, lambda g: g * b), (other, lambda g: g * a))

    __rmul__ = __mul__

    def __truediv__(self, other: Operand) -> Tensor:
        """Divide."""
        a, b = self.array, _array(other)
        return _joined(a / b, (self, lambda g: g / b), (other, lambda g: -g * a / (b * b)))

    def __rtruediv__(self, other: Operand) -> Tensor:
        """Divide another operand by the tensor."""
        return self**-1.0 * other

    def __pow__(self, exponent: float) -> Tensor:
        """Raise to a constant power."""
        a = self.array
        return result(a**exponent, (self, lambda g: g * (exponent * a ** (exponent - 1.0))))

    def __abs__(self) -> Tensor:
        """Take the absolute value, with derivative 0 at 0."""
        return result(np.abs(self.array), (self, lambda g: g * np.sign(self.array)))

    def __getitem__(self, place: Any) -> Tensor:
        """Select elements; each may be selected at most once."""

        def backward(g: Array) -> Array:
            gradient = np.zeros_like(self.array)
            gradient[place] = g
            return gradient

        return result(self.array[place], (self, backward))

    def reshape(self, shape: tuple[int, ...]) -> Tensor:
        """Return the same elements in another shape."""
        return result(self.array.reshape(shape), (self, lambda g: g.reshape(self.shape)))

    def transpose(self, axes: tuple[int, ...]) -> Tensor:
        """Permute the axes."""
        back = tuple(int(axis) for axis in np.argsort(axes))
        return result(self.array.transpose(axes), (self, lambda g: g.transpose(back)))

    def sum(self, axis: Axes) -> Tensor:
        """Sum along one or more axes."""

        def backward(g: Array) -> Array:
            return np.broadcast_to(np.expand_dims(g, axis), self.shape)

        return result(self.array.sum(axis), (self, backward))

    def mean(self, axis: Axes) -> Tensor:
        """Average along one or more axes."""
        total = self.sum(axis)
        return total * (total.array.size / self.array.size)

    def backward(self, gradient: Array) -> None:
        """Set the gradient of every tensor from which this one was computed.

        Args:
            gradient: The gradient of the objective with respect to this tensor, of the same shape.
        """
        self.gradient = gradient
        for tensor in reversed(_in_order(self)):
            if tensor.gradient is None:
                continue
            for origin, backward in tensor.origins:
                part = backward(tensor.gradient)
                origin.gradient = part if origin.gradient is None else origin.gradient + part
            if tensor.origins:
                tensor.gradient = None  # not needed again


def result(array: Array, *origins: tuple[Tensor, Backward]) -> Tensor:
    """Return a tensor computed from others.

    Args:
        array: The values of the result.
        origins: The operands, each with a function that maps the result's gradient to its own. Operands that
            need no gradient are dropped immediately, which frees their memory.
    """
    tensor = Tensor(array)
    tensor.origins = [pair for pair in origins if pair[0].needs_gradient]
    tensor.needs_gradient = bool(tensor.origins)
    return tensor


def _array(operand: Operand) -> Array | float:
    return operand.array if isinstance(operand, Tensor) else operand


def _joined(array: Array, *operands: tuple[Operand, Backward]) -> Tensor:
    """Return the result of an operation that broadcasts its operands."""
    return result(
        array,
        *(
            (operand, lambda g, back=backward, shape=operand.shape: _unbroadcast(back(g), shape))
            for operand, backward in operands
            if isinstance(operand, Tensor)
        ),
    )


def _unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the axes that were broadcast."""
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(tuple(range(extra)))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return gradient.sum(repeated, keepdims=True) if repeated else gradient


def _in_order(last: Tensor) -> list[Tensor]:
    """Return a tensor's ancestors in topological order, without recursion, to support deep networks."""
    order: list[Tensor] = []
    seen: set[int] = set()
    stack = [(last, False)]
    while stack:
        tensor, origins_done = stack.pop()
        if origins_done:
            order.append(tensor)
        elif id(tensor) not in seen:
            seen.add(id(tensor))
            stack.append((tensor, True))
            stack += [(origin, False) for origin, _ in tensor.origins]
    return order
