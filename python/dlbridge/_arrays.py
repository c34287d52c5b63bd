# SPDX-License-Identifier: Apache-2.0
"""Arrays over memory that NumPy reads: buffers (PEP 3118) and objects with __array_interface__."""

from typing import Any

import numpy


class _Holder:
    """An interface that was asked for once, and the object whose memory it names."""

    def __init__(self, x: Any, interface: Any) -> None:
        self.x, self.__array_interface__ = x, interface


def array_over(x: Any, memory: memoryview | None) -> tuple[Any, bool] | None:
    """An array that shares the memory of `x`, and whether `x` copied its elements for it.

    `memory` is the buffer of `x`. None where `x` has neither a buffer nor an interface, or is a scalar of NumPy.
    """
    if issubclass(type(x), numpy.generic):
        return None
    if memory is not None:
        array = _as_array(memory)
        if array is None:
            raise TypeError(
                f"the format of the buffer is {memory.format!r}, which NumPy cannot read: pass memoryview(x).cast('B')"
            )
        return array, False
    if not any("__array_interface__" in base.__dict__ for base in type(x).__mro__):
        return None
    interface = x.__array_interface__
    array = _as_array(_Holder(x, interface))
    if array is None:
        raise TypeError("NumPy cannot read x.__array_interface__: pass numpy.array(x), a copy")
    return array, isinstance(interface.get("data"), bytes)


def _as_array(x: Any) -> Any:
    """numpy.asarray(x) where it shares the memory; None where NumPy would copy."""
    try:
        array = numpy.asarray(x)
    except (ValueError, TypeError, NotImplementedError):
        return None
    return None if array.flags.owndata else array
