# SPDX-License-Identifier: Apache-2.0
"""Producers that only have `__dlpack__`, and capsules, where they are odd."""

import ctypes
from typing import Any

import numpy as np
import pytest
from capsules import Crafted

import dlbridge
from support import refusal


@pytest.mark.parametrize("convert", [dlbridge.to_numpy, dlbridge.from_dlpack])
def test_none_is_no_method(convert: Any) -> None:
    class Refuses:
        __dlpack__ = None

    with pytest.raises(TypeError, match="expected a numpy.ndarray"):
        convert(Refuses())


def test_names_need_not_be_text() -> None:
    name = ctypes.create_string_buffer(b"dltensor\xff\xfe")
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    capsule = new(ctypes.addressof(name), ctypes.cast(name, ctypes.c_char_p), None)
    assert refusal(lambda: dlbridge.from_dlpack(capsule)).code == "capsule_name"


def test_capsules_name_what_they_take() -> None:
    handle = dlbridge.from_dlpack(Crafted().capsule())
    error = refusal(lambda: handle.__dlpack__(dl_device="cpu"))
    assert error.code == "invalid_device"
    assert "'cpu'" in str(error) and "(1, 0)" in str(error)
    assert handle.__dlpack__(dl_device=(1, 0), max_version=(1, 0)) is not None


def test_out_mismatches_show_both_shapes() -> None:
    error = refusal(lambda: dlbridge.to_numpy(np.zeros((2, 3)), out=np.zeros((3, 2))))
    assert error.code == "shape_mismatch"
    assert "(3, 2)" in str(error) and "(2, 3)" in str(error)
