# SPDX-License-Identifier: Apache-2.0
"""What a message can name for an object that is no producer, and arrays of scalars."""

from typing import Any

import numpy

_EXPECTED = "expected a numpy.ndarray, a torch.Tensor, a dlbridge.Tensor, a DLPack capsule or an object with __dlpack__"
_SAMPLE = 1000  # longer sequences are not tried


def is_scalar(x: Any) -> bool:
    """Returns True for numbers of Python and scalars of NumPy."""
    return isinstance(x, (bool, int, float, complex, numpy.generic))


def array_of_scalar(x: Any) -> Any:
    """A new 0-d array that holds the scalar `x`; None where `x` is no scalar that an array of numbers can hold."""
    array = numpy.array(x) if is_scalar(x) else None
    return array if array is not None and array.dtype.kind in "biufc" else None


def no_producer(x: Any) -> str:
    """The message for an object that no conversion can start from."""
    return f"x is {_type_name(x)}; {_advice(x)}"


def _type_name(x: Any) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _advice(x: Any) -> str:
    if is_scalar(x):
        if array_of_scalar(x) is None:
            return f"a scalar of this kind has no element type in DLPack; {_EXPECTED}"
        return "a scalar has no memory to share: pass copy=True for a 0-d result"
    if isinstance(x, str):
        return _EXPECTED
    if isinstance(x, dict):
        return f"{_EXPECTED}: convert its values" + "".join(f", such as x[{key!r}]" for key in list(x)[:1])
    if isinstance(x, (list, tuple)):
        return _EXPECTED + (": pass numpy.asarray(x)" if _is_array_of_numbers(x) else ": convert its items one by one")
    if (read_only := _is_read_only_buffer(x)) is not None:
        copy = ", which is read-only, or numpy.array(memoryview(x)), a copy" if read_only else ""
        return f"{_EXPECTED}: pass numpy.asarray(memoryview(x)){copy}"
    if callable(getattr(type(x), "__array__", None)) or hasattr(type(x), "__array_interface__"):
        return f"{_EXPECTED}: pass numpy.asarray(x)"
    return _EXPECTED


def _is_array_of_numbers(x: Any) -> bool:
    if not 0 < len(x) <= _SAMPLE:
        return False
    try:
        return numpy.asarray(x).dtype.kind in "biufc"
    except (ValueError, TypeError):
        return False


def _is_read_only_buffer(x: Any) -> bool | None:
    """Returns whether the buffer of `x` is read-only; None where it has none that NumPy reads as numbers."""
    try:
        with memoryview(x) as view:
            return view.readonly if view.format in tuple("bBhHiIlLqQefd?") else None
    except (TypeError, BufferError):
        return None
