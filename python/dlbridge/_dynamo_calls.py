# SPDX-License-Identifier: Apache-2.0
"""What Dynamo makes of dlbridge's calls in a compiled function. Importing this imports Dynamo.

A call is a graph break, except for copies from tensor to tensor: those are the operator `dlbridge::copy`. Dynamo does
not trace the Python code of this package that the calls run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import torch
from torch._dynamo import trace_rules

from . import _core

_REASON = (
    "a graph cannot hold shared memory: call {}() outside of the compiled function, or compile without fullgraph=True. "
    "A copy from tensor to tensor, dlbridge.to_torch(x, copy=True), can be part of a graph if x does not require grad"
)


@torch.library.custom_op("dlbridge::copy", mutates_args=())
def copy_tensor(
    x: torch.Tensor,
    dtype: Optional[torch.dtype] = None,  # noqa: UP045 - older torch evaluates it
    device: Optional[torch.device] = None,  # noqa: UP045
) -> torch.Tensor:
    """The copy of to_torch(x, copy=True), in the layout of torch.empty_like(x)."""
    return _core.to_torch(x, dtype=dtype, device=device, copy=True)


@copy_tensor.register_fake
def _(x: torch.Tensor, dtype: torch.dtype | None = None, device: torch.device | None = None) -> torch.Tensor:
    return torch.empty_like(x, dtype=dtype, device=device)


@copy_tensor.register_vmap
def _(info: Any, in_dims: Any, x: torch.Tensor, dtype: Any = None, device: Any = None) -> tuple[torch.Tensor, Any]:
    return copy_tensor(x, dtype, device), in_dims[0]


def _graph_break(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """What Dynamo traces in place of `call`: a break before it, which is silent."""

    def eager(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    eager.__qualname__ = name
    eager = torch.compiler.disable(eager, reason=_REASON.format(name))  # type: ignore[no-untyped-call]

    def traced(*args: Any, **kwargs: Any) -> Any:
        return eager(*args, **kwargs)

    return traced


_eager_to_torch = _graph_break("dlbridge.to_torch", _core.to_torch)


def _traced_to_torch(x: Any, /, *, device: Any = None, dtype: Any = None, copy: Any = "named", **others: Any) -> Any:
    """to_torch as Dynamo traces it: the operator where the call copies a tensor for certain, else a break."""
    if (
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and not (x.requires_grad and torch.is_grad_enabled())
        and (device is None or isinstance(device, torch.device) or device in ("cpu", "cuda"))
        and (dtype is None or isinstance(dtype, torch.dtype))
        and not others
    ):
        moves = device is not None and torch.device(device).type != x.device.type
        casts = dtype is not None and dtype != x.dtype
        if copy is True or (copy is not False and (moves or casts)):
            return torch.ops.dlbridge.copy(x, dtype, device)
    return _eager_to_torch(x, device=device, dtype=dtype, copy=copy, **others)


def _substitute(call: Callable[..., Any], by: Callable[..., Any]) -> None:
    torch.compiler.substitute_in_graph(call, skip_signature_check=True)(by)


trace_rules.SKIP_DIRS.extend(str(path) for path in Path(__file__).parent.glob("*.py") if path != Path(__file__))
trace_rules.add(f"{__package__}.testing")  # one call for all of them: each compiles a long regular expression
for _name in ("explain", "from_buffer", "from_dlpack", "shares_memory", "stage", "stage_many", "to_numpy"):
    _substitute(getattr(_core, _name), _graph_break(f"dlbridge.{_name}", getattr(_core, _name)))
for _name in ("numpy", "tobytes", "torch"):
    _substitute(getattr(_core.Tensor, _name), _graph_break(f"x.{_name}", getattr(_core.Tensor, _name)))
_substitute(_core.to_torch, _traced_to_torch)
