"""Copies: the four states of copy=, what a named copy, cast or out= does and gives, and what no copy remedies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import dlbridge
from support import (
    AS,
    DTYPE_PAIRS,
    TORCH_PAIRS,
    address,
    direct_tier,
    element_strides,
    misaligned_array,
    random_array,
    raw,
    refusal,
    writeback_array,
)

TARGETS: dict[str, Callable[..., Any]] = {
    "torch": dlbridge.to_torch,
    "numpy": dlbridge.to_numpy,
    "dlpack": dlbridge.from_dlpack,
}
STATES: dict[str, dict[str, Any]] = {
    "not_given": {},
    "false": {"copy": False},
    "none": {"copy": None},
    "true": {"copy": True},
}


def array() -> np.ndarray:
    return np.arange(12.0).reshape(3, 4)


def tensor() -> torch.Tensor:
    return torch.arange(12.0).reshape(3, 4)


def flipped() -> np.ndarray:
    return array()[::-1]


def swapped() -> np.ndarray:
    return array().astype(">f8")


def conjugated() -> torch.Tensor:
    return torch.tensor([1 + 2j, 3 - 4j]).conj()


def elements(x: Any) -> list:
    """The values as nested lists, whatever holds them."""
    if isinstance(x, dlbridge.Tensor):
        x = x.numpy()
    return x.tolist()


# ---- copy=, cell by cell ----

SHARE = ("share", "share", "share", "copy")
REFUSE = ("refuse", "refuse", "copy", "copy")
CHANGE = ("cast", "refuse", "cast", "cast")
TABLE = [
    # what, target, source, request, the four verdicts
    ("shareable_array", "torch", array, {}, SHARE),
    ("shareable_array", "numpy", array, {}, SHARE),
    ("shareable_array", "dlpack", array, {}, SHARE),
    ("shareable_tensor", "torch", tensor, {}, SHARE),
    ("shareable_tensor", "numpy", tensor, {}, SHARE),
    ("shareable_tensor", "dlpack", tensor, {}, SHARE),
    ("flipped_array", "torch", flipped, {}, REFUSE),
    ("flipped_array", "numpy", flipped, {}, SHARE),
    ("flipped_array", "dlpack", flipped, {}, SHARE),
    ("swapped_array", "torch", swapped, {}, REFUSE),
    ("swapped_array", "numpy", swapped, {}, REFUSE),
    ("swapped_array", "dlpack", swapped, {}, REFUSE),
    ("conj_tensor", "torch", conjugated, {}, REFUSE),
    ("conj_tensor", "numpy", conjugated, {}, REFUSE),
    ("conj_tensor", "dlpack", conjugated, {}, REFUSE),
    ("dtype_of_array", "torch", array, {"dtype": "float32"}, CHANGE),
    ("dtype_of_array", "numpy", array, {"dtype": "float32"}, CHANGE),
    ("dtype_of_tensor", "torch", tensor, {"dtype": "float64"}, CHANGE),
    ("dtype_of_tensor", "numpy", tensor, {"dtype": "float64"}, CHANGE),
    ("dtype_of_flipped_array", "torch", flipped, {"dtype": "float32"}, CHANGE),
    ("dtype_of_swapped_array", "numpy", swapped, {"dtype": "float32"}, CHANGE),
    ("same_dtype_array", "torch", array, {"dtype": "float64"}, SHARE),
    ("same_dtype_array", "numpy", array, {"dtype": "float64"}, SHARE),
    ("same_dtype_tensor", "torch", tensor, {"dtype": "float32"}, SHARE),
    ("same_dtype_tensor", "numpy", tensor, {"dtype": "float32"}, SHARE),
    ("same_dtype_flipped_array", "torch", flipped, {"dtype": "float64"}, REFUSE),
    ("same_device_array", "torch", array, {"device": "cpu"}, SHARE),
    ("same_device_array", "numpy", array, {"device": "cpu"}, SHARE),
    ("same_device_array", "dlpack", array, {"device": "cpu"}, SHARE),
    ("same_device_tensor", "numpy", tensor, {"device": torch.device("cpu")}, SHARE),
    ("same_device_and_dtype", "torch", array, {"device": "cpu", "dtype": torch.float64}, SHARE),
    ("same_device_flipped_array", "torch", flipped, {"device": "cpu"}, REFUSE),
]
CELLS = [
    pytest.param(target, make, request | STATES[state], verdict, id=f"{what}-{target}-{state}")
    for what, target, make, request, verdicts in TABLE
    for state, verdict in zip(STATES, verdicts, strict=True)
]


def values_of(x: Any) -> list:
    return x.resolve_conj().tolist() if isinstance(x, torch.Tensor) else x.tolist()


@pytest.mark.parametrize("target, make, request_, verdict", CELLS)
def test_four_states_of_copy(target: str, make: Callable[[], Any], request_: dict, verdict: str) -> None:
    x = make()
    plan = dlbridge.explain(x, to=target, **request_)
    assert plan.verdict == verdict
    if verdict == "refuse":
        error = refusal(lambda: TARGETS[target](x, **request_))
        assert error.code == plan.reasons[0]
        return
    result = TARGETS[target](x, **request_)
    assert elements(result) == values_of(x)
    assert (address(result) == address(x)) == (verdict == "share")
    size = 4 if "float32" in str(result.dtype) else 8
    assert plan.bytes == (0 if verdict == "share" else len(np.ravel(values_of(x))) * size)
    if isinstance(result, dlbridge.Tensor):
        assert result.is_copied == (verdict == "copy")
        assert not result.read_only


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_named_device_without_a_transfer_is_refused_in_every_state(target: str, state: str) -> None:
    error = refusal(lambda: TARGETS[target](array(), device="cuda:0", **STATES[state]))
    impossible = "unsupported_device" if target == "numpy" else "no_staging"
    assert error.code == ("copy_forbidden" if state == "false" else impossible)


@pytest.mark.rule(83)
@pytest.mark.parametrize("target", TARGETS)
def test_copy_false_with_a_named_device_refuses_before_anything_moves(target: str) -> None:
    error = refusal(lambda: TARGETS[target](array(), device="cuda:0", copy=False))
    assert (error.code, error.field) == ("copy_forbidden", "copy")
    assert "forbids the staging from cpu to cuda:0" in str(error)


# ---- what a copy remedies ----


def windows() -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 4, writeable=True)


def read_only() -> np.ndarray:
    a = array()
    a.flags.writeable = False
    return a


def odd_field() -> np.ndarray:
    a = np.zeros(5, np.dtype([("a", "i1"), ("b", "f4")]))
    a["b"] = [1, 2, 3, 4, 5]
    return a["b"]


CURED = {
    "odd_strides": (odd_field, ("torch", "numpy", "dlpack"), "stride_not_multiple"),
    "alignment": (misaligned_array, ("torch",), "misaligned"),
    "byte_order": (swapped, ("torch", "numpy", "dlpack"), "byte_order"),
    "byte_order_and_flip": (lambda: swapped()[::-1, ::-2], ("torch", "numpy", "dlpack"), "byte_order"),
    "byte_order_complex": (lambda: (array() * (1 - 2j)).astype(">c8"), ("torch", "numpy", "dlpack"), "byte_order"),
    "negative_strides": (flipped, ("torch",), "negative_stride"),
    "negative_everywhere": (
        lambda: np.arange(60.0).reshape(3, 4, 5)[::-1, ::-2, ::-1].T,
        ("torch",),
        "negative_stride",
    ),
    "overlap": (windows, ("torch",), "overlap"),
    "read_only": (read_only, ("torch",), "read_only"),
    "read_only_broadcast": (lambda: np.broadcast_to(np.arange(4.0), (3, 4)), ("torch",), "read_only"),
    "conj": (conjugated, ("torch", "numpy", "dlpack"), "conj_bit"),
    "conj_transposed": (lambda: (tensor() * (1 + 2j)).t().conj(), ("torch", "numpy", "dlpack"), "conj_bit"),
    "neg": (lambda: conjugated().imag, ("torch", "numpy", "dlpack"), "neg_bit"),
    "neg_and_conj": (lambda: torch._neg_view(conjugated()), ("torch", "numpy", "dlpack"), "conj_bit"),
    "zero": (lambda: torch._efficientzerotensor((2, 3)), ("torch", "numpy", "dlpack"), "zero_tensor"),
    "copy_on_write": (lambda: torch._lazy_clone(tensor()), ("torch", "numpy", "dlpack"), "copy_on_write"),
}


def own_result(x: Any) -> Any:
    """A plain copy by the source's own framework."""
    if isinstance(x, torch.Tensor):
        return x.to(device="cpu", copy=True).resolve_conj().resolve_neg() + 0
    return np.array(x, dtype=x.dtype.newbyteorder("="), copy=True)


@pytest.mark.rule(72)
@pytest.mark.parametrize("copy", [None, True], ids=["none", "true"])
@pytest.mark.parametrize(
    "make, target, code",
    [pytest.param(make, to, code, id=f"{k}-{to}") for k, (make, targets, code) in CURED.items() for to in targets],
)
def test_a_named_copy_cures(make: Callable[[], Any], target: str, code: str, copy: bool | None) -> None:
    x = make()
    assert refusal(lambda: TARGETS[target](x)).code == code
    plan = dlbridge.explain(x, to=target, copy=copy)
    result = TARGETS[target](x, copy=copy)
    expected = own_result(make())
    assert elements(result) == expected.tolist()
    assert tuple(result.shape) == tuple(expected.shape)
    assert str(result.dtype).removeprefix("torch.") == str(expected.dtype).removeprefix("torch.")
    assert plan.verdict == "copy"
    assert code in plan.reasons
    assert plan.bytes == expected.nbytes
    if isinstance(result, np.ndarray):
        assert result.flags.writeable
        assert result.flags.owndata


@pytest.mark.parametrize("copy", [None, True], ids=["none", "true"])
@pytest.mark.parametrize("target", TARGETS)
def test_copying_a_copy_on_write_tensor_does_not_disturb_its_twin(target: str, copy: bool | None) -> None:
    t = tensor()
    lazy = torch._lazy_clone(t)
    result = TARGETS[target](lazy, copy=copy)
    t.add_(100)
    assert elements(result) == tensor().tolist()
    assert lazy.tolist() == tensor().tolist()


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(3)


NEVER_CURED = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "sparse_layout"),
    "sparse_csr": (lambda: torch.eye(3).to_sparse_csr(), "sparse_layout"),
    "mkldnn": (lambda: torch.ones(2, 3).to_mkldnn(), "mkldnn_layout"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested_tensor"),
    "meta": (lambda: torch.empty(3, device="meta"), "meta_tensor"),
    "fake": (fake, "fake_tensor"),
    "functional": (lambda: torch._to_functional_tensor(torch.ones(3)), "functional_tensor"),
    "masked": (lambda: np.ma.array([1.0, 2.0], mask=[0, 1]), "masked_array"),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantized_tensor"),
    "object": (lambda: np.array([None, 1]), "unsupported_dtype"),
    "datetime": (lambda: np.zeros(3, "M8[s]"), "unsupported_dtype"),
    "longdouble": (lambda: np.zeros(3, np.longdouble), "unsupported_dtype"),
    "structured": (lambda: np.zeros(3, "f4,i4"), "unsupported_dtype"),
    "str": (lambda: np.array(["a"]), "unsupported_dtype"),
    "shell_dtype": (lambda: torch.empty(3, dtype=torch.uint4), "unsupported_dtype"),
    "requires_grad": (lambda: torch.ones(3, requires_grad=True), "requires_grad"),
    "requires_grad_and_conj": (lambda: torch.ones(3, dtype=torch.cfloat, requires_grad=True).conj(), "requires_grad"),
}


@pytest.mark.parametrize(
    "request_",
    [{"copy": None}, {"copy": True}, {"dtype": "float64"}, {"dtype": "float64", "copy": None}, {"dtype": "float32"}],
    ids=["none", "true", "dtype", "dtype_and_none", "other_dtype"],
)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", NEVER_CURED)
def test_no_copy_cures(kind: str, target: str, request_: dict) -> None:
    if target == "dlpack" and "dtype" in request_:
        request_ = {"copy": True}
    make, code = NEVER_CURED[kind]
    x = make()
    assert refusal(lambda: TARGETS[target](x, **request_)).code == code
    assert dlbridge.explain(x, to=target, **request_).reasons[0] == code


@pytest.mark.parametrize("target", TARGETS)
def test_writeback_is_never_cured(target: str) -> None:
    iterator, operand = writeback_array()
    with iterator:
        assert refusal(lambda: TARGETS[target](operand, copy=True)).code == "writeback_if_copy"


def test_functorch_tensors_are_never_cured() -> None:
    codes = []

    def function(x: torch.Tensor) -> torch.Tensor:
        for target in TARGETS.values():
            for copy in (None, True):
                codes.append(refusal(lambda t=target, c=copy: t(x, copy=c)).code)
        return x

    torch.vmap(function)(torch.ones(2, 3))
    assert codes == ["functorch_tensor"] * 6


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
def test_casts_give_what_the_frameworks_give(source: str, to: str) -> None:
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


AWKWARD = {
    "flipped": lambda: np.arange(-6.0, 6.0).reshape(3, 4)[::-1, ::-1],
    "transposed": lambda: np.arange(-6.0, 6.0).reshape(3, 4).T,
    "swapped": lambda: np.arange(-6.0, 6.0).astype(">f8").reshape(3, 4),
    "swapped_flipped": lambda: np.arange(-6.0, 6.0).astype(">f8").reshape(3, 4)[:, ::-1],
    "odd_field": odd_field,
    "odd_field_flipped": lambda: odd_field()[::-1],
    "misaligned": misaligned_array,
    "misaligned_flipped": lambda: misaligned_array()[::-1],
    "read_only": read_only,
    "broadcast": lambda: np.broadcast_to(np.arange(4.0), (3, 4)),
    "windows": windows,
    "empty": lambda: np.empty((3, 0)),
    "scalar": lambda: np.array(2.5),
    "memory_of_bytes": lambda: np.frombuffer(np.arange(6.0).tobytes()),
}


@pytest.mark.parametrize("to", ["float16", "bfloat16", "int64", "complex128", "float8_e5m2", "bool"])
@pytest.mark.parametrize("kind", AWKWARD)
def test_casts_from_awkward_arrays(kind: str, to: str) -> None:
    a = AWKWARD[kind]()
    native = np.array(a, dtype=a.dtype.newbyteorder("="))
    expected = native.astype(DTYPE_PAIRS[to][0])
    t = dlbridge.to_torch(a, dtype=to)
    b = dlbridge.to_numpy(a, dtype=to)
    assert tuple(t.shape) == b.shape == a.shape
    assert raw(b) == raw(expected)
    assert raw(t) == raw(torch.from_numpy(native).to(DTYPE_PAIRS[to][1]))
    assert not np.shares_memory(b, a) and not dlbridge.shares_memory(t, b)
    assert raw(np.array(a, dtype=a.dtype.newbyteorder("="))) == raw(native)


def test_casts_from_awkward_tensors() -> None:
    c = torch.tensor([1 + 2j, 3 - 4j])
    assert dlbridge.to_numpy(c.conj(), dtype=np.complex128).tolist() == [1 - 2j, 3 + 4j]
    assert dlbridge.to_torch(c.conj(), dtype=torch.complex128).tolist() == [1 - 2j, 3 + 4j]
    assert dlbridge.to_numpy(c.conj().imag, dtype="float64").tolist() == [-2, 4]
    assert dlbridge.to_numpy(torch._efficientzerotensor(3), dtype="int32").tolist() == [0, 0, 0]
    assert dlbridge.to_numpy(torch._lazy_clone(torch.arange(3.0)), dtype="int32").tolist() == [0, 1, 2]
    assert dlbridge.to_torch(torch._lazy_clone(torch.arange(3.0)), dtype="bfloat16").tolist() == [0, 1, 2]


def test_complex32_casts_into_numpy() -> None:
    t = torch.tensor([[1 + 2j, 3 - 4j], [0.5j, -7]], dtype=torch.complex64)
    half = t.to(torch.complex32)
    for x, values in ((half, t), (half.t(), t.t()), (half.conj(), t.conj())):
        a = dlbridge.to_numpy(x, dtype=np.complex64)
        assert a.dtype == np.complex64
        assert a.tolist() == values.resolve_conj().tolist()
    assert dlbridge.to_numpy(half, dtype=np.complex128).tolist() == t.tolist()
    assert dlbridge.to_torch(t.numpy(), dtype=torch.complex32).dtype == torch.complex32
    assert dlbridge.to_torch(t.numpy(), dtype=torch.complex32).to(torch.complex64).tolist() == t.tolist()


def test_dtype_names_what_the_target_lacks() -> None:
    assert refusal(lambda: dlbridge.to_numpy(tensor(), dtype="complex32")).code == "unsupported_dtype"
    assert refusal(lambda: dlbridge.to_torch(array(), dtype="float8_e3m4")).code == "unsupported_dtype"


@pytest.mark.parametrize("spelling", [np.float32, np.dtype("f4"), "f4", "float32", "<f4", "single"], ids=repr)
def test_numpy_dtypes_in_every_spelling(spelling: Any) -> None:
    result = dlbridge.to_numpy(array(), dtype=spelling)
    assert result.dtype == np.float32
    assert result.tolist() == array().tolist()


def test_a_dtype_in_foreign_byte_order_is_refused() -> None:
    assert refusal(lambda: dlbridge.to_numpy(array(), dtype=">f8")).code == "byte_order"


# ---- float4 ----

NIBBLES = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 15]], np.uint8)
PAIRS = np.array([[0x10, 0x32], [0x54, 0x76], [0x98, 0xFA]], np.uint8)


def pair_tensor(array_of_bytes: np.ndarray = PAIRS) -> torch.Tensor:
    return torch.from_numpy(array_of_bytes.copy()).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize("copy", [None, True], ids=["none", "true"])
def test_float4_unpacks_into_numpy(copy: bool | None) -> None:
    t = pair_tensor()
    a = dlbridge.to_numpy(t, copy=copy)
    assert a.dtype == ml_dtypes.float4_e2m1fn
    assert a.shape == (3, 4)
    assert a.view(np.uint8).tolist() == NIBBLES.tolist()
    assert a.astype(np.float32)[0].tolist() == [0, 0.5, 1, 1.5]
    assert a.astype(np.float32)[1].tolist() == [2, 3, 4, 6]
    plan = dlbridge.explain(t, to="numpy", copy=copy)
    assert (plan.verdict, plan.bytes) == ("copy", 12)


@pytest.mark.parametrize("copy", [None, True], ids=["none", "true"])
def test_float4_packs_into_torch(copy: bool | None) -> None:
    a = NIBBLES.view(ml_dtypes.float4_e2m1fn)
    t = dlbridge.to_torch(a, copy=copy)
    assert t.dtype == torch.float4_e2m1fn_x2
    assert tuple(t.shape) == (3, 2)
    assert t.view(torch.uint8).tolist() == PAIRS.tolist()
    plan = dlbridge.explain(a, to="torch", copy=copy)
    assert (plan.verdict, plan.bytes) == ("copy", 6)


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


def test_float4_read_only_packs_and_empties_work() -> None:
    a = NIBBLES.copy().view(ml_dtypes.float4_e2m1fn)
    a.flags.writeable = False
    assert dlbridge.to_torch(a, copy=None).view(torch.uint8).tolist() == PAIRS.tolist()
    empty = np.zeros((3, 0), ml_dtypes.float4_e2m1fn)
    assert tuple(dlbridge.to_torch(empty, copy=None).shape) == (3, 0)
    assert dlbridge.to_numpy(torch.empty(0, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), copy=None).shape == (
        0,
        4,
    )


def test_float4_round_trip() -> None:
    rng = np.random.default_rng(5)
    a = rng.integers(0, 16, (7, 5, 6), dtype=np.uint8).view(ml_dtypes.float4_e2m1fn)
    back = dlbridge.to_numpy(dlbridge.to_torch(a, copy=None), copy=None)
    assert back.dtype == a.dtype
    assert raw(back) == raw(a)


def test_float4_is_shared_where_the_packing_is_the_same() -> None:
    a = NIBBLES.copy().view(ml_dtypes.float4_e2m1fn)
    assert address(dlbridge.to_numpy(a)) == address(a)
    t = pair_tensor()
    assert address(dlbridge.to_torch(t)) == address(t)
    assert address(dlbridge.to_numpy(dlbridge.from_dlpack(a))) == address(a)
    assert address(dlbridge.to_torch(dlbridge.from_dlpack(t))) == address(t)
    assert refusal(lambda: dlbridge.to_torch(dlbridge.from_dlpack(a))).code == "float4_packing"
    assert refusal(lambda: dlbridge.to_numpy(dlbridge.from_dlpack(t))).code == "float4_packing"


@pytest.mark.parametrize("kind", ["array", "tensor"])
@pytest.mark.parametrize("target", ["torch", "numpy"])
def test_a_cast_of_float4_is_made_or_refused_with_a_way_out_that_differs(kind: str, target: str) -> None:
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
    "array": array,
    "flipped": flipped,
    "swapped": swapped,
    "read_only": read_only,
    "tensor": tensor,
    "tensor_transposed": lambda: torch.arange(12.0).reshape(4, 3).t(),
    "handle": lambda: dlbridge.from_dlpack(array()),
    "copy_on_write": lambda: torch._lazy_clone(tensor()),
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


def test_out_takes_none_and_true_as_copy_and_refuses_false() -> None:
    for copy in (None, True):
        out, _ = poisoned("f8")
        assert dlbridge.to_numpy(array(), out=out, copy=copy) is out
        assert out.tolist() == array().tolist()
    out, _ = poisoned("f8")
    error = refusal(lambda: dlbridge.to_numpy(array(), out=out, copy=False))
    assert error.code == "copy_forbidden"
    assert "out=" in str(error)
    assert (out == POISON).all()


def test_out_none_is_no_out() -> None:
    a = array()
    assert address(dlbridge.to_numpy(a, out=None)) == address(a)


@pytest.mark.parametrize(
    "make_out, code",
    [
        pytest.param(lambda: np.full((4, 3), 9.0), "shape_mismatch", id="wrong_shape"),
        pytest.param(lambda: np.full((12,), 9.0), "shape_mismatch", id="flat"),
        pytest.param(lambda: np.full((1, 3, 4), 9.0), "shape_mismatch", id="more_dimensions"),
        pytest.param(lambda: np.broadcast_to(np.full(4, 9.0), (3, 4)), "read_only", id="broadcast"),
        pytest.param(lambda: AS(np.full(4, 9.0), (3, 4), (0, 8)), "overlap", id="zero_strides"),
        pytest.param(lambda: AS(np.full(9, 9.0), (3, 4), (8, 8)), "overlap", id="windows"),
        pytest.param(lambda: np.full((3, 4), 9.0).astype(">f8"), "byte_order", id="swapped"),
        pytest.param(lambda: np.ma.array(np.full((3, 4), 9.0)), "masked_array", id="masked"),
        pytest.param(lambda: np.full((3, 4), None), "unsupported_dtype", id="object"),
    ],
)
def test_an_unfit_out_is_refused_and_left_alone(make_out: Callable[[], np.ndarray], code: str) -> None:
    out = make_out()
    before = out.tolist()
    assert refusal(lambda: dlbridge.to_numpy(array(), out=out)).code == code
    assert out.tolist() == before


def test_a_read_only_out_is_refused() -> None:
    out, _ = poisoned("f8")
    out.flags.writeable = False
    error = refusal(lambda: dlbridge.to_numpy(array(), out=out))
    assert (error.code, error.field) == ("read_only", "out")
    assert (out == POISON).all()


@pytest.mark.parametrize("out", [[1.0], torch.zeros(3, 4), 3, "out"], ids=lambda x: type(x).__name__)
def test_an_out_that_is_no_array_is_a_type_error(out: Any) -> None:
    with pytest.raises(TypeError, match="out is"):
        dlbridge.to_numpy(array(), out=out)


def test_out_with_a_dtype() -> None:
    out, _ = poisoned("f4")
    assert dlbridge.to_numpy(array(), out=out, dtype="float32") is out
    assert out.tolist() == array().tolist()
    out, _ = poisoned("f4")
    assert refusal(lambda: dlbridge.to_numpy(array(), out=out, dtype="float64")).code == "invalid_dtype"
    assert (out == POISON).all()


def test_out_takes_misaligned_memory() -> None:
    out = misaligned_array(np.float64, 12).reshape(3, 4)
    assert not out.flags.aligned
    for x in (array(), tensor(), swapped(), flipped()):
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


def test_out_of_a_large_overlapping_array() -> None:
    a = np.arange(2_000_000.0)
    expected = a[::-1].copy()
    dlbridge.to_numpy(a[::-1], out=a)
    assert (a == expected).all()


def test_out_does_not_cure_what_no_copy_cures() -> None:
    out = np.full(3, POISON, np.float32)
    assert refusal(lambda: dlbridge.to_numpy(torch.ones(3, requires_grad=True), out=out)).code == "requires_grad"
    assert refusal(lambda: dlbridge.to_numpy(np.ma.array([1.0, 2, 3]), out=out)).code == "masked_array"
    assert refusal(lambda: dlbridge.to_numpy(np.zeros(3, "M8[s]"), out=out)).code == "unsupported_dtype"
    assert (out == POISON).all()


def test_out_of_awkward_tensors() -> None:
    c = torch.tensor([1 + 2j, 3 - 4j])
    out = np.full(2, POISON, np.complex128)
    dlbridge.to_numpy(c.conj(), out=out)
    assert out.tolist() == [1 - 2j, 3 + 4j]
    dlbridge.to_numpy(c.to(torch.complex32), out=out)
    assert out.tolist() == [1 + 2j, 3 - 4j]
    dlbridge.to_numpy(torch._efficientzerotensor(2), out=out)
    assert out.tolist() == [0, 0]


def test_out_of_empty_and_scalar() -> None:
    assert dlbridge.to_numpy(torch.empty(3, 0), out=np.empty((3, 0))).shape == (3, 0)
    out = np.array(9.0)
    assert dlbridge.to_numpy(torch.tensor(2.5), out=out) is out
    assert out == 2.5


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
def test_copies_keep_the_order_of_dimensions(layout: str, target: str) -> None:
    make, strides = LAYOUTS[layout]
    a = make()
    result = TARGETS[target](a, copy=True)
    assert element_strides(result) == strides
    assert elements(result) == a.tolist()
    assert element_strides(a.copy("K")) == strides


@pytest.mark.parametrize("target", ["torch", "numpy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_casts_keep_the_order_of_dimensions(layout: str, target: str) -> None:
    make, strides = LAYOUTS[layout]
    result = TARGETS[target](make(), dtype="float32")
    assert element_strides(result) == strides


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_of_a_broadcast_array_is_dense(target: str) -> None:
    result = TARGETS[target](np.broadcast_to(np.arange(4.0), (3, 4)), copy=True)
    assert element_strides(result) == (4, 1)
    assert elements(result) == [[0, 1, 2, 3]] * 3


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
@pytest.mark.parametrize("make", [array, tensor], ids=["array", "tensor"])
def test_copies_are_independent(make: Callable[[], Any], target: str, request_: dict) -> None:
    x = make()
    result = TARGETS[target](x, **request_)
    assert not dlbridge.shares_memory(x, result)
    x[...] = -1
    assert elements(result) == make().tolist()
    result[...] = -2
    assert (x == -1).all()
    del x
    assert (result == -2).all()


def test_a_copied_handle_is_independent() -> None:
    a = array()
    handle = dlbridge.from_dlpack(a, copy=True)
    a[...] = -1
    assert handle.numpy().tolist() == array().tolist()
    assert handle.is_copied
    assert not handle.read_only


@direct_tier
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: dlbridge.to_torch(array(), copy=True), id="copy"),
        pytest.param(lambda: dlbridge.to_torch(flipped(), copy=None), id="copy_if_needed"),
        pytest.param(lambda: dlbridge.to_torch(array(), dtype="float32"), id="cast"),
        pytest.param(lambda: dlbridge.to_torch(tensor(), copy=True), id="of_a_tensor"),
        pytest.param(lambda: dlbridge.to_torch(conjugated(), copy=None), id="of_conj"),
        pytest.param(lambda: dlbridge.to_torch(np.zeros((2, 4), ml_dtypes.float4_e2m1fn), copy=None), id="float4"),
    ],
)
def test_torch_copies_own_a_resizable_storage(make: Callable[[], torch.Tensor]) -> None:
    t = make()
    storage = t.untyped_storage()
    assert storage.resizable()
    assert storage.nbytes() == t.nbytes
    assert t.data_ptr() % 64 == 0
    t.resize_(1000)
    assert t.untyped_storage().nbytes() == 1000 * t.element_size()
    assert t.is_leaf
    assert not t.requires_grad


def test_numpy_copies_own_their_memory() -> None:
    for a in (
        dlbridge.to_numpy(tensor(), copy=True),
        dlbridge.to_numpy(tensor(), dtype="float64"),
        dlbridge.to_numpy(read_only(), copy=True),
        dlbridge.to_numpy(swapped(), copy=None),
    ):
        assert a.flags.owndata
        assert a.flags.writeable
        assert a.base is None
        assert type(a) is np.ndarray
