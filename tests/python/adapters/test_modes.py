# SPDX-License-Identifier: Apache-2.0
"""Dispatch modes and transforms: to_torch gives there what torch.from_numpy gives: type, keys and results."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import dlbridge
from support import TORCH_TIER

Convert = Callable[[np.ndarray], torch.Tensor]
CONVERSIONS: dict[str, tuple[Convert, Convert]] = {
    # ours, and torch's own way to the same
    "share": (dlbridge.to_torch, torch.from_numpy),
    "copy": (lambda a: dlbridge.to_torch(a, copy=True), lambda a: torch.from_numpy(a.copy())),
    "copy_of_flipped": (
        lambda a: dlbridge.to_torch(a[::-1], copy=None),
        lambda a: torch.from_numpy(a[::-1].copy()),
    ),
    "cast": (
        lambda a: dlbridge.to_torch(a, dtype="float32"),
        lambda a: torch.from_numpy(a.astype(np.float32)),
    ),
    "cast_of_swapped": (
        lambda a: dlbridge.to_torch(a.astype(">f8"), dtype="float32"),
        lambda a: torch.from_numpy(a.astype(np.float32)),
    ),
}


def array() -> np.ndarray:
    return np.array([1.0, 2.0, 3.0])


def observe(t: Any) -> dict[str, Any]:
    """What can be seen of a tensor where it is."""
    seen = {
        "type": type(t),
        "keys": str(torch._C._dispatch_keys(t)),
        "shape": tuple(t.shape),
        "stride": t.stride(),
        "dtype": t.dtype,
        "device": t.device,
        "requires_grad": t.requires_grad,
        "inference": t.is_inference(),
        "leaf": t.is_leaf,
        "functional": torch._is_functional_tensor(t),
    }
    if type(t) is torch.Tensor and "Functorch" not in seen["keys"] and not seen["functional"]:
        with suppress(RuntimeError):  # the wrappers of torch 2.7 have no storage
            seen["values"] = t.tolist()
    return seen


def steps(convert: Convert) -> list[Any]:
    """The conversion, an operation and a write, as seen in place."""
    y = convert(array())
    seen = [observe(y)]
    seen.append(observe(y + 1))
    seen.append(observe(y.add_(1)))
    seen.append(observe(y))
    return seen


class Log(TorchDispatchMode):
    """Records the operators that reach the bottom of the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.append(str(func))
        return func(*args, **(kwargs or {}))


def in_context(*contexts: Callable[[], Any]) -> Callable[[Convert], Any]:
    def run(convert: Convert) -> Any:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context())
            return steps(convert)

    return run


def in_transform(transform: Callable[..., Any], shape: tuple[int, ...] = (3,)) -> Callable[[Convert], Any]:
    def run(convert: Convert) -> Any:
        seen: list[Any] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            seen.extend(steps(convert))
            y = convert(array())
            z = y + 1 + x
            y.add_(1)
            return (z * y).sum()

        result = transform(function)(torch.ones(shape))
        return [*seen, observe(result)]

    return run


def in_jvp(convert: Convert) -> Any:
    seen: list[Any] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.extend(steps(convert))
        return x * convert(array())

    result = torch.func.jvp(function, (torch.ones(3),), (torch.ones(3),))
    return [*seen, *map(observe, result)]


def in_make_fx(tracing_mode: str) -> Callable[[Convert], Any]:
    def run(convert: Convert) -> Any:
        seen: list[Any] = []

        def function(x: torch.Tensor) -> torch.Tensor:
            y = convert(array())
            seen.append({k: v for k, v in observe(y).items() if k != "values"})
            return (y + 1) * x

        graph = make_fx(function, tracing_mode=tracing_mode)(torch.ones(3))
        targets = [str(node.target) for node in graph.graph.nodes]
        return [*seen, targets, graph(torch.full((3,), 2.0)).tolist()]

    return run


def in_jit_trace(convert: Convert) -> Any:
    def function(x: torch.Tensor) -> torch.Tensor:
        y = convert(array())
        return (y + 1) * x

    traced = torch.jit.trace(function, torch.ones(3), check_trace=False)
    kinds = [node.kind() for node in traced.graph.nodes()]
    if TORCH_TIER != "direct":  # the others do not ask whether a tracer is there
        kinds = [kind for kind in kinds if kind != "aten::lift_fresh"]
    return [kinds, traced(torch.full((3,), 2.0)).tolist()]


def in_log(convert: Convert) -> Any:
    with Log() as log:
        y = convert(array())
        seen = [observe(y)]
    return [seen, log.operators]


MODES: dict[str, Callable[[Convert], Any]] = {
    "plain": in_context(),
    "no_grad": in_context(torch.no_grad),
    "inference_mode": in_context(torch.inference_mode),
    "autocast": in_context(lambda: torch.autocast("cpu", torch.bfloat16)),
    "anomaly": in_context(torch.autograd.detect_anomaly),
    "default_device_meta": in_context(lambda: torch.device("meta")),
    "fake": in_context(FakeTensorMode),
    "fake_in_inference_mode": in_context(torch.inference_mode, FakeTensorMode),
    "functionalize": in_transform(torch.func.functionalize),
    "vmap": in_transform(torch.vmap, (2, 3)),
    "grad": in_transform(torch.func.grad),
    "grad_and_value": in_transform(lambda f: lambda x: torch.func.grad_and_value(f)(x)[1]),
    "vmap_of_grad": in_transform(lambda f: torch.vmap(torch.func.grad(f)), (2, 3)),
    "grad_of_grad": in_transform(lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x).sum())),
    "vmap_of_functionalize": in_transform(lambda f: torch.vmap(torch.func.functionalize(f)), (2, 3)),
    "jacrev": in_transform(torch.func.jacrev),
    "jvp": in_jvp,
    "make_fx_real": in_make_fx("real"),
    "make_fx_fake": in_make_fx("fake"),
    "make_fx_symbolic": in_make_fx("symbolic"),
    "jit_trace": in_jit_trace,
    "dispatch_mode": in_log,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("mode", MODES)
def test_to_torch_equals_from_numpy(mode: str, conversion: str) -> None:
    ours, theirs = CONVERSIONS[conversion]
    found = MODES[mode](ours)
    expected = MODES[mode](theirs)
    assert found == expected
    assert found


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("mode", MODES)
def test_modes_leave_nothing_behind(mode: str) -> None:
    MODES[mode](dlbridge.to_torch)
    t = dlbridge.to_torch(array())
    assert observe(t) == observe(torch.from_numpy(array()))
    assert t.data_ptr() != 0
    assert (t + 1).tolist() == [2, 3, 4]


@pytest.mark.parametrize("mode", ["fake", "functionalize", "make_fx_real", "inference_mode"])
def test_comparison_detects_missing_lift(mode: str) -> None:
    plain = [torch.from_numpy(array()) for _ in range(8)]  # made outside of the mode

    def outcome(convert: Convert) -> Any:
        try:
            return MODES[mode](convert)
        except Exception as error:  # a mode may not mix with what it did not make
            return repr(error)

    assert outcome(lambda _: plain.pop()) != outcome(torch.from_numpy)


def test_writes_inside_functionalize() -> None:
    results = []
    for convert in (dlbridge.to_torch, torch.from_numpy):
        a = array()

        def function(x: torch.Tensor, convert: Convert = convert, a: np.ndarray = a) -> torch.Tensor:
            y = convert(a)
            y.add_(1)
            return y + x

        results.append((torch.func.functionalize(function)(torch.ones(3)).tolist(), a.tolist()))
    assert results[0] == results[1]


def test_exports_in_modes() -> None:
    t = torch.arange(3.0)
    seen = []

    def export(x: Any = None) -> Any:
        seen.append(dlbridge.to_numpy(t).tolist())
        seen.append(dlbridge.to_numpy(t, dtype="float64").tolist())
        seen.append(dlbridge.to_numpy(t, copy=True).tolist())
        seen.append(dlbridge.from_dlpack(t).numpy().tolist())
        return x

    with FakeTensorMode():
        export()
    with torch.inference_mode():
        export()
    with Log() as log:
        export()
    torch.vmap(export)(torch.ones(2, 3))
    torch.func.functionalize(export)(torch.ones(3))
    make_fx(export)(torch.ones(3))
    assert seen == [[0, 1, 2]] * 24
    assert log.operators == []


def test_results_take_part_in_autograd() -> None:
    t = dlbridge.to_torch(array())
    assert t.is_leaf
    t.requires_grad_()
    (t * t).sum().backward()
    assert t.grad.tolist() == [2, 4, 6]
    version = t._version
    with torch.no_grad():
        t.add_(1)
    assert t._version == version + 1
