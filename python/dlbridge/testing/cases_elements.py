# SPDX-License-Identifier: Apache-2.0
"""Every element arrives, whatever the dtype, the layout and the direction."""

from __future__ import annotations

import numpy as np

import dlbridge

from .case import DTYPES, Bench, case, element_type
from .layouts import LAYOUTS
from .providers import Unsupported

ITEM_SIZES = ("uint8", "float16", "float32", "int64", "complex128")
WRITABLE = [name for name, layout in LAYOUTS.items() if not layout.overlapping]


@case(layout=LAYOUTS, dtype=DTYPES)
def to_numpy(bench: Bench, layout: str, dtype: str) -> None:
    """to_numpy(x, device="cpu")"""
    x, expected = bench.on_device(layout, dtype)
    bench.same(dlbridge.to_numpy(x, device="cpu"), expected)


@case(layout=LAYOUTS, dtype=ITEM_SIZES)
def stage(bench: Bench, layout: str, dtype: str) -> None:
    """stage(x, device="cpu").result()"""
    x, expected = bench.on_device(layout, dtype)
    bench.same(dlbridge.stage(x, device="cpu").result(), expected)


@case(layout=LAYOUTS, target=("row_major", "column_major", "every_second"))
def out(bench: Bench, layout: str, target: str) -> None:
    """stage(x, out=array): elements arrive in the array's own order, and nothing beside them is written."""
    x, expected = bench.on_device(layout, "int32")
    shape = expected.shape
    if target == "every_second":
        whole = np.full((*shape[:-1], 2 * shape[-1]) if shape else (2,), -7, np.int32)
        array, beside = (whole[..., ::2], whole[..., 1::2]) if shape else (whole[0:1].reshape(()), whole[1:])
    else:
        array = np.full(shape, -7, np.int32, order="C" if target == "row_major" else "F")
        beside = np.full(0, -7, np.int32)
    dlbridge.stage(x, out=array).result()
    bench.same(array, expected)
    assert (beside == -7).all(), "elements beside the array were written"


@case(layout=LAYOUTS, dtype=ITEM_SIZES)
def to_numpy_out(bench: Bench, layout: str, dtype: str) -> None:
    """to_numpy(x, device="cpu", out=array) gives the array back."""
    x, expected = bench.on_device(layout, dtype)
    array = np.zeros(expected.shape, expected.dtype)
    assert dlbridge.to_numpy(x, device="cpu", out=array) is array
    bench.same(array, expected)


@case(layout=LAYOUTS, dtype=DTYPES)
def from_dlpack(bench: Bench, layout: str, dtype: str) -> None:
    """from_dlpack(array, device=...): a dlbridge.Tensor that the framework takes."""
    host = bench.on_host(layout, dtype)
    bench.same_taken(dlbridge.from_dlpack(host, device=bench.provider.device), host)


@case(layout=LAYOUTS, dtype=DTYPES)
def to_framework(bench: Bench, layout: str, dtype: str) -> None:
    """The call that makes arrays of the framework itself, such as to_torch(array, device=...)."""
    host = bench.on_host(layout, dtype)
    bench.same(bench.provider.read(bench.provider.to_device(host)), host)


@case(layout=LAYOUTS, dtype=ITEM_SIZES)
def stage_to_device(bench: Bench, layout: str, dtype: str) -> None:
    """stage(array, device=..., to="dlpack").result()"""
    host = bench.on_host(layout, dtype)
    bench.same_taken(dlbridge.stage(host, device=bench.provider.device, to="dlpack").result(), host)


@case(layout=WRITABLE, dtype=ITEM_SIZES)
def out_on_device(bench: Bench, layout: str, dtype: str) -> None:
    """stage(array, out=x): into an array of the framework."""
    x, before = bench.on_device(layout, dtype)
    host = bench.elements(dtype, before.size).reshape(before.shape)
    target = bench.target(x)
    assert dlbridge.stage(host, out=target).result() is target
    bench.same(bench.provider.read(x), host)


@case(dtype=DTYPES)
def there_and_back(bench: Bench, dtype: str) -> None:
    """From the host to the device and back without the framework."""
    host = bench.elements(dtype, 1000).reshape(40, 25)
    tensor = dlbridge.from_dlpack(host, device=bench.provider.device)
    assert tensor.device == bench.provider.device, tensor.device
    bench.same(dlbridge.to_numpy(tensor, device="cpu"), host)


@case(layout=("dense", "transposed", "every_second"))
def to_pinned_tensor(bench: Bench, layout: str) -> None:
    """from_dlpack(x, device="cpu"): a dlbridge.Tensor on the host."""
    x, expected = bench.on_device(layout)
    bench.same(dlbridge.from_dlpack(x, device="cpu").numpy(), expected)


@case(layout=("dense", "transposed"))
def cast(bench: Bench, layout: str) -> None:
    """A cast that is named happens on the way."""
    x, expected = bench.on_device(layout, "int16")
    bench.same(dlbridge.to_numpy(x, device="cpu", dtype="float64"), expected.astype(np.float64))


@case(count=(0, 1, 7, 100))
def many(bench: Bench, count: int) -> None:
    """stage_many: results in the order of the sources, of any layouts and dtypes."""
    names = list(LAYOUTS)
    pairs = []
    for i in range(count):
        for attempt in range(len(names)):
            try:
                pairs.append(bench.on_device(names[(i + attempt) % len(names)], ITEM_SIZES[i % len(ITEM_SIZES)]))
                break
            except Unsupported:
                continue
    results = dlbridge.stage_many([x for x, _ in pairs], device="cpu").result()
    assert len(results) == len(pairs), f"{len(results)} results of {len(pairs)} sources"
    for got, (_, expected) in zip(results, pairs, strict=True):
        bench.same(got, expected)


@case(layout=("dense", "transposed", "scalar"))
def explained(bench: Bench, layout: str) -> None:
    """explain() says beforehand what happens."""
    x, expected = bench.on_device(layout)
    plan = dlbridge.explain(x, "numpy", device="cpu")
    assert plan.verdict == "stage", plan
    assert plan.bytes == expected.nbytes, plan
    assert bench.provider.device in str(plan.path), plan.path


@case(dtype=DTYPES)
def results_are_plain(bench: Bench, dtype: str) -> None:
    """A result is an ndarray that may be written, and shares its memory with no other result."""
    x, expected = bench.on_device("dense", dtype)
    first, second = dlbridge.to_numpy(x, device="cpu"), dlbridge.to_numpy(x, device="cpu")
    assert type(first) is np.ndarray and first.dtype == element_type(dtype)
    assert first.flags.writeable and not np.shares_memory(first, second)
    first.view(np.uint8)[...] ^= 1
    bench.same(second, expected)
