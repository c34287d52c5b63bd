# SPDX-License-Identifier: Apache-2.0
"""What ends a program passes through, and exceptions of deleters are reported: nothing is swallowed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from capsules import Crafted

import dlbridge
from support import refusal

NUL = "\0x"


class Raises:
    """Raises from its getters."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise self.error

    type = index = cuda_stream = __cuda_array_interface__

    def __index__(self) -> int:
        raise self.error


class Unprintable(Raises):
    """Raises from repr(), too. Made where no test that fails would print it."""

    type, index = "no device", None

    def __repr__(self) -> str:
        raise self.error


CALLS: dict[str, Callable[[Any, type[BaseException]], Any]] = {
    "getter": lambda a, error: dlbridge.to_numpy(Raises(error)),
    "device_type": lambda a, error: dlbridge.to_numpy(a, device=Raises(error)),
    "device_pair": lambda a, error: dlbridge.to_numpy(a, device=(1, Raises(error))),
    "repr_of_device": lambda a, error: dlbridge.to_numpy(a, device=Unprintable(error)),
    "repr_of_copy": lambda a, error: dlbridge.to_numpy(a, copy=Unprintable(error)),
    "repr_of_dtype": lambda a, error: dlbridge.to_torch(a, dtype=Unprintable(error)),
    "stream": lambda a, error: dlbridge.stage(a, device="cpu", stream=Raises(error)),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("call", CALLS)
def test_interrupts_pass_through(call: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        CALLS[call](np.ones(3), error)


@pytest.mark.parametrize("call", CALLS)
def test_other_exceptions_become_refusals(call: str) -> None:
    with pytest.raises((TypeError, dlbridge.ExchangeError)):
        CALLS[call](np.ones(3), RuntimeError)


# ---- deleters ----

_set_string = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.c_char_p)(("PyErr_SetString", ctypes.pythonapi))


def raising_capsule() -> Any:
    """A capsule whose deleter, C code as far as dlbridge sees, returns with an exception set."""
    crafted = Crafted(deleter=False)
    managed = crafted.managed()
    managed.deleter = ctypes.cast(ctypes.pythonapi.PyErr_BadArgument, ctypes.c_void_p).value
    return crafted.capsule_at(ctypes.addressof(managed))


# torch releases without the GIL, which this deleter needs.
@pytest.mark.rule(44)
@pytest.mark.parametrize("convert", [dlbridge.to_numpy, dlbridge.from_dlpack])
def test_exceptions_of_deleters_are_reported(convert: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda caught: reported.append(caught.exc_type))
    made = convert(raising_capsule())
    del made
    assert reported == [TypeError]
    made = convert(raising_capsule())
    with pytest.raises(KeyError):
        try:
            raise KeyError
        finally:
            del made
    assert reported == [TypeError] * 2


# ---- values that C would cut off ----


class Device:
    type = "cuda"

    def __init__(self, index: int) -> None:
        self.index = index


@pytest.mark.parametrize(
    "device",
    [Device(1 << 32), Device(-1), Device((1 << 32) + 1), (1 << 32 | 1, 0), (1, 1 << 32), (1 << 70, 0), Device(1 << 70),
     "cuda:4294967296", "cpu" + NUL, "cpu:0" + NUL],
    ids=lambda d: f"{d.type}_{d.index}" if isinstance(d, Device) else repr(d),
)  # fmt: skip
def test_devices_are_not_cut_off(device: Any) -> None:
    for to in (dlbridge.to_numpy, dlbridge.to_torch, dlbridge.from_dlpack):
        assert refusal(lambda to=to: to(np.ones(3), device=device)).code == "invalid_device"


def test_names_are_not_cut_off() -> None:
    a = np.ones(3)
    assert refusal(lambda: dlbridge.explain(a, "numpy" + NUL)).code == "invalid_argument"
    for dtype in ("float32" + NUL, "torch.float32" + NUL):
        assert refusal(lambda dtype=dtype: dlbridge.to_torch(a, dtype=dtype)).code == "invalid_dtype"
        with pytest.raises((TypeError, ValueError)):
            dlbridge.to_numpy(a, dtype=dtype)


@pytest.mark.parametrize("typestr", ["<f4" + NUL, "<f4x", "<f", "<f99999999999", "<f36"])
def test_type_strings_are_read_to_the_end(typestr: str) -> None:
    class Array:
        __cuda_array_interface__ = {
            "version": 3,
            "shape": (0,),
            "typestr": typestr,
            "data": (0, False),
        }

    assert refusal(lambda: dlbridge.from_dlpack(Array())).field == "typestr"
