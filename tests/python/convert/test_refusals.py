# SPDX-License-Identifier: Apache-2.0
"""Refusals: the design's precise rules as one table: code, field, message, nothing changed, and the remedy works."""

from __future__ import annotations

import inspect
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted
from refusals import without_gpu
from torch._subclasses.fake_tensor import FakeTensorMode

import dlbridge
from support import AS, TARGETS, assert_no_growth, misaligned_array, raw, read_only, refusal, writeback_array

Convert = Callable[..., Any]
EVERY = ("torch", "numpy", "dlpack")
TORCH = ("torch",)
NUMPY = ("numpy",)


def filled(x: Any, convert: Convert) -> Any:
    return convert(x.filled(0))


def copied(x: Any, convert: Convert) -> Any:
    return convert(x, copy=None)


def densified(x: Any, convert: Convert) -> Any:
    return convert(x.to_dense())


def cast_to(dtype: Any) -> Callable[[Any, Convert], Any]:
    return lambda x, convert: convert(x, dtype=dtype)


@dataclass
class Row:
    """One refusal. `within` calls its argument with x, where x exists; by default x is what `make` returns."""

    id: str
    code: str
    field: str
    message: str  # found, expected, remedy, as one regular expression
    make: Callable[[], Any] | None = None
    targets: tuple[str, ...] = EVERY
    request: dict[str, Any] = field(default_factory=dict)
    remedy: Callable[[Any, Convert], Any] | None = None
    expected: Callable[[Any], Any] | None = None  # what the remedy must give, as a tensor or an array
    within: Callable[[Callable[[Any], Any]], Any] | None = None

    def visit(self, body: Callable[[Any], Any]) -> None:
        if self.within is not None:
            self.within(body)
        else:
            body(self.make())


@contextmanager
def _fake() -> Iterator[torch.Tensor]:
    with FakeTensorMode():
        yield torch.empty(3)


def within_fake_inside(body: Callable[[Any], Any]) -> None:
    with _fake() as x:
        body(x)


def within_fake_outside(body: Callable[[Any], Any]) -> None:
    with _fake() as x:
        pass
    body(x)


def within_fake_parameter(body: Callable[[Any], Any]) -> None:
    with FakeTensorMode():
        x = torch.nn.Parameter(torch.empty(3), requires_grad=False)
    body(x)


def within_writeback(body: Callable[[Any], Any]) -> None:
    iterator, operand = writeback_array()
    with iterator:
        body(operand)


def inside(transform: Callable[..., Any], shape: tuple[int, ...]) -> Callable[[Callable[[Any], Any]], None]:
    def within(body: Callable[[Any], Any]) -> None:
        def function(x: torch.Tensor) -> torch.Tensor:
            body(x)
            return x.sum()

        transform(function)(torch.ones(shape))

    return within


def within_jvp(body: Callable[[Any], Any]) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        body(x)
        return x * 2

    torch.func.jvp(function, (torch.ones(3),), (torch.ones(3),))


def field_view() -> np.ndarray:
    array = np.zeros(4, np.dtype([("a", "i1"), ("b", "f4")]))
    array["b"] = [1, 2, 3, 4]
    return array["b"]


def windows() -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 4, writeable=True)


def pair_tensor() -> torch.Tensor:
    return torch.tensor([[0x21, 0x43], [0x65, 0x87]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


def nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def complex_pair() -> torch.Tensor:
    return torch.tensor([1 + 2j, 3 - 1j])


ASTYPE = r"which .* cannot share: .+"
COPY = r"pass copy=None to copy \d+(\.\d)? (bytes|kB|MB)$"
MODE = r"convert before the mode or transform begins, or after it ends$"
DTYPES_REFUSED = {
    "object": (lambda: np.array([None, 1]), "object"),
    "structured": (lambda: np.zeros(3, "f4,i4"), "structured"),
    "void": (lambda: np.zeros(3, "V8"), "void"),
    "datetime": (lambda: np.zeros(3, "M8[s]"), "datetime64"),
    "timedelta": (lambda: np.zeros(3, "m8[ms]"), "timedelta64"),
    "str": (lambda: np.array(["ab", "c"]), "str"),
    "bytes": (lambda: np.array([b"ab", b"c"]), "bytes"),
    "string_dtype": (lambda: np.array(["ab", "c"], np.dtypes.StringDType()), "StringDType"),
    "longdouble": (lambda: np.zeros(3, np.longdouble), "longdouble"),
    "clongdouble": (lambda: np.zeros(3, np.clongdouble), "clongdouble"),
}
SHELL_DTYPES = ["uint1", "uint2", "uint4", "uint7", "int1", "int4", "int7", "bits8", "bits16", "bits4x2"]
# From ml_dtypes: what torch has not, and a dtype that the message's remedy may name.
FOREIGN_TO_TORCH = {
    "int2": torch.int8,
    "int4": torch.int8,
    "uint2": torch.uint8,
    "uint4": torch.uint8,
    "float6_e2m3fn": torch.float32,
    "float6_e3m2fn": torch.float32,
    "float8_e3m4": torch.float32,
    "float8_e4m3": torch.float32,
    "float8_e4m3b11fnuz": torch.float32,
}


def numpy_rows() -> Iterator[Row]:
    yield Row(
        "masked_array", "masked_array", "type", r"MaskedArray.*mask would be lost; expected .*: pass x\.filled\(",
        make=lambda: np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0]), remedy=filled, expected=lambda x: x.filled(0),
    )  # fmt: skip
    yield Row(
        "masked_array_without_mask", "masked_array", "type", r"MaskedArray.*x\.filled\(value\)$",
        make=lambda: np.ma.array([1.0, 2.0]), remedy=filled, expected=lambda x: x.filled(0),
    )  # fmt: skip
    yield Row(
        "writeback_if_copy", "writeback_if_copy", "flags", r"WRITEBACKIFCOPY.*; expected .*: pass x\.copy\(\)$",
        within=within_writeback, remedy=lambda x, convert: convert(x.copy()), expected=lambda x: x,
    )  # fmt: skip
    yield Row(
        "odd_stride_field", "stride_not_multiple", "strides", rf"no multiple of the element's 4 bytes;.*: {COPY}",
        make=field_view, remedy=copied, expected=lambda x: x,
    )  # fmt: skip
    yield Row(
        "odd_negative_stride", "stride_not_multiple", "strides", rf"no multiple of the element's 4 bytes;.*: {COPY}",
        make=lambda: field_view()[::-1], remedy=copied, expected=lambda x: x,
    )  # fmt: skip
    for name, (make, found) in DTYPES_REFUSED.items():
        yield Row(name, "unsupported_dtype", "dtype", rf"^dtype is .*{found}.*, {ASTYPE}", make=make)
    for name in (">f4", ">i2", ">u8", ">c16"):
        yield Row(
            f"foreign_byte_order_{name[1:]}", "byte_order", "dtype", rf"foreign byte order; expected native: {COPY}",
            make=lambda name=name: np.arange(5).astype(name), remedy=copied,
            expected=lambda x: x.astype(x.dtype.newbyteorder("=")),
        )  # fmt: skip


def numpy_to_torch_rows() -> Iterator[Row]:
    common = {"targets": TORCH, "remedy": copied, "expected": lambda x: x}
    negative = rf"stride in dimension %d is %d elements; torch\.Tensor has no negative strides: {COPY}"
    yield Row("negative_stride", "negative_stride", "strides", negative % (0, -1),
              make=lambda: np.arange(6.0)[::-1], **common)  # fmt: skip
    yield Row("negative_inner_stride", "negative_stride", "strides", negative % (1, -2),
              make=lambda: np.arange(24.0).reshape(4, 6)[:, ::-2], **common)  # fmt: skip
    yield Row("negative_strides_everywhere", "negative_stride", "strides", negative % (0, -6),
              make=lambda: np.arange(24.0).reshape(4, 6)[::-1, ::-1], **common)  # fmt: skip
    yield Row("negative_stride_of_12.6_MB", "negative_stride", "strides", r"copy=None to copy 12\.6 MB$",
              make=lambda: np.zeros(3150000, np.float32)[::-1], **common)  # fmt: skip
    overlap = rf"overlap in writable memory; .*: {COPY}"
    yield Row("sliding_windows", "overlap", "strides", overlap, make=windows, **common)
    yield Row("interleaved_overlap", "overlap", "strides", overlap,
              make=lambda: AS(np.arange(20.0), (4, 3), (16, 24)), **common)  # fmt: skip
    yield Row("diagonal_overlap", "overlap", "strides", overlap,
              make=lambda: AS(np.arange(9.0), (3, 3), (8, 8)), **common)  # fmt: skip
    yield Row("misaligned_f4", "misaligned", "data", rf"data is at 0x[0-9a-f]+1; float32 needs .* 4 bytes: {COPY}",
              make=misaligned_array, **common)  # fmt: skip
    yield Row("misaligned_i2", "misaligned", "data", rf"int16 needs alignment to 2 bytes: {COPY}",
              make=lambda: misaligned_array(np.int16), **common)  # fmt: skip
    yield Row("misaligned_c8", "misaligned", "data", rf"complex64 needs alignment to 8 bytes: {COPY}",
              make=lambda: misaligned_array(np.complex64), **common)  # fmt: skip
    yield Row("misaligned_bfloat16", "misaligned", "data", rf"bfloat16 needs alignment to 2 bytes: {COPY}",
              make=lambda: misaligned_array(ml_dtypes.bfloat16), **common)  # fmt: skip
    locked = rf"read-only; .*{COPY}"
    yield Row("read_only_flag", "read_only", "flags", locked, make=lambda: read_only(np.arange(6.0)), **common)
    yield Row("read_only_broadcast", "read_only", "flags", locked,
              make=lambda: np.broadcast_to(np.arange(3.0), (2, 3)), **common)  # fmt: skip
    yield Row("read_only_bytes", "read_only", "flags", locked,
              make=lambda: np.frombuffer(bytes(range(32)), np.float32), **common)  # fmt: skip
    yield Row("read_only_handle", "read_only", "flags", locked,
              make=lambda: dlbridge.from_dlpack(read_only(np.arange(6.0))), targets=TORCH, remedy=copied,
              expected=lambda x: x.numpy())  # fmt: skip
    yield Row("read_only_empty", "read_only", "flags", locked,
              make=lambda: np.frombuffer(b"", np.float32), **common)  # fmt: skip
    for name, dtype in FOREIGN_TO_TORCH.items():
        yield Row(
            f"ml_dtypes_{name}", "unsupported_dtype", "dtype",
            rf"^dtype is {name}, which torch cannot share: pass a dtype= that torch has, to cast$",
            make=lambda name=name: np.array([1, 0, 1, 1]).astype(getattr(ml_dtypes, name)), targets=TORCH,
            remedy=cast_to(dtype), expected=lambda x, dtype=dtype: torch.tensor([1, 0, 1, 1], dtype=dtype),
        )  # fmt: skip
    yield Row("ml_dtypes_float4", "float4_packing", "dtype", rf"float4_e2m1fn, one element in a byte; .*: {COPY}",
              make=lambda: np.arange(4).astype(ml_dtypes.float4_e2m1fn), targets=TORCH, remedy=copied,
              expected=lambda x: torch.tensor([0x20, 0x54], dtype=torch.uint8))  # fmt: skip
    yield Row("ml_dtypes_float4_odd", "float4_odd_extent", "shape", r"last extent is 3; .*: pad the last dimension",
              make=lambda: np.zeros((2, 3), ml_dtypes.float4_e2m1fn), targets=TORCH,
              remedy=lambda x, convert: convert(np.pad(x.view(np.uint8), [(0, 0), (0, 1)]).view(x.dtype), copy=None),
              expected=lambda x: torch.zeros((2, 2), dtype=torch.uint8))  # fmt: skip
    yield Row("rank_0_float4", "float4_odd_extent", "shape", r"last extent is absent; .*: pad the last dimension",
              make=lambda: np.array(1, ml_dtypes.float4_e2m1fn), targets=TORCH)  # fmt: skip


def torch_rows() -> Iterator[Row]:
    yield Row("requires_grad", "requires_grad", "requires_grad", r"x requires grad; .*: pass x\.detach\(\)$",
              make=lambda: torch.ones(3, requires_grad=True), remedy=lambda x, convert: convert(x.detach()),
              expected=lambda x: x.detach())  # fmt: skip
    yield Row("requires_grad_result", "requires_grad", "requires_grad", r"x requires grad; .*: pass x\.detach\(\)$",
              make=lambda: torch.ones(3, requires_grad=True) * 2, remedy=lambda x, convert: convert(x.detach()),
              expected=lambda x: x.detach())  # fmt: skip
    yield Row("requires_grad_and_conj", "requires_grad", "requires_grad", r"x requires grad",
              make=lambda: torch.ones(3, dtype=torch.cfloat, requires_grad=True).conj())  # fmt: skip
    yield Row("parameter", "requires_grad", "requires_grad", r"x requires grad; .*: pass x\.detach\(\)$",
              make=lambda: torch.nn.Parameter(torch.ones(3)), remedy=lambda x, convert: convert(x.detach()),
              expected=lambda x: x.detach())  # fmt: skip
    copies = {"remedy": copied, "expected": lambda x: x.resolve_conj().resolve_neg().clone()}
    yield Row("conj", "conj_bit", "conj", rf"conj bit is set: .*: {COPY}",
              make=lambda: complex_pair().conj(), **copies)  # fmt: skip
    yield Row("neg", "neg_bit", "neg", rf"neg bit is set: .*: {COPY}",
              make=lambda: complex_pair().conj().imag, **copies)  # fmt: skip
    yield Row("zero", "zero_tensor", "zero", rf"zero tensor.*: {COPY}",
              make=lambda: torch._efficientzerotensor(3), remedy=copied,
              expected=lambda x: torch.zeros(3))  # fmt: skip
    yield Row("copy_on_write", "copy_on_write", "storage", rf"copy-on-write: .*: {COPY}",
              make=lambda: torch._lazy_clone(torch.arange(3.0)), remedy=copied,
              expected=lambda x: torch.arange(3.0))  # fmt: skip
    sparse = r"layout is sparse; expected strided memory: pass x\.to_dense\(\)$"
    dense = {"remedy": densified, "expected": lambda x: x.to_dense()}
    for name in ("to_sparse", "to_sparse_csr", "to_sparse_csc"):
        yield Row(name[3:], "sparse_layout", "layout", sparse,
                  make=lambda name=name: getattr(torch.eye(4), name)(), **dense)  # fmt: skip
    yield Row("sparse_bsr", "sparse_layout", "layout", sparse,
              make=lambda: torch.eye(4).to_sparse_bsr((2, 2)), **dense)  # fmt: skip
    yield Row("mkldnn", "mkldnn_layout", "layout", r"mkldnn; expected strided memory: pass x\.to_dense\(\)$",
              make=lambda: torch.ones(2, 3).to_mkldnn(), **dense)  # fmt: skip
    padded = r"nested tensor; expected one strided tensor: pass torch\.nested\.to_padded_tensor\(x, padding\)$"
    pads = {
        "remedy": lambda x, convert: convert(torch.nested.to_padded_tensor(x, 0.0)),
        "expected": lambda x: torch.tensor([[1.0, 1, 0], [1, 1, 1]]),
    }
    yield Row("nested", "nested_tensor", "layout", padded, make=nested, **pads)
    yield Row("nested_jagged", "nested_tensor", "layout", padded,
              make=lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
              **pads)  # fmt: skip
    for name, out in {"dequantize": torch.Tensor.dequantize, "int_repr": torch.Tensor.int_repr}.items():
        yield Row(f"quantized_{name}", "quantized_tensor", "dtype", rf"quantised; .*: pass .*x\.{name}\(\)",
                  make=lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
                  remedy=lambda x, convert, out=out: convert(out(x)), expected=lambda x, out=out: out(x))  # fmt: skip
    yield Row("meta", "meta_tensor", "device", r"device is meta, .*; expected .*: pass torch\.empty_like\(x, device=",
              make=lambda: torch.empty(3, device="meta"),
              remedy=lambda x, convert: convert(torch.empty_like(x, device="cpu").fill_(1)),
              expected=lambda x: torch.ones(3))  # fmt: skip
    fake = rf"without memory of its own \(FakeTensor.*: {MODE}"
    yield Row("fake", "fake_tensor", "type", fake, within=within_fake_inside)
    yield Row("fake_after_its_mode", "fake_tensor", "type", fake, within=within_fake_outside)
    yield Row("fake_parameter", "fake_tensor", "type", fake, within=within_fake_parameter)
    functorch = rf"functorch transform .*; expected a plain tensor: {MODE}"
    yield Row("vmap", "functorch_tensor", "type", functorch, within=inside(torch.vmap, (2, 3)))
    yield Row("grad_transform", "functorch_tensor", "type", functorch, within=inside(torch.func.grad, (3,)))
    yield Row("vmap_of_grad", "functorch_tensor", "type", functorch,
              within=inside(lambda f: torch.vmap(torch.func.grad(f)), (2, 3)))  # fmt: skip
    yield Row("jvp", "functorch_tensor", "type", functorch, within=within_jvp)
    functional = rf"functionalization; expected a plain tensor: {MODE}"
    yield Row("functionalize", "functional_tensor", "type", functional,
              within=inside(torch.func.functionalize, (3,)))  # fmt: skip
    yield Row("functional_tensor", "functional_tensor", "type", functional,
              make=lambda: torch._to_functional_tensor(torch.ones(3)))  # fmt: skip
    for name in SHELL_DTYPES:
        shown = name[0].upper() + name[1:]
        shown = shown.replace("Uint", "UInt")
        yield Row(f"shell_{name}", "unsupported_dtype", "dtype", rf"^dtype is ({shown}|torch\.{name}), {ASTYPE}",
                  make=lambda name=name: torch.empty(3, dtype=getattr(torch, name)))  # fmt: skip


def torch_to_numpy_rows() -> Iterator[Row]:
    yield Row("complex32", "unsupported_dtype", "dtype",
              r"^dtype is complex32, which NumPy cannot share: pass a dtype= that NumPy has, to cast$",
              make=lambda: complex_pair().to(torch.complex32), targets=NUMPY, remedy=cast_to(np.complex64),
              expected=lambda x: complex_pair())  # fmt: skip
    yield Row("float4_x2", "float4_packing", "dtype", rf"float4_e2m1fn_x2, two elements in a byte; .*: {COPY}",
              make=pair_tensor, targets=NUMPY, remedy=copied,
              expected=lambda x: np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8))  # fmt: skip
    yield Row("rank_65", "too_many_dimensions", "ndim", r"ndim is 65; NumPy has at most 64 dimensions: reshape",
              make=lambda: torch.ones((1,) * 64 + (2,)), targets=NUMPY,
              remedy=lambda x, convert: convert(x.reshape(-1)), expected=lambda x: torch.ones(2))  # fmt: skip


def request_rows() -> Iterator[Row]:
    yield Row("cuda_memory", "device_not_named", "device", r'pass device="cpu" to stage 24 bytes',
              make=lambda: Crafted(device=(2, 0)).capsule(), targets=NUMPY)  # fmt: skip
    arrays = {"ndarray": lambda: np.arange(3.0), "tensor": lambda: torch.arange(3.0)}
    for kind, make in arrays.items():
        for target in ("torch", "dlpack"):
            yield Row(f"cuda_for_{target}_of_{kind}", without_gpu(), "device",
                      r"^device is cpu, cuda:0 was asked for: .*: leave device= out to stay in host memory$",
                      make=make, targets=(target,), request={"device": "cuda:0"},
                      remedy=lambda x, convert: convert(x), expected=lambda x: x)  # fmt: skip
            yield Row(f"torch_device_for_{target}_of_{kind}", without_gpu(), "device", r"cuda:1 was asked for",
                      make=make, targets=(target,), request={"device": torch.device("cuda", 1)})  # fmt: skip
        yield Row(f"cuda_for_numpy_of_{kind}", "unsupported_device", "device",
                  r"^device is cuda:0, which NumPy does not hold: leave device= out, or pass device=\"cpu\"$",
                  make=make, targets=NUMPY, request={"device": "cuda:0"},
                  remedy=lambda x, convert: convert(x, device="cpu"), expected=lambda x: x)  # fmt: skip
        yield Row(f"unknown_device_of_{kind}", "invalid_device", "device", r"^device is 'gpu'; expected None, \"cpu\"",
                  make=make, request={"device": "gpu"}, remedy=lambda x, convert: convert(x, device="cpu"),
                  expected=lambda x: x)  # fmt: skip
        yield Row(f"cast_forbidden_of_{kind}", "copy_forbidden", "copy",
                  r"copy=False forbids the cast from float\d\d to int16 that dtype= names: leave copy= out, or pass",
                  make=make, targets=("torch", "numpy"), request={"dtype": "int16", "copy": False},
                  remedy=cast_to("int16"), expected=lambda x: np.arange(3, dtype=np.int16))  # fmt: skip


ROWS = [
    *numpy_rows(),
    *numpy_to_torch_rows(),
    *torch_rows(),
    *torch_to_numpy_rows(),
    *request_rows(),
]
CASES = [pytest.param(row, target, id=f"{row.id}-{target}") for row in ROWS for target in row.targets]
CASES_WITH_REMEDY = [case for case in CASES if case.values[0].remedy is not None]


@pytest.mark.rule(14, 16, 19, 94)
@pytest.mark.parametrize("row, target", CASES)
def test_refusals_name_code_and_field(row: Row, target: str) -> None:
    def check(x: Any) -> None:
        error = refusal(lambda: TARGETS[target](x, **row.request))
        assert error.code == row.code
        assert error.field == row.field
        assert str(error) == str(error).strip()
        assert re.search(row.message, str(error)), f"{error} does not match {row.message}"
        if row.code != "invalid_device":  # explain raises it, see test_invalid_devices_are_value_errors
            plan = dlbridge.explain(x, to=target, **row.request)
            assert (plan.verdict, plan.reasons[0], plan.path) == ("refuse", row.code, [])
            assert plan.message == str(error)

    row.visit(check)


@pytest.mark.parametrize("row, target", CASES)
def test_refusals_change_and_leak_nothing(row: Row, target: str) -> None:
    def check(x: Any) -> None:
        before = sys.getrefcount(x)
        state = (x.shape, x.dtype, x.flags.writeable) if isinstance(x, np.ndarray) else None
        assert_no_growth(lambda: refusal(lambda: TARGETS[target](x, **row.request)), times=100)
        assert sys.getrefcount(x) == before
        if isinstance(x, np.ndarray):
            assert (x.shape, x.dtype, x.flags.writeable) == state
        elif row.id in ("requires_grad", "conj", "complex32") and target != "dlpack":
            x.untyped_storage().resize_(x.untyped_storage().nbytes())  # an export would have locked it

    row.visit(check)


@pytest.mark.parametrize("row, target", CASES_WITH_REMEDY)
def test_remedies_work(row: Row, target: str) -> None:
    def check(x: Any) -> None:
        result = row.remedy(x, TARGETS[target])
        assert type(result) in (torch.Tensor, np.ndarray, dlbridge.Tensor)
        if isinstance(result, dlbridge.Tensor):
            result = result.torch() if "float4" in result.dtype else result.numpy()
        expected = row.expected(x)
        assert raw(result) == raw(expected)
        if "float4" not in str(result.dtype):
            assert tuple(result.shape) == tuple(expected.shape)

    row.visit(check)


# ---- devices ----


@pytest.mark.rule(100)
@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), (1, 0)], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_cpu_is_a_device(device: Any, target: str) -> None:
    a = np.arange(3.0)
    result = TARGETS[target](a, device=device)
    assert dlbridge.shares_memory(result, a)


@pytest.mark.rule(100)
@pytest.mark.parametrize("device", ["gpu", "cpu:x", "", (1,), (1, 0, 0), (99, 0), (1, -1), "cuda:-1"], ids=repr)
@pytest.mark.parametrize("target", TARGETS)
def test_invalid_devices_are_value_errors(device: Any, target: str) -> None:
    error = refusal(lambda: TARGETS[target](np.arange(3.0), device=device))
    assert str(refusal(lambda: dlbridge.explain(np.arange(3.0), to=target, device=device))) == str(error)
    assert error.code == "invalid_device"
    assert error.field == "device"
    assert isinstance(error, ValueError)


@pytest.mark.rule(100)
@pytest.mark.parametrize("device", ["mps", "xpu:0", "meta", torch.device("mps")], ids=repr)
@pytest.mark.parametrize("target", TARGETS)
def test_devices_of_torch_alone_are_unsupported(device: Any, target: str) -> None:
    x = torch.arange(3.0)
    error = refusal(lambda: TARGETS[target](x, device=device))
    assert (error.code, error.field) == ("unsupported_device", "device")
    assert str(error).endswith("pass dlbridge.to_torch(x).to(device)")


# ---- wrong kinds of object ----


class NoProducer:
    pass


@pytest.mark.rule(94)
@pytest.mark.parametrize(
    "x",
    [None, [1.0, 2.0], (1.0,), 3, 2.5, 1j, True, np.float32(1), np.int64(3), "text", set(), NoProducer(),
     np, np.dtype("f4"), torch.float32],
    ids=lambda x: type(x).__name__,
)  # fmt: skip
@pytest.mark.parametrize("target", TARGETS)
def test_wrong_objects_are_type_errors(x: Any, target: str) -> None:
    with pytest.raises(TypeError, match=r"^x is .*; (expected a numpy\.ndarray|a scalar has no memory)"):
        TARGETS[target](x)
    before = sys.getrefcount(x)
    with pytest.raises(TypeError):
        dlbridge.explain(x, to=target)
    assert sys.getrefcount(x) == before
    with pytest.raises(TypeError):
        TARGETS[target](type(x))


@pytest.mark.rule(94)
@pytest.mark.parametrize(
    ("x", "advised"),
    [
        ([1.0, 2.0], "numpy.asarray(x)"),
        ((1, 2), "numpy.asarray(x)"),
        ([[1, 2], [3, 4]], "numpy.asarray(x)"),
        (2.5, "numpy.asarray(x)"),
        (np.float32(1), "numpy.asarray(x)"),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str) else "",
)
@pytest.mark.parametrize("target", TARGETS)
def test_advised_calls_work(x: Any, advised: str, target: str) -> None:
    convert = TARGETS[target]
    with pytest.raises(TypeError) as caught:
        convert(x)
    assert advised in str(caught.value)
    result = convert(eval(advised, {"numpy": np, "x": x}))
    assert np.prod(result.shape) in (1, 2, 3, 4, 5)


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize(
    "x", [True, 3, 2.5, 1j, np.float32(1.5), np.bool_(True), ml_dtypes.bfloat16(1)], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("target", TARGETS)
def test_copied_scalars_are_0d(x: Any, target: str, copy: bool | None) -> None:
    result = TARGETS[target](x, copy=copy)
    assert tuple(result.shape) == ()
    assert dlbridge.to_numpy(result)[()] == x
    assert dlbridge.explain(x, target, copy=copy).verdict != "refuse"
    assert not (hasattr(result, "read_only") and result.read_only)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(int, "int64"), (float, "float64"), (bool, "bool"), (complex, "complex128"), ("torch.float32", "float32"),
     ("f4", "float32"), ("half", "float16"), ("double", "float64"), ("uint8", "uint8"), ("torch.float", "float32"),
     ("torch.short", "int16"), (torch.float16, "float16"), (np.dtype("f4"), "float32"), (np.float32, "float32"),
     ("float32", "float32")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("target", ["torch", "numpy"])
def test_dtypes_are_spelt_freely(dtype: Any, name: str, target: str) -> None:
    for x in (np.arange(3, dtype="int32"), torch.arange(3, dtype=torch.int32)):
        assert str(TARGETS[target](x, dtype=dtype).dtype).removeprefix("torch.") == name
        assert dlbridge.explain(x, target, dtype=dtype).verdict == "cast"


@pytest.mark.parametrize("copy", ["named", False])
def test_copy_defaults_to_named(copy: Any) -> None:
    a = np.arange(3.0)
    assert dlbridge.shares_memory(dlbridge.to_torch(a, copy=copy), a)
    assert dlbridge.to_torch(a, dtype="float32", copy="named").dtype == torch.float32
    for function in (dlbridge.to_torch, dlbridge.to_numpy, dlbridge.from_dlpack, dlbridge.explain):
        assert inspect.signature(function).parameters["copy"].default == "named"


@pytest.mark.rule(99)
@pytest.mark.parametrize("target", TARGETS)
def test_wrong_calls_are_type_errors(target: str) -> None:
    a = np.arange(3.0)
    convert = TARGETS[target]
    with pytest.raises(TypeError, match="positional"):
        convert()
    with pytest.raises(TypeError, match="positional"):
        convert(a, a)
    with pytest.raises(TypeError):
        convert(x=a)
    with pytest.raises(TypeError, match="unexpected keyword argument 'layout'"):
        convert(a, layout="C")
    for copy in (1, 0, np.True_):
        with pytest.raises(TypeError, match="copy is .*; expected True, False or None"):
            convert(a, copy=copy)


@pytest.mark.parametrize(
    ("keyword", "value", "kinds"),
    [("copy", "yes", [1, b"named"]), ("order", "F", [1, None]), ("on_write", "never", [1]),
     ("to", "jax", [3, None, torch]), ("device", "gpu", [3, b"cpu"]), ("dtype", "float33", [3.5, torch.nn])],
)  # fmt: skip
def test_wrong_values_are_refused_and_wrong_kinds_are_type_errors(keyword: str, value: Any, kinds: list[Any]) -> None:
    def call(value: Any) -> Any:
        return dlbridge.explain(np.arange(3.0), **({"to": "torch"} | {keyword: value}))

    error = refusal(lambda: call(value))
    assert (error.code.partition("_")[0], error.field) == ("invalid", keyword)
    for wrong in kinds:
        with pytest.raises(TypeError, match=f"^{keyword} is .*; expected "):
            call(wrong)


class HugeStream:
    cuda_stream = 2**70


class HugeDevice:
    type, index = "cuda", 2**70


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda n: dlbridge.to_torch(np.zeros(3), device=(1, n)), "device"),
        (lambda _: dlbridge.to_torch(np.zeros(3), device=HugeDevice()), "device"),
        (lambda n: dlbridge.stage(np.zeros(3), device="cuda:0", stream=n), "stream"),
        (lambda _: dlbridge.stage(np.zeros(3), device="cuda:0", stream=HugeStream()), "stream"),
        (lambda n: dlbridge.record_stream(np.zeros(3), n), "stream"),
        (lambda n: dlbridge.pinned_empty((2, n)), "shape"),
        (lambda n: dlbridge.from_buffer(bytes(8), "uint8", n), "shape"),
        (lambda n: dlbridge.from_buffer(bytes(8), "uint8", offset=n), "offset"),
        (lambda n: dlbridge.from_dlpack(np.zeros(3)).__dlpack__(max_version=(n, 0)), "max_version"),
        (lambda n: dlbridge.from_dlpack(np.zeros(3)).__dlpack__(dl_device=(n, 0)), "dl_device"),
        (dlbridge.set_num_threads, "n"),
        (dlbridge.set_pool_limit, "bytes"),
        (dlbridge.trim_pinned, "keep_bytes"),
        (dlbridge.reserve_pinned, "bytes"),
    ],
)
@pytest.mark.parametrize("number", [2**70, -(2**70), 2**63])
def test_integers_beyond_64_bits_are_wrong_values(call: Callable[[int], Any], field: str, number: int) -> None:
    error = refusal(lambda: call(number))
    assert error.field == field
    assert re.match(rf"{field} is .*; expected ", str(error))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: dlbridge.stage(np.zeros(3), device="cuda:0", snapshot=None), "snapshot is None"),
        (lambda: dlbridge.stage(np.zeros(3), device="cuda:0", borrow=1), "borrow is 1"),
        (lambda: dlbridge.stage_many([np.zeros(3)], snapshot="no"), "snapshot is 'no'"),
        (lambda: dlbridge.stage_many([np.zeros(3)], progress=1), "progress is 1"),
        (lambda: dlbridge.to_torch(np.zeros(3), assume_writable=0), "assume_writable is 0"),
        (lambda: dlbridge.from_buffer(bytes(8), "uint8", offset="a"), "offset is 'a'"),
        (lambda: dlbridge.pinned_empty("a"), "shape is 'a'"),
        (lambda: dlbridge.pinned_empty((2.5,)), r"shape is \(2.5,\)"),
        (lambda: dlbridge.pinned_empty(3, dtype=3.5), "dtype is 3.5"),
        (lambda: dlbridge.reserve_pinned("a"), "bytes is 'a'"),
    ],
)
def test_wrong_kinds_are_named_before_a_gpu_is_asked_for(call: Callable[[], Any], named: str) -> None:
    with pytest.raises(TypeError, match=f"^{named}; expected "):
        call()


# ---- the exception ----


@pytest.mark.rule(5, 6, 83, 94)
def test_exception_bases() -> None:
    error = refusal(lambda: dlbridge.to_torch(np.arange(3.0)[::-1]))
    assert type(error) is dlbridge.ExchangeError
    assert isinstance(error, BufferError)
    assert isinstance(error, ValueError)
    assert not isinstance(error, TypeError)
    assert error.args == (str(error),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_exception_pickles(protocol: int) -> None:
    error = refusal(lambda: dlbridge.to_torch(np.arange(3.0)[::-1]))
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is dlbridge.ExchangeError
    assert (str(again), again.code, again.field) == (str(error), "negative_stride", "strides")
