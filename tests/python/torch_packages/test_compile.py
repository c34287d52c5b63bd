# SPDX-License-Identifier: Apache-2.0
"""torch.compile and torch.export: a conversion is a silent graph break or an operator; no graph holds a pointer."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import Unsupported
from torch._dynamo.utils import counters

import dlbridge

Function = Callable[[torch.Tensor, np.ndarray], torch.Tensor]

FIXED = np.ones(1)
BYTES = FIXED.tobytes()  # Python code of dlbridge makes an array over it
# Of a tensor and an array, which is another one in every call.
BREAKS: dict[str, Function] = {
    "to_torch": lambda x, a: x * dlbridge.to_torch(a) + 1,
    "to_torch_of_tensor": lambda x, a: dlbridge.to_torch(x + 1) * float(a[0]),
    "to_torch_of_broadcast": lambda x, a: x * dlbridge.to_torch(np.broadcast_to(a, (3, 3)), copy=None),
    "container": lambda x, a: dlbridge.to_torch({"a": [a, x]})["a"][0] * x,
    "to_numpy": lambda x, a: x * float(dlbridge.to_numpy(x + 1)[1]) * float(a[0]),
    "from_dlpack": lambda x, a: dlbridge.from_dlpack(a).torch() * x,
    "handle.numpy": lambda x, a: x * float(dlbridge.from_dlpack(a).numpy()[0]),
    "handle.tobytes": lambda x, a: x * len(dlbridge.from_dlpack(FIXED).tobytes()) + float(a[0]),  # Dynamo guards bytes
    "from_buffer": lambda x, a: x * dlbridge.from_buffer(BYTES, "float64").torch(copy=True) + float(a[0]),
    "explain": lambda x, a: x * len(dlbridge.explain(a, "torch").verdict) + float(a[0]),
    "shares_memory": lambda x, a: x + float(a[0]) if dlbridge.shares_memory(x, x) else x,
}


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also the warnings that Dynamo gives once a process
        warnings.filterwarnings("ignore", "The given buffer is not writable")  # torch.export.load() of torch 2.11
        torch._dynamo.utils.warn_once_cache.clear()
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", BREAKS)
def test_calls_break_the_graph_silently(name: str) -> None:
    function = BREAKS[name]
    compiled = torch.compile(function, backend="eager")
    x = torch.arange(3.0)
    traced = []
    for n in range(5):
        a = np.full(3, n + 1.0)
        assert torch.equal(compiled(x + n, a), function(x + n, a))
        traced.append(counters["frames"]["total"])
    assert counters["graph_break"]
    assert traced[1:] == [traced[1]] * 4, "recompiled for each array"


@pytest.mark.parametrize("name", BREAKS)
def test_fullgraph_says_what_to_do(name: str) -> None:
    compiled = torch.compile(BREAKS[name], backend="eager", fullgraph=True)
    with pytest.raises(Unsupported, match=r"call [a-z_.]+\(\) outside of the compiled function"):
        compiled(torch.ones(3), np.ones(3))


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "dense": lambda: torch.arange(24.0).view(2, 3, 4),
    "permuted": lambda: torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
    "strided": lambda: torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1)[::2],
    "expanded": lambda: torch.arange(4.0)[:, None].expand(4, 3),
    "conjugated": lambda: torch.complex(torch.ones(3), torch.ones(3)).conj(),
    "empty": lambda: torch.empty(0, 3),
}
COPIES: dict[str, dict[str, Any]] = {
    "copy": {"copy": True},
    "cast": {"dtype": torch.complex128},
    "copied_cast": {"dtype": torch.complex64, "copy": True},
    "device": {"device": "cpu", "copy": True},
}
MODES: dict[str, Callable[[], Any]] = {
    "plain": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def seen(t: torch.Tensor) -> tuple[Any, ...]:
    return t.tolist(), t.stride(), t.dtype, t.device, t.requires_grad, t.is_inference()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("copy", COPIES)
def test_copy_of_tensor_is_part_of_the_graph(copy: str, mode: str) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return dlbridge.to_torch(x, **COPIES[copy])

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for make in LAYOUTS.values():
        x = make()
        with MODES[mode]():
            found, expected = compiled(x), function(x)
        assert seen(found) == seen(expected)
        assert found.numel() == 0 or not dlbridge.shares_memory(found, x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_operator_keeps_the_rules_of_torch(layout: str) -> None:
    operator = torch.ops.dlbridge.copy.default
    for arguments in ((), (torch.complex128,), (None, torch.device("cpu"))):
        torch.library.opcheck(operator, (LAYOUTS[layout](), *arguments))


def test_tensor_that_requires_grad_is_refused() -> None:
    compiled = torch.compile(lambda x: dlbridge.to_torch(x * 2, copy=True), backend="eager")
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(dlbridge.ExchangeError) as caught:
        compiled(w)
    assert caught.value.code == "requires_grad"
    with torch.no_grad():
        assert compiled(w).tolist() == [2, 2, 2]


class Subclass(torch.Tensor):
    pass


def test_calls_that_are_no_operator_are_as_outside() -> None:
    compiled = torch.compile(lambda x, device: dlbridge.to_torch(x, copy=True, device=device), backend="eager")
    assert type(compiled(torch.ones(2).as_subclass(Subclass), None)) is torch.Tensor
    with pytest.raises(dlbridge.ExchangeError, match="device is 'gpu'"):
        compiled(torch.ones(2), "gpu")


def test_operator_inside_vmap() -> None:
    compiled = torch.compile(torch.vmap(lambda x: dlbridge.to_torch(x, copy=True) + 1), backend="eager", fullgraph=True)
    assert compiled(torch.arange(6.0).view(3, 2).t()).tolist() == [[1, 3, 5], [2, 4, 6]]


class Program(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.forward = function


def exported(function: Callable[[torch.Tensor], torch.Tensor], strict: bool) -> torch.export.ExportedProgram:
    return torch.export.export(Program(function), (torch.ones(3),), strict=strict)


def test_exported_program_copies_by_the_operator() -> None:
    program = exported(lambda x: dlbridge.to_torch(x + 1, copy=True, dtype=torch.float64) * 2, strict=True)
    assert "dlbridge.copy.default" in [str(node.target) for node in program.graph.nodes]
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    assert seen(loaded(torch.full((3,), 4.0))) == seen(torch.full((3,), 10.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("strict", "function", "error"),
    [
        (True, lambda x: x * float(dlbridge.to_numpy(x)[0]), Unsupported),
        (True, lambda x: x * dlbridge.to_torch(np.ones(3)), Unsupported),
        (False, lambda x: x * float(dlbridge.to_numpy(x)[0]), dlbridge.ExchangeError),
        (False, lambda x: dlbridge.to_torch(x, copy=True), dlbridge.ExchangeError),
    ],
)
def test_export_refuses_shared_memory(strict: bool, function: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="outside of the compiled function|before the mode"):
        exported(function, strict=strict)


def test_array_in_exported_program_is_a_constant() -> None:
    a = np.arange(3.0)
    program = exported(lambda x: x * dlbridge.to_torch(a), strict=False)
    file = io.BytesIO()
    torch.export.save(program, file)
    a[:] = 7
    file.seek(0)
    assert torch.export.load(file).module()(torch.ones(3)).tolist() == [0, 1, 2]
    assert dlbridge.shares_memory(next(iter(program.constants.values())), a)  # held, as of torch.from_numpy(a)


def test_dynamo_may_be_imported_first() -> None:
    program = """
import torch._dynamo, numpy, dlbridge
compiled = torch.compile(lambda x, a: dlbridge.to_torch(a) * x, backend="eager")
assert compiled(torch.ones(2), numpy.ones(2)).tolist() == [1, 1]
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
