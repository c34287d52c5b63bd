# SPDX-License-Identifier: Apache-2.0
"""Parameters and results of extension modules: dlbridge/nanobind.h and dlbridge/pybind11.h."""

from __future__ import annotations

import gc
import os
import sys
import threading
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import simulated_gpu
import torch
from build_tree import BUILD, load_module, module_file
from peers import jax
from processes import run

import dlbridge
from isolated import HELPERS
from support import address, assert_no_growth, refusal

LOADED: dict[str, Any] = {}


@pytest.fixture(params=["nanobind", "pybind11"])
def casters(request: pytest.FixtureRequest) -> Any:
    """The module of casters.cpp, compiled with one of the two."""
    name = f"casters_{request.param}"
    if name not in LOADED:
        file = module_file("tests/interop", name)
        if file is None:
            pytest.skip(f"{name} is not built in {BUILD}: run scripts/setup --tests")
        LOADED[name] = load_module(file, name)
    return LOADED[name]


def matrix() -> np.ndarray:
    return np.arange(12, dtype=np.float32).reshape(3, 4)


SOURCES = {
    "numpy": matrix,
    "torch": lambda: torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "dlbridge": lambda: dlbridge.from_dlpack(matrix()),
    "jax": lambda: jax().numpy.arange(12, dtype="float32").reshape(3, 4),
    "capsule": lambda: matrix().__dlpack__(max_version=(1, 3)),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_parameters_take_every_producer(casters: Any, kind: str) -> None:
    seen = casters.seen(SOURCES[kind]())
    assert seen["shape"] == (3, 4) and seen["strides"] == (4, 1) and seen["dtype"] == "float32"
    assert seen["read_only"] == (kind == "jax")
    assert casters.same(SOURCES[kind]()).numpy().tolist() == matrix().tolist()


def test_parameters_share_memory(casters: Any) -> None:
    a = matrix()
    for view in (a, a[::2, ::-1], a.T, a[1:1]):
        seen = casters.seen(view)
        assert (seen["address"], seen["shape"]) == (view.ctypes.data, view.shape)
        assert seen["strides"] == tuple(stride // 4 for stride in view.strides)
        for same in (casters.same(view), casters.through_managed(view)):
            assert type(same) is dlbridge.Tensor and same.data_ptr == view.ctypes.data
            assert np.array_equal(same.numpy(), view)
    a.flags.writeable = False
    assert casters.seen(a)["read_only"] and casters.same(a).read_only
    assert casters.seen(torch.ones(2, dtype=torch.bfloat16))["dtype"] == "bfloat16"


def test_buffers_are_taken(casters: Any) -> None:
    memory = bytearray(b"abc")
    assert casters.seen(memory)["shape"] == (3,)
    assert casters.seen(b"abc")["read_only"]


def test_loans_hold_the_object(casters: Any) -> None:
    a = matrix()
    before = sys.getrefcount(a)
    casters.seen(a)
    assert sys.getrefcount(a) == before, "a view holds nothing when the function has returned"
    same = casters.same(a)
    assert sys.getrefcount(a) == before + 1
    del same
    assert sys.getrefcount(a) == before


@pytest.mark.parametrize("forget", ["forget", "forget_on_thread"])
def test_loans_are_freed_without_the_gil(casters: Any, forget: str) -> None:
    a = matrix()
    before = sys.getrefcount(a)
    for _ in range(3):
        casters.keep(a)
    assert sys.getrefcount(a) == before + 3
    getattr(casters, forget)()
    assert sys.getrefcount(a) == before


def test_result_calls_the_deleter_once(casters: Any) -> None:
    before = casters.released()
    made = casters.make(4)
    assert type(made) is dlbridge.Tensor and made.numpy().tolist() == [0, 1, 2, 3]
    array = made.numpy()
    casters.keep(made)
    del made
    gc.collect()
    casters.forget()
    assert casters.released() == before, "the array owns"
    array += 1
    del array
    assert casters.released() == before + 1
    assert casters.released_with_gil() == 0, "a deleter that calls CUDA would wait for a thread that wants the GIL"
    assert casters.make_read_only(2).read_only


@pytest.mark.parametrize(
    ("like", "kind"),
    [(matrix(), np.ndarray), (torch.ones(1), torch.Tensor), (dlbridge.from_dlpack(matrix()), dlbridge.Tensor)],
    ids=["numpy", "torch", "dlbridge"],
)
def test_like_returns_the_framework_of_its_argument(casters: Any, like: Any, kind: type) -> None:
    before = casters.released()
    made = casters.make_like(like, 3)
    assert type(made) is kind and dlbridge.to_numpy(made).tolist() == [0, 1, 2]
    del made
    assert casters.released() == before + 1
    assert address(casters.same_like(like)) == address(like)
    assert type(casters.make_like(b"of no framework", 1)) is dlbridge.Tensor


def test_like_passes_refusals_on(casters: Any) -> None:
    before = casters.released()
    assert not casters.make_read_only_like(matrix()).flags.writeable
    error = refusal(lambda: casters.make_read_only_like(torch.ones(1)))
    assert error.code == "read_only" and "torch.Tensor cannot promise not to write" in str(error)
    assert casters.released() == before + 2, "what is refused is freed"


def test_refusals_are_of_the_package(casters: Any) -> None:
    wrong = np.zeros(3, ">f4")
    expected = refusal(lambda: dlbridge.from_dlpack(wrong))
    for call in (casters.seen, casters.same, casters.maybe, casters.maybe_view, casters.pick, casters.strict):
        error = refusal(lambda call=call: call(wrong))
        assert (str(error), error.code, error.field) == (str(expected), "byte_order", "dtype")


@pytest.mark.parametrize("wrong", [[1.0, 2.0], 5, None, [matrix()], {"x": matrix()}], ids=repr)
def test_wrong_types_are_type_errors(casters: Any, wrong: Any) -> None:
    for call in (casters.seen, casters.same):
        with pytest.raises(TypeError, match="x is |incompatible"):
            call(wrong)


def test_exceptions_of_producers_pass_through(casters: Any) -> None:
    class Producer:
        def __dlpack__(self, **_: Any) -> None:
            raise KeyError("mine")

    for call in (casters.seen, casters.same, casters.pick, casters.maybe):
        with pytest.raises(KeyError, match="mine"):
            call(Producer())


def test_overloads_are_chosen_by_type(casters: Any) -> None:
    assert [casters.pick(x) for x in (matrix(), torch.ones(1), b"abc", 5)] == ["array", "array", "bytes", "int"]
    assert casters.pick(bytearray(2)) == "array", "in the second pass"
    with pytest.raises(TypeError):
        casters.strict(bytearray(2))


def test_optional_parameters_and_results(casters: Any) -> None:
    a = matrix()
    assert casters.maybe(None) == casters.maybe_view(None) == 0
    assert casters.maybe(a) == casters.maybe_view(a) == a.ctypes.data
    assert casters.make_some(0) is None and casters.make_some(2).shape == (2,)


def test_views_live_until_the_function_returns(casters: Any) -> None:
    def capsule() -> Any:
        return casters.make(3).__dlpack__(max_version=(1, 3))

    before, during = casters.released(), []
    casters.addresses([capsule(), capsule()], lambda: during.append(casters.released()))
    assert during == [before] and casters.released() == before + 2
    arrays = [matrix(), matrix()[1:]]
    assert casters.addresses(arrays, gc.collect) == [a.ctypes.data for a in arrays]
    with pytest.raises((TypeError, dlbridge.ExchangeError)):
        casters.addresses([np.zeros(3, ">f4")], gc.collect)


FILL_REFUSALS = {
    "dtype": (lambda: np.zeros(3), "unsupported_dtype", 'dtype="float32"'),
    "shape": (matrix, "shape_mismatch", "shape is (3, 4); expected 1 dimension: reshape x"),
    "strides": (lambda: matrix()[0, ::2], "invalid_argument", 'order="C"'),
    "flags": (lambda: np.broadcast_to(np.float32(1), 1), "read_only", "copy=True"),
}


@pytest.mark.parametrize("field", FILL_REFUSALS)
def test_errors_of_the_module_are_translated(casters: Any, field: str) -> None:
    make, code, message = FILL_REFUSALS[field]
    error = refusal(lambda: casters.fill(make(), 1))
    assert (error.code, error.field) == (code, field) and message in str(error)


def test_functions_write_in_place(casters: Any) -> None:
    a, t = matrix(), torch.zeros(3)
    casters.fill(a[1], 7)
    casters.fill(x=t, value=2)
    assert a[1].tolist() == [7] * 4 and a[0].tolist() == [0, 1, 2, 3] and t.tolist() == [2] * 3


def test_calls_leak_nothing(casters: Any) -> None:
    a, wrong = matrix(), np.zeros(3, ">f4")

    def calls() -> None:
        casters.seen(a), casters.same(a), casters.make_like(a, 2), casters.addresses([a], int), casters.maybe(a)
        refusal(lambda: casters.seen(wrong))
        refusal(lambda: casters.same(wrong))

    assert_no_growth(calls)


def test_threads_call_at_once(casters: Any) -> None:
    a = matrix()
    before, released = sys.getrefcount(a), casters.released()

    def work() -> None:
        for _ in range(200):
            assert casters.seen(a)["address"] == a.ctypes.data
            casters.same(a)
            casters.make(3)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sys.getrefcount(a) == before and casters.released() == released + 800


def test_dtypes_of_ml_dtypes_pass_both_ways(casters: Any) -> None:
    a = np.ones(3, ml_dtypes.bfloat16)
    assert casters.same_like(a).dtype == a.dtype


def test_signatures_name_types(casters: Any) -> None:
    assert "-> dlbridge.Tensor" in casters.same.__doc__ and "typing.Any" in casters.same.__doc__


@pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))
def test_gpu_memory_is_ordered_on_the_legacy_stream(casters: Any) -> None:
    elements = np.arange(6, dtype=np.float32)
    with simulated_gpu.simulated_gpu() as gpu:
        for take in (casters.same, casters.same_like, casters.through_managed):
            x = gpu.array(elements, stream=gpu.stream(), late=True)
            assert casters.seen(x)["address"] == x.address
            same = take(x)
            assert same.device == "cuda:0" and same.data_ptr == x.address
            assert dlbridge.to_numpy(same, device="cpu").tolist() == elements.tolist()
            del x, same
        casters.keep(gpu.array(elements))
        casters.forget()
        error = refusal(lambda: casters.fill(gpu.array(elements), 1))
        assert error.code == "unsupported_device" and 'device="cpu"' in str(error)


OTHER_VERSION = """
import ctypes, sys
import dlbridge._core as core
class Api(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_uint32), ("loan_size", ctypes.c_uint32)]
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
other, name = Api(8, 8), b"dlbridge._core._extension_api"
core._extension_api = new(ctypes.addressof(other), name, None)
from build_tree import load_module, module_file
casters = load_module(module_file("tests/interop", sys.argv[1]), sys.argv[1])
for call in (lambda: casters.seen(b"abc"), lambda: casters.same(b"abc"), lambda: casters.make(3)):
    try:
        call()
    except ImportError as error:
        assert "rebuild the module" in str(error), error
    else:
        raise AssertionError
"""


def test_another_version_is_an_import_error(casters: Any) -> None:
    run(
        sys.executable, "-c", OTHER_VERSION, casters.__name__, env={"PYTHONPATH": os.pathsep.join([HELPERS, *sys.path])}
    )
