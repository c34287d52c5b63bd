# SPDX-License-Identifier: Apache-2.0
"""Refusals name a call that works for the object at hand: the advice is taken out of the message and run."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.lib.recfunctions
import pytest
import torch
from capsules import Crafted, Producer
from torch.masked import masked_tensor

import dlbridge
from isolated import run_isolated
from support import TARGETS, refusal

NUMBERS = np.array([1, 0, 1, 1])


def handle(x: Any) -> dlbridge.Tensor:
    return dlbridge.from_dlpack(x)


def masked() -> Any:
    return masked_tensor(torch.ones(3), torch.tensor([True, False, True]))


def in_advice(x: Any, message: str, **names: Any) -> Any:
    """The value of the first object that the message says to pass."""
    advised = re.search(r": pass (?:a field such as )?(.+?)(,? or | if | with |, a new |$)", message)
    assert advised, message
    return eval(advised[1], {"x": x, "np": np, "numpy": np, "dlbridge": dlbridge, "torch": torch, **names})


# name: (source, targets, whether a plain call takes the advised object)
ADVISED: dict[str, tuple[Callable[[], Any], str]] = {
    "structured": (lambda: np.ones(3, [("name", "f4"), ("b", "f4")]), "torch numpy dlpack"),
    "void": (lambda: np.ones((4, 3), "V8")[:, 1], "torch numpy dlpack"),
    "void_0d": (lambda: np.ones((), "V8"), "torch numpy dlpack"),
    "datetime": (lambda: np.ones(3, "M8[s]"), "torch numpy dlpack"),
    "swapped_timedelta": (lambda: np.ones(3, ">m8[s]"), "torch numpy dlpack"),
    "object": (lambda: np.array([1, 2.5], object), "torch numpy dlpack"),
    "longdouble": (lambda: np.ones(3, np.longdouble), "dlpack"),
    "clongdouble": (lambda: np.ones(3, np.clongdouble), "dlpack"),
    "other_package": (lambda: np.ones(3, ml_dtypes.complex32), "torch numpy dlpack"),
    "torch_uint4": (lambda: torch.empty(3, dtype=torch.uint4), "torch numpy dlpack"),
    "torch_bits16": (lambda: torch.empty((), dtype=torch.bits16), "torch numpy dlpack"),
    "masked_tensor": (masked, "torch numpy dlpack"),
}


@pytest.mark.parametrize(
    ("make", "to"),
    [pytest.param(row[0], to, id=f"{name}-{to}") for name, row in ADVISED.items() for to in row[1].split()],
)
def test_advised_objects_are_taken(make: Callable[[], Any], to: str) -> None:
    x = make()
    message = str(refusal(lambda: TARGETS[to](x)))
    assert dlbridge.explain(x, to).message == message
    taken = in_advice(x, message, value=0.0, dtype="complex64")
    assert TARGETS[to](taken).shape is not None


def test_structured_arrays_become_plain() -> None:
    x = np.ones(3, [("name", "f4"), ("b", "f4")])
    message = str(refusal(lambda: dlbridge.to_torch(x)))
    assert "numpy.lib.recfunctions.structured_to_unstructured(x)" in message
    assert dlbridge.to_torch(numpy.lib.recfunctions.structured_to_unstructured(x)).shape == (3, 2)


def test_times_in_foreign_byte_order_keep_their_value() -> None:
    x = np.ones(3, ">M8[s]")
    assert in_advice(x, str(refusal(lambda: dlbridge.to_torch(x)))).tolist() == [1, 1, 1]


@pytest.mark.parametrize("x", [np.array(["a"]), np.array([b"a"]), np.array(["a"], np.dtypes.StringDType())], ids=str)
def test_text_has_no_call(x: np.ndarray) -> None:
    assert str(refusal(lambda: dlbridge.to_torch(x))).endswith("pass numbers: DLPack has no element type for text")


# ---- sources that cannot cast ----

HANDLES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "int4": (lambda: handle(NUMBERS.astype(ml_dtypes.int4)), "torch", "int8"),
    "float8_e3m4": (lambda: handle(NUMBERS.astype(ml_dtypes.float8_e3m4)), "torch", "float32"),
    "complex32": (lambda: handle(torch.tensor(NUMBERS).to(torch.complex32)), "numpy", "complex64"),
    "capsule": (lambda: Crafted(code=5, bits=32).capsule(), "numpy", "complex64"),
}


@pytest.mark.parametrize("keywords", [{}, {"dtype": "named"}], ids=["plain", "cast"])
@pytest.mark.parametrize("name", HANDLES)
def test_handles_go_through_a_framework_that_casts(name: str, keywords: dict[str, str]) -> None:
    make, to, dtype = HANDLES[name]
    x = make()
    error = refusal(lambda: TARGETS[to](x, **dict.fromkeys(keywords, dtype)))
    assert error.code == "unsupported_dtype"
    through = in_advice(x, str(error))
    result = TARGETS[to](through, dtype=dtype)
    assert str(result.dtype).removeprefix("torch.") == dtype
    if name != "capsule":
        assert np.asarray(result).real.tolist() == NUMBERS.tolist()


def test_what_no_framework_holds_is_cast_before() -> None:
    x = handle(Crafted(code=0, bits=4, flags=0).capsule())  # packed: neither torch's nor NumPy's
    assert str(refusal(lambda: dlbridge.to_torch(x))).endswith(
        "cast it with its own framework first, to a dtype that torch has"
    )


CASTS = {
    "int4_to_complex32": (lambda: NUMBERS.astype(ml_dtypes.int4), "torch", "complex32", "int8"),
    "float8_e3m4_to_complex32": (lambda: NUMBERS.astype(ml_dtypes.float8_e3m4), "torch", "complex32", "complex64"),
    "complex32_to_int4": (lambda: torch.tensor(NUMBERS).to(torch.complex32), "numpy", "int4", "float32"),
    "complex32_to_float8_e3m4": (lambda: torch.tensor(NUMBERS).to(torch.complex32), "numpy", "float8_e3m4", "float32"),
}


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("name", CASTS)
def test_casts_that_neither_package_makes(name: str) -> None:
    make, to, dtype, other = CASTS[name]
    x = make()
    error = refusal(lambda: TARGETS[to](x, dtype=dtype))
    plan = dlbridge.explain(x, to, dtype=dtype)
    assert (plan.verdict, plan.message, plan.reasons) == ("refuse", str(error), [error.code])
    assert "cast it with its own framework first, to a dtype that" in str(error)
    cast = x.to(getattr(torch, other)) if isinstance(x, torch.Tensor) else x.astype(other)
    assert np.asarray(TARGETS[to](cast, dtype=dtype if to == "numpy" else None)).shape == (4,)


# ---- float4 ----


@pytest.mark.parametrize("extent", [3, 4])
@pytest.mark.parametrize("to", ["torch", "numpy"])
@pytest.mark.parametrize("wrap", [lambda x: x, handle], ids=["array", "handle"])
def test_float4_is_cast_by_numpy(extent: int, to: str, wrap: Callable[[Any], Any]) -> None:
    x = wrap(np.arange(extent).astype(ml_dtypes.float4_e2m1fn))
    message = str(refusal(lambda: TARGETS[to](x, dtype="float32")))
    assert message.startswith("dtype is float4_e2m1fn, which dlbridge does not cast: ")
    result = TARGETS[to](in_advice(x, message, dtype="float32"))
    assert np.asarray(result).tolist() == [0, 1, 2, 3][:extent]


@pytest.mark.parametrize("to", ["torch", "numpy"])
def test_pairs_of_float4_are_cast_by_numpy(to: str) -> None:
    x = torch.tensor([0x42], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    message = str(refusal(lambda: TARGETS[to](x, dtype="float32")))
    assert np.asarray(TARGETS[to](in_advice(x, message, dtype="float32"))).tolist() == [1, 2]


def test_missing_ml_dtypes_is_installed() -> None:
    run_isolated(
        """
        sys.modules["ml_dtypes"] = None
        x = from_dlpack(torch.ones(3, dtype=torch.bfloat16))
        pairs = torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        for source, keywords in ((x, {}), (x, {"dtype": "float32"}), (pairs, {}), (from_dlpack(pairs), {})):
            error = refusal(lambda: to_numpy(source, **keywords))
            assert error.code == "missing_ml_dtypes" and str(error).endswith(": install ml_dtypes"), error
        assert to_numpy(torch.ones(3, dtype=torch.bfloat16), dtype="float32").tolist() == [1, 1, 1]
        """
    )


# ---- functions without copy= and dtype= ----


@pytest.mark.parametrize("x", [3.0, True, 1j, np.float32(1), np.longdouble(1), np.clongdouble(1)], ids=repr)
def test_scalars_are_passed_as_arrays(x: Any) -> None:
    a = np.ones(3)
    for call in (
        lambda s: dlbridge.shares_memory(s, a),
        lambda s: dlbridge.shares_memory(a, s),
        lambda s: dlbridge.stage(s, device="cpu"),
        dlbridge.to_numpy,
        dlbridge.to_torch,
        dlbridge.from_dlpack,
        lambda s: dlbridge.explain(s, "torch"),
    ):
        with pytest.raises(TypeError, match="a scalar has no memory to share: pass") as caught:
            call(x)
        try:
            call(in_advice(x, str(caught.value)))
        except dlbridge.ExchangeError as error:  # a machine without a GPU
            assert error.code in ("no_driver", "no_device", "no_staging", "invalid_device")


@pytest.mark.parametrize(
    ("x", "found"),
    [
        (np.array(["a"]), "the cast from str (U) to float32"),
        (np.ones(3, np.longdouble), "the cast from longdouble to float32"),
    ],
    ids=["text", "longdouble"],
)
def test_a_forbidden_cast_names_what_it_was_from(x: Any, found: str) -> None:
    error = refusal(lambda: dlbridge.to_torch(x, dtype="float32", copy=False))
    assert error.code == "copy_forbidden"
    assert found in str(error)


@pytest.mark.parametrize("dtype", [np.longdouble, np.clongdouble])
def test_shares_memory_of_longdouble_names_a_cast(dtype: Any) -> None:
    x = np.ones(3, dtype)
    message = str(refusal(lambda: dlbridge.shares_memory(x, x)))
    assert dlbridge.shares_memory(in_advice(x, message), x.real.astype("f8")) is False


# ---- kinds of other packages ----


@pytest.mark.parametrize("make", [torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer])
@pytest.mark.parametrize("to", TARGETS)
def test_uninitialized_tensors_are_materialized(make: Any, to: str) -> None:
    x = make()
    error = refusal(lambda: TARGETS[to](x))
    assert (error.code, str(error).split(": ")[1]) == ("undefined_tensor", "call x.materialize(shape) first")
    assert refusal(lambda: dlbridge.shares_memory(x, x)).code == "undefined_tensor"
    x.materialize((2,))
    assert TARGETS[to](x.detach()).shape == (2,)


def test_keys_of_jax_are_passed_as_numbers() -> None:
    jax = pytest.importorskip("jax")
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="pass ") as caught:
        dlbridge.to_numpy(key)
    assert dlbridge.to_numpy(in_advice(key, str(caught.value), jax=jax)).shape == (2,)


class CompressedRows:
    """A stand-in for a sparse array of SciPy, which has no __array__."""

    __module__ = "scipy.sparse._csr"
    data = np.ones(2)

    def toarray(self) -> np.ndarray[Any, Any]:
        return np.eye(2)


class LazyFrame:
    """A stand-in for a query of Polars, which has no __array__."""

    __module__ = "polars.lazyframe.frame"

    def collect(self) -> Any:
        return self

    def to_numpy(self) -> np.ndarray[Any, Any]:
        return np.eye(2)


def of_scipy() -> Any:
    return pytest.importorskip("scipy.sparse").csr_array(np.eye(2))


def of_polars() -> Any:
    return pytest.importorskip("polars").LazyFrame({"a": [1.0, 0.0], "b": [0.0, 1.0]})


@pytest.mark.parametrize("make", [CompressedRows, LazyFrame, of_scipy, of_polars], ids=lambda make: make.__name__)
@pytest.mark.parametrize("to", TARGETS)
def test_objects_without_dense_memory_name_their_own_call(make: Any, to: str) -> None:
    x = make()
    with pytest.raises(TypeError, match="pass ") as caught:
        TARGETS[to](x)
    advised = in_advice(x, str(caught.value).replace(", a dense copy", " or "))
    assert dlbridge.to_numpy(TARGETS[to](advised)).tolist() == [[1, 0], [0, 1]]


def test_types_have_the_name_that_users_import() -> None:
    x = torch.utils.data.TensorDataset(torch.ones(1))
    assert type(x).__module__ == "torch.utils.data.dataset"
    with pytest.raises(TypeError, match=r"^x is torch\.utils\.data\.TensorDataset; "):
        dlbridge.to_numpy(x)


# ---- memory on a GPU: the calls are those of the object's own package ----

COPIES = {"torch": "x.cpu()", "cupy": "x.get()", "jaxlib.xla": "jax.device_get(x)", "numba.cuda": "x.copy_to_host()"}


@pytest.mark.parametrize("package", [*COPIES, "elsewhere"])
@pytest.mark.parametrize("request_", [{}, {"device": "cpu"}], ids=["plain", "device=cpu"])
def test_own_framework_copies_to_host(package: str, request_: dict[str, Any]) -> None:
    kind = type("Array", (Producer,), {"__module__": package})
    x = kind(lambda **_: Crafted(device=(2, 0)).capsule(), (2, 0))
    message = str(refusal(lambda: dlbridge.to_numpy(x, **request_)))
    found = re.search(r"own framework(?: copy it to the host)?(?:, such as (.+))?$", message)
    assert found and found[1] == COPIES.get(package), message


def test_own_framework_copies_on_device() -> None:
    run_isolated(
        """
        from capsules import Crafted, Producer
        from dlbridge import _adapters
        _adapters.load_device_module = lambda: "this build has none"
        for package, end in (("torch", "x.clone()"), ("cupy", "x.copy()"), ("elsewhere", "framework copy it first")):
            kind = type("Array", (Producer,), {"__module__": package})
            x = kind(lambda **_: Crafted(device=(2, 0)).capsule(), (2, 0))
            message = str(refusal(lambda: dlbridge.from_dlpack(x, copy=True)))
            assert message.endswith(end), message
        """
    )
