# SPDX-License-Identifier: Apache-2.0
"""What a named copy, cast or out= gives. Which requests copy, cast or refuse is in documents/test_verdicts.py."""

from __future__ import annotations

import ctypes
import re
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from dtypes import random_array

import dlbridge
from support import (
    AS,
    DTYPE_PAIRS,
    TARGETS,
    TORCH_PAIRS,
    address,
    direct_tier,
    element_strides,
    f4,
    f8,
    misaligned_array,
    raw,
    read_only,
    refusal,
    values,
)


def flipped() -> np.ndarray:
    return f8()[::-1]


def swapped() -> np.ndarray:
    return f8().astype(">f8")


def conjugated() -> torch.Tensor:
    return torch.tensor([1 + 2j, 3 - 4j]).conj()


# ---- casts of complex numbers to real ones ----

COMPLEX = {
    "array": lambda: np.array([1 + 2j, 3 - 4j]),
    "flipped": lambda: np.array([3 - 4j, 1 + 2j])[::-1],
    "swapped": lambda: np.array([1 + 2j, 3 - 4j], ">c16"),
    "tensor": lambda: torch.tensor([1 + 2j, 3 - 4j]),
    "conjugated": conjugated,
    "handle": lambda: dlbridge.from_dlpack(np.array([1 + 2j, 3 - 4j])),
}


@pytest.mark.parametrize("dtype", ["float32", "int16", "bfloat16", "float8_e4m3fn"])
@pytest.mark.parametrize("source", COMPLEX)
@pytest.mark.parametrize("target", ["torch", "numpy"])
def test_dropped_imaginary_parts_warn_once(
    target: str, source: str, dtype: str, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    result = TARGETS[target](COMPLEX[source](), dtype=dtype)
    assert values(result) == [1, 3]
    assert [warning.category for warning in recwarn] == [np.exceptions.ComplexWarning]
    assert recwarn[0].filename == __file__
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("source", COMPLEX)
def test_dropped_imaginary_parts_may_be_errors(source: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        with pytest.raises(np.exceptions.ComplexWarning):
            dlbridge.to_torch(COMPLEX[source](), dtype="float32")


def test_complex_to_bool_keeps_imaginary_parts() -> None:
    assert dlbridge.to_torch(np.array([0j, 1j]), dtype="bool").tolist() == [False, True]


# ---- copies ----


@pytest.mark.rule(83)
@pytest.mark.parametrize("target", TARGETS)
def test_copy_false_refuses_staging(target: str) -> None:
    error = refusal(lambda: TARGETS[target](f8(), device="cuda:0", copy=False))
    assert (error.code, error.field) == ("copy_forbidden", "copy")
    assert "forbids the staging from cpu to cuda:0" in str(error)


AWKWARD = {
    "swapped_complex": lambda: (f8() * (1 - 2j)).astype(">c8"),
    "swapped_and_stepped_back": lambda: swapped()[::-1, ::-2],
    "stepped_back_and_transposed": lambda: np.arange(60.0).reshape(3, 4, 5)[::-1, ::-2, ::-1].T,
    "conj_transposed": lambda: (f4() * (1 + 2j)).t().conj(),
    "conj_and_neg": lambda: torch._neg_view(conjugated()),
}


@pytest.mark.rule(72)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", AWKWARD.values(), ids=AWKWARD)
def test_awkward_layouts_are_copied(make: Callable[[], Any], target: str) -> None:
    x = make()
    is_tensor = isinstance(x, torch.Tensor)
    expected = x.resolve_conj().resolve_neg() if is_tensor else x.astype(x.dtype.newbyteorder("="))
    result = TARGETS[target](x, copy=True)
    assert values(result) == expected.tolist()
    assert str(result.dtype).removeprefix("torch.") == str(expected.dtype).removeprefix("torch.")


@pytest.mark.parametrize("copy", [None, True], ids=["none", "true"])
@pytest.mark.parametrize("target", TARGETS)
def test_copies_leave_copy_on_write_twins(target: str, copy: bool | None) -> None:
    t = f4()
    lazy = torch._lazy_clone(t)
    result = TARGETS[target](lazy, copy=copy)
    t.add_(100)
    assert values(result) == f4().tolist()
    assert lazy.tolist() == f4().tolist()


# ---- casts ----

SMALL = {"uint": [0, 1, 2, 3, 4, 6], "int": [-4, -2, -1, 0, 1, 3], "bool": [0, 1, 1, 0, 1, 0]}


def castable(name: str) -> list:
    """Values that are exact in `name`, and in every wider type."""
    if name == "float8_e8m0fnu":
        return [1, 2, 4, 8, 16, 32]
    if name.startswith("uint") or name == "ulonglong":
        return SMALL["uint"]
    return SMALL["bool"] if name == "bool" else SMALL["int"]


def target_of(name: str) -> str:
    return {"longlong": "int64", "ulonglong": "uint64"}.get(name, name)


def is_cast(source: str, to: str) -> bool:
    """Pairs whose result both frameworks define: no complex to real, no negative to unsigned, nothing into
    float8_e8m0fnu, which has neither 0 nor a sign, nor between the types of 8 bits."""
    if source.startswith("complex") and not to.startswith("complex"):
        return False
    if target_of(source) == to or "e8m0" in to or ("float8" in source and "float8" in to):
        return False
    if to.startswith("uint"):
        return source.startswith("uint") or source in ("bool", "ulonglong")
    return True


CASTS = [pytest.param(s, t, id=f"{s}-{t}") for s in DTYPE_PAIRS for t in TORCH_PAIRS if is_cast(s, t)]


@pytest.mark.parametrize("source, to", CASTS)
def test_casts_equal_the_frameworks(source: str, to: str) -> None:
    numpy_source, torch_source = DTYPE_PAIRS[source]
    numpy_to, torch_to = DTYPE_PAIRS[to]
    a = np.array(castable(source), np.float64).astype(numpy_source)
    t = dlbridge.to_torch(a, copy=True)
    assert t.dtype == torch_source
    expected = t.to(torch_to)
    results = [
        dlbridge.to_torch(a, dtype=torch_to),
        dlbridge.to_torch(a, dtype=to),
        dlbridge.to_torch(t, dtype=torch_to),
    ]
    for result in results:
        assert result.dtype == torch_to
        assert raw(result) == raw(expected)
    arrays = [dlbridge.to_numpy(t, dtype=numpy_to), dlbridge.to_numpy(a, dtype=np.dtype(numpy_to))]
    for result in arrays:
        assert result.dtype == np.dtype(numpy_to)
        assert raw(result) == raw(expected)
    plan = dlbridge.explain(a, to="torch", dtype=to)
    assert (plan.verdict, plan.bytes) == ("cast", expected.nbytes)


ROUNDING = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


@pytest.mark.parametrize("to", ROUNDING)
def test_casts_round_as_torch_does(to: str) -> None:
    rng = np.random.default_rng(11)
    a = rng.uniform(-100, 100, 4000).astype(np.float32)
    expected = torch.from_numpy(a).to(getattr(torch, to))
    assert raw(dlbridge.to_torch(a, dtype=to)) == raw(expected)
    assert raw(dlbridge.to_numpy(torch.from_numpy(a), dtype=to)) == raw(expected)
    assert raw(dlbridge.to_numpy(a, dtype=to)) == raw(a.astype(DTYPE_PAIRS[to][0]))


OUT_OF_RANGE = [1.0, 449.0, 1e6, -1e6, np.inf, -np.inf, np.nan, 0.0, -1.0, 1e-30]


@pytest.mark.parametrize("to", ["float8_e4m3fn", "float8_e8m0fnu", "float8_e5m2"])
@pytest.mark.parametrize("dtype", ["float32", "complex64", "complex128"])
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_the_source_decides_what_a_float8_cannot_hold(threads: int, dtype: str, to: str) -> None:
    a = np.array(OUT_OF_RANGE).astype(dtype)
    t = torch.from_numpy(a)
    with np.errstate(all="ignore"):
        by_numpy = raw(a.real.astype(DTYPE_PAIRS[to][0]))
    by_torch = raw((t.real if t.is_complex() else t).to(getattr(torch, to)))
    sources = ((a, by_numpy), (t, by_torch), (dlbridge.from_dlpack(a), by_numpy), (dlbridge.from_dlpack(t), by_numpy))
    dlbridge.set_num_threads(threads)
    for x, expected in sources:
        assert raw(dlbridge.to_numpy(x, dtype=to)) == raw(dlbridge.to_torch(x, dtype=to)) == expected
    dlbridge.set_num_threads(0)


def test_complex32_casts_into_numpy() -> None:
    t = torch.tensor([[1 + 2j, 3 - 4j], [0.5j, -7]], dtype=torch.complex64)
    half = t.to(torch.complex32)
    for x, twin in ((half, t), (half.t(), t.t()), (half.conj(), t.conj())):
        a = dlbridge.to_numpy(x, dtype=np.complex64)
        assert a.dtype == np.complex64
        assert a.tolist() == twin.resolve_conj().tolist()
    assert dlbridge.to_numpy(half, dtype=np.complex128).tolist() == t.tolist()
    assert dlbridge.to_torch(t.numpy(), dtype=torch.complex32).dtype == torch.complex32
    assert dlbridge.to_torch(t.numpy(), dtype=torch.complex32).to(torch.complex64).tolist() == t.tolist()


SPELLINGS = {
    "float32": ["float32", "f4", "f", "<f4", "=f4", "single", "torch.float32", "torch.float", np.float32,
                np.dtype("f4"), torch.float32, torch.float, ctypes.c_float],
    "float16": ["half", "e", "torch.half", np.half, torch.half],
    "float64": ["float", "double", "d", "torch.double", float, np.double, torch.double],
    "int32": ["i", "intc", "torch.int", np.intc, torch.int],
    "int64": ["int", "long", "longlong", "intp", "torch.long", int, np.longlong, np.dtype("q"), torch.long],
    "uint64": ["ulonglong", np.ulonglong],
    "bool": ["bool", "?", "torch.bool", bool, np.bool_, torch.bool],
    "complex64": ["csingle", "cfloat" if np.__version__ >= "2" else "F", "torch.cfloat", np.csingle, torch.cfloat],
    "complex128": ["complex", "cdouble", complex],
    "bfloat16": ["bfloat16", "torch.bfloat16", torch.bfloat16, ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)],
}  # fmt: skip


@pytest.mark.parametrize("target", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "spelling"), [(name, each) for name, all_ in SPELLINGS.items() for each in all_])
def test_both_sides_take_every_spelling(name: str, spelling: Any, target: str) -> None:
    result = TARGETS[target](np.ones(3), dtype=spelling)
    assert str(result.dtype).removeprefix("torch.") == name == dlbridge.from_buffer(bytes(16), spelling).dtype
    assert result.tolist() == [1, 1, 1]


NO_SPELLINGS = ["float31", "f32", "", "torch.", "torch.single", "f4,f4", "M8[s]", "é", [], np.longdouble, object,
                torch.quint8]  # fmt: skip


@pytest.mark.parametrize("target", ["numpy", "torch"])
@pytest.mark.parametrize("spelling", NO_SPELLINGS, ids=lambda x: repr(x)[:20])
def test_wrong_spellings_are_told_which_are_known(spelling: Any, target: str) -> None:
    error = refusal(lambda: TARGETS[target](np.ones(3), dtype=spelling))
    assert (error.code, error.field) == ("invalid_dtype", "dtype")
    said = re.fullmatch(r"dtype is (.+); expected .* DLPack has, or one of the names (.+)", str(error), re.DOTALL)
    assert said and said[1] == repr(spelling)
    names = said[2].split(", ")
    assert {"bool", "int8", "float32", "bfloat16", "complex64"} < set(names)
    for name in names:
        if name != "bool" and not re.search(r"int[124]$", name):  # casts to those are torch's and NumPy's
            assert str(TARGETS[target](np.zeros(3), dtype=name).dtype).endswith(name)


@pytest.mark.parametrize("spelling", [">f8", np.dtype(">f8")], ids=repr)
@pytest.mark.parametrize("target", ["numpy", "torch"])
def test_swapped_dtype_request_is_refused(target: str, spelling: Any) -> None:
    error = refusal(lambda: TARGETS[target](f8(), dtype=spelling))
    assert error.code == "byte_order" and str(error).endswith('pass "float64"')


def test_huge_copies_are_refused() -> None:
    x = np.broadcast_to(np.int8(0), (2**61,))
    for dtype in ("float64", "complex128"):
        assert refusal(lambda: dlbridge.to_torch(x, dtype=dtype)).code == "out_of_memory"  # noqa: B023
    assert dlbridge.explain(torch.zeros(1).expand(2**62), "numpy", copy=True).bytes == 2**63 - 1


# ---- float4 ----

NIBBLES = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 15]], np.uint8)
PAIRS = np.array([[0x10, 0x32], [0x54, 0x76], [0x98, 0xFA]], np.uint8)


def pair_tensor(array_of_bytes: np.ndarray = PAIRS) -> torch.Tensor:
    return torch.from_numpy(array_of_bytes.copy()).view(torch.float4_e2m1fn_x2)


def test_float4_repacks_through_strides() -> None:
    stepped = pair_tensor(np.repeat(PAIRS, 2, axis=0))[::2]
    assert dlbridge.to_numpy(stepped, copy=None).view(np.uint8).tolist() == NIBBLES.tolist()
    transposed = dlbridge.to_numpy(pair_tensor().t(), copy=None).view(np.uint8)
    assert transposed.tolist() == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 15]]
    flipped_nibbles = NIBBLES[::-1, ::-1].view(ml_dtypes.float4_e2m1fn)
    packed = dlbridge.to_torch(flipped_nibbles, copy=None).view(torch.uint8)
    assert packed.tolist() == [[0xAF, 0x89], [0x67, 0x45], [0x23, 0x01]]
    columns = np.asfortranarray(NIBBLES).view(ml_dtypes.float4_e2m1fn)
    assert dlbridge.to_torch(columns, copy=None).view(torch.uint8).tolist() == PAIRS.tolist()


def test_float4_read_only_and_empty() -> None:
    a = NIBBLES.copy().view(ml_dtypes.float4_e2m1fn)
    a.flags.writeable = False
    assert dlbridge.to_torch(a, copy=None).view(torch.uint8).tolist() == PAIRS.tolist()
    empty = np.zeros((3, 0), ml_dtypes.float4_e2m1fn)
    assert tuple(dlbridge.to_torch(empty, copy=None).shape) == (3, 0)
    assert dlbridge.to_numpy(torch.empty(0, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), copy=None).shape == (
        0,
        4,
    )


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("target", ["torch", "numpy"])
def test_float4_casts(kind: str, target: str) -> None:
    x = NIBBLES.copy().view(ml_dtypes.float4_e2m1fn) if kind == "array" else pair_tensor()
    try:
        result = TARGETS[target](x, dtype="float32")
    except dlbridge.ExchangeError as error:
        assert error.code in ("unsupported_dtype", "float4_packing")
        assert "float4" in str(error)
        assert "pass a dtype=" not in str(error)
    else:
        assert result.tolist() == NIBBLES.view(ml_dtypes.float4_e2m1fn).astype(np.float32).tolist()


# ---- out= ----

OUT_SOURCES = {
    "array": f8,
    "flipped": flipped,
    "swapped": swapped,
    "read_only": lambda: read_only(f8()),
    "tensor": f4,
    "tensor_transposed": lambda: torch.arange(12.0).reshape(4, 3).t(),
    "handle": lambda: dlbridge.from_dlpack(f8()),
    "copy_on_write": lambda: torch._lazy_clone(f4()),
}
POISON = 93


def poisoned(dtype: Any, layout: str = "c") -> tuple[np.ndarray, np.ndarray]:
    """A (3, 4) array amid poison on all sides, and the array that it is part of."""
    if layout == "f":
        memory = np.full((9, 4), POISON, dtype, order="F")
        return memory[3:6], memory
    memory = np.full((15, 8), POISON, dtype)
    if layout == "flipped":
        return memory[6:9, 2:6][::-1, ::-1], memory
    return (memory[4:11:3, ::2] if layout == "stepped" else memory[6:9, 2:6]), memory


def untouched(memory: np.ndarray, out: np.ndarray) -> bool:
    """Whether all of `memory` outside of `out` still is poison."""
    written = out.copy()
    out[...] = POISON
    clean = bool((memory == np.array(POISON, memory.dtype)).all())
    out[...] = written
    return clean


@pytest.mark.parametrize("layout", ["c", "f", "flipped", "stepped"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "complex64", "bfloat16", "uint8"])
@pytest.mark.parametrize("source", OUT_SOURCES)
def test_out_is_filled_and_returned(source: str, dtype: str, layout: str) -> None:
    x = OUT_SOURCES[source]()
    out, memory = poisoned(DTYPE_PAIRS[dtype][0], layout)
    assert dlbridge.to_numpy(x, out=out) is out
    expected = np.asarray(x.numpy() if isinstance(x, dlbridge.Tensor) else x.tolist()).astype(out.dtype)
    assert out.tolist() == expected.tolist()
    assert untouched(memory, out)


def test_out_with_copy() -> None:
    for copy in (None, True):
        out, _ = poisoned("f8")
        assert dlbridge.to_numpy(f8(), out=out, copy=copy) is out
        assert out.tolist() == f8().tolist()
    out, _ = poisoned("f8")
    error = refusal(lambda: dlbridge.to_numpy(f8(), out=out, copy=False))
    assert error.code == "copy_forbidden"
    assert "out=" in str(error)
    assert (out == POISON).all()


def test_out_none_is_no_out() -> None:
    a = f8()
    assert address(dlbridge.to_numpy(a, out=None)) == address(a)


@pytest.mark.parametrize(
    "make_out, code, found",
    [
        pytest.param(lambda: np.full((4, 3), 9.0), "shape_mismatch", "shape (4, 3)", id="wrong_shape"),
        pytest.param(lambda: np.full((12,), 9.0), "shape_mismatch", "x has (3, 4)", id="flat"),
        pytest.param(lambda: np.full((1, 3, 4), 9.0), "shape_mismatch", "shape (1, 3, 4)", id="more_dimensions"),
        pytest.param(lambda: np.broadcast_to(np.full(4, 9.0), (3, 4)), "read_only", "is read-only", id="broadcast"),
        pytest.param(lambda: AS(np.full(4, 9.0), (3, 4), (0, 8)), "overlap", "elements overlap", id="zero_strides"),
        pytest.param(lambda: AS(np.full(9, 9.0), (3, 4), (8, 8)), "overlap", "elements overlap", id="windows"),
        pytest.param(lambda: np.full((3, 4), 9.0).astype(">f8"), "byte_order", "foreign byte order", id="swapped"),
        pytest.param(lambda: np.ma.array(np.full((3, 4), 9.0)), "masked_array", "out is a MaskedArray", id="masked"),
        pytest.param(lambda: np.full((3, 4), None), "unsupported_dtype", "dtype is object", id="object"),
        pytest.param(
            lambda: np.zeros((3, 4), "i1,f8")["f1"], "stride_not_multiple", "a stride is no multiple", id="odd"
        ),
    ],
)
def test_unfit_out_is_refused(make_out: Callable[[], np.ndarray], code: str, found: str) -> None:
    out = make_out()
    before = out.tolist()
    error = refusal(lambda: dlbridge.to_numpy(f8(), out=out))
    assert (error.code, error.field) == (code, "out")
    assert found in str(error) and "out" in str(error) and ": pass " in str(error)
    assert out.tolist() == before


@pytest.mark.parametrize("out", [[1.0], torch.zeros(3, 4), 3, "out"], ids=lambda x: type(x).__name__)
def test_out_must_be_an_array(out: Any) -> None:
    with pytest.raises(TypeError, match="out is"):
        dlbridge.to_numpy(f8(), out=out)


def test_out_with_a_dtype() -> None:
    out, _ = poisoned("f4")
    assert dlbridge.to_numpy(f8(), out=out, dtype="float32") is out
    assert out.tolist() == f8().tolist()
    out, _ = poisoned("f4")
    assert refusal(lambda: dlbridge.to_numpy(f8(), out=out, dtype="float64")).code == "invalid_dtype"
    assert (out == POISON).all()


def test_out_takes_misaligned_memory() -> None:
    out = misaligned_array(np.float64, 12).reshape(3, 4)
    assert not out.flags.aligned
    for x in (f8(), f4(), swapped(), flipped()):
        out[...] = POISON
        dlbridge.to_numpy(x, out=out)
        assert out.tolist() == x.tolist()


@pytest.mark.parametrize(
    "kind", ["itself", "transposed", "flipped", "flipped_everywhere", "shifted", "shifted_back", "tensor", "cast"]
)
def test_out_may_overlap_its_source(kind: str) -> None:
    a = np.arange(36.0).reshape(6, 6)
    x, out = {
        "itself": (a, a),
        "transposed": (a.T, a),
        "flipped": (a[::-1], a),
        "flipped_everywhere": (a, a[::-1, ::-1]),
        "shifted": (a[:-1], a[1:]),
        "shifted_back": (a[1:], a[:-1]),
        "tensor": (dlbridge.to_torch(a).t(), a),
        "cast": (a[::-1, 3:], a.view(np.float32)[:, 3:6]),
    }[kind]
    expected = np.array(x.tolist()).astype(out.dtype)
    assert dlbridge.to_numpy(x, out=out) is out
    assert out.tolist() == expected.tolist()


def test_out_may_overlap_large_arrays() -> None:
    a = np.arange(2_000_000.0)
    expected = a[::-1].copy()
    dlbridge.to_numpy(a[::-1], out=a)
    assert (a == expected).all()


# ---- what copies are like ----

LAYOUTS = {
    "c": (lambda: np.arange(24.0).reshape(2, 3, 4), (12, 4, 1)),
    "f": (lambda: np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), (1, 2, 6)),
    "permuted": (lambda: np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0), (4, 1, 12)),
    "stepped_f": (lambda: np.asfortranarray(np.arange(48.0).reshape(4, 3, 4))[::2], (1, 2, 6)),
    "flipped": (lambda: np.arange(24.0).reshape(2, 3, 4)[::-1, :, ::-1], (12, 4, 1)),
    "flipped_permuted": (lambda: np.arange(24.0).reshape(2, 3, 4)[::-1].transpose(2, 0, 1), (1, 12, 4)),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies_keep_dimension_order(layout: str, target: str) -> None:
    make, strides = LAYOUTS[layout]
    a = make()
    assert element_strides(a.copy("K")) == strides
    for request in [{"copy": True}] + ([{"dtype": "float32"}] if target != "dlpack" else []):
        result = TARGETS[target](a, **request)
        assert element_strides(result) == strides
        assert values(result) == a.tolist()


@pytest.mark.parametrize("target", TARGETS)
def test_broadcast_copies_are_dense(target: str) -> None:
    result = TARGETS[target](np.broadcast_to(np.arange(4.0), (3, 4)), copy=True)
    assert element_strides(result) == (4, 1)
    assert values(result) == [[0, 1, 2, 3]] * 3


LARGE = {
    "flipped": lambda a: a[::-1],
    "flipped_inside": lambda a: a[:, ::-1],
    "transposed": lambda a: a.T,
    "transposed_flipped": lambda a: a.T[::-1, ::-1],
    "stepped": lambda a: a[::2, ::3],
    "swapped_axes": lambda a: a.reshape(30, -1, 100).transpose(2, 0, 1),
}


@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "c16"])
@pytest.mark.parametrize("kind", LARGE)
def test_large_copies_are_exact(kind: str, dtype: str) -> None:
    rows = 9_000_000 // np.dtype(dtype).itemsize // 3000 * 3
    a = random_array(dtype, (max(rows, 1200) // 30 * 30, 3000))
    x = LARGE[kind](a)
    assert a.nbytes > 8_000_000
    bits = f"u{min(np.dtype(dtype).itemsize, 8)}"
    for result in (
        dlbridge.to_torch(x, copy=True).numpy(),
        dlbridge.to_numpy(x, copy=True),
        dlbridge.from_dlpack(x, copy=True).numpy(),
    ):
        assert address(result) != address(x)
        left, right = np.ascontiguousarray(result), np.ascontiguousarray(x)
        assert np.array_equal(left.view(bits), right.view(bits))


def test_large_casts_are_exact() -> None:
    a = np.arange(3_000_000, dtype=np.float64).reshape(1000, 3000)
    for x in (a[::-1], a.T, a[:, ::-1].T, a.astype(">f8")):
        expected = x.astype(np.float32)
        assert np.array_equal(dlbridge.to_torch(x, dtype="float32").numpy(), expected)
        assert np.array_equal(dlbridge.to_numpy(x, dtype="float32"), expected)


@pytest.mark.parametrize("request_", [{"copy": True}, {"dtype": "float16"}], ids=["copy", "cast"])
@pytest.mark.parametrize("target", ["torch", "numpy"])
@pytest.mark.parametrize("make", [f8, f4], ids=["array", "tensor"])
def test_copies_are_independent(make: Callable[[], Any], target: str, request_: dict) -> None:
    x = make()
    result = TARGETS[target](x, **request_)
    assert not dlbridge.shares_memory(x, result)
    x[...] = -1
    assert values(result) == make().tolist()
    result[...] = -2
    assert (x == -1).all()
    del x
    assert (result == -2).all()


@direct_tier
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: dlbridge.to_torch(f8(), copy=True), id="copy"),
        pytest.param(lambda: dlbridge.to_torch(flipped(), copy=None), id="copy_if_needed"),
        pytest.param(lambda: dlbridge.to_torch(f8(), dtype="float32"), id="cast"),
        pytest.param(lambda: dlbridge.to_torch(f4(), copy=True), id="of_a_tensor"),
        pytest.param(lambda: dlbridge.to_torch(conjugated(), copy=None), id="of_conj"),
        pytest.param(lambda: dlbridge.to_torch(np.zeros((2, 4), ml_dtypes.float4_e2m1fn), copy=None), id="float4"),
    ],
)
def test_torch_copies_are_resizable(make: Callable[[], torch.Tensor]) -> None:
    t = make()
    storage = t.untyped_storage()
    assert storage.resizable()
    assert storage.nbytes() == t.nbytes
    assert t.data_ptr() % 64 == 0
    t.resize_(1000)
    assert t.untyped_storage().nbytes() == 1000 * t.element_size()
    assert t.is_leaf
    assert not t.requires_grad
