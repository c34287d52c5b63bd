# SPDX-License-Identifier: Apache-2.0
"""Arrays over memory that NumPy reads: buffers (PEP 3118) and objects with __array_interface__; arrays for JAX."""

from typing import Any

import numpy


class _Holder:
    """An interface that was asked for once, and the object whose memory it names."""

    def __init__(self, x: Any, interface: Any) -> None:
        self.x, self.__array_interface__ = x, interface


def array_over(x: Any, memory: memoryview | None) -> tuple[Any, bool] | str | None:
    """An array that shares the memory of `x`, and whether `x` copied its elements for it.

    `memory` is the buffer of `x`. None where `x` has neither a buffer nor an interface, or is a scalar of NumPy; the
    reason where NumPy cannot read it.
    """
    if issubclass(type(x), numpy.generic):
        return None
    if memory is not None:
        found = _as_array(memory)
        if isinstance(found, str):
            return (
                f"the format of the buffer of x is {memory.format!r}, {found}: pass memoryview(x).cast('B'), its bytes"
            )
        return found, False
    owners = [base.__dict__ for base in type(x).__mro__] + [getattr(x, "__dict__", {})]
    if not any("__array_interface__" in owner for owner in owners):
        return None
    interface = x.__array_interface__
    if isinstance(interface, dict) and interface.get("mask") is not None:
        return "x.__array_interface__ has a mask, which would be lost: pass its data and its mask as two arrays"
    found = _as_array(_Holder(x, interface))
    if isinstance(found, str):
        return f"NumPy cannot read x.__array_interface__: {found}"
    return found, isinstance(interface.get("data"), bytes)


def jax_array(tensor: Any) -> Any:
    """The jax.Array over the memory of a dlbridge.Tensor; a copy of memory on the host that JAX cannot share."""
    import jax

    try:
        return jax.dlpack.from_dlpack(tensor)
    except Exception:  # read-only, with gaps, of a dtype without capsules: JAX's errors have no type of their own
        if tensor.device.startswith("cuda:"):
            raise
        return jax.numpy.asarray(tensor.numpy())


def to_bytes(tensor: Any) -> bytes:
    """What `tensor.tobytes()` returns."""
    copied: bytes = tensor.numpy().tobytes()
    return copied


def _as_array(x: Any) -> Any:
    """numpy.asarray(x) where it shares the memory; else the reason, a str."""
    try:
        array = numpy.asarray(x)
    except (ValueError, TypeError, NotImplementedError) as error:
        return str(error)
    return "which NumPy would copy" if array.flags.owndata else array
