# SPDX-License-Identifier: Apache-2.0
"""dlbridge: one array, many frameworks, one memory.

Passes tensors between frameworks without copying. A copy is made only where the call names it; memory that cannot be
shared is refused with an error that names the call that works.

    >>> import dlbridge, numpy
    >>> t = dlbridge.to_torch(numpy.zeros((4, 5)))    # the same memory
    >>> a = dlbridge.to_numpy(t)                      # still the same memory
"""

import importlib
from typing import Any

from . import _adapters, _dynamo
from ._build_facts import VERSION as __version__
from ._core import (
    Future,
    Plan,
    Tensor,
    explain,
    from_buffer,
    from_dlpack,
    get_num_threads,
    pinned_empty,
    record_stream,
    set_num_threads,
    set_pool_limit,
    shares_memory,
    stage,
    stage_many,
    to_numpy,
    to_torch,
    trim_pinned,
)
from ._dtypes import DType, dtypes
from ._errors import ExchangeError
from ._info import BuildInfo, build_info
from ._offload import Offload, offload
from ._paths import cmake_dir, get_include
from ._pool import PoolStats, pool_stats, reserve_pinned

_adapters.register()
_dynamo.register()


_CALLS = {  # what is looked for under the names of other packages
    "from_numpy": "dlbridge.to_torch(x)",
    "from_torch": "dlbridge.to_numpy(x)",
    "as_tensor": "dlbridge.to_torch(x)",
    "asarray": "dlbridge.to_numpy(x)",
    "to_dlpack": "dlbridge.from_dlpack(x).__dlpack__()",
    "to_jax": "jax.numpy.asarray(dlbridge.from_dlpack(x))",
}


def __getattr__(name: str) -> Any:
    """Import dlbridge.torch and dlbridge.ray, which import torch, when they are used."""
    if name in ("torch", "ray"):
        return importlib.import_module(f".{name}", __name__)
    call = f": call {_CALLS[name]}" if name in _CALLS else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{call}", name=name)


__all__ = [
    "BuildInfo",
    "DType",
    "ExchangeError",
    "Future",
    "Offload",
    "Plan",
    "PoolStats",
    "Tensor",
    "__version__",
    "build_info",
    "cmake_dir",
    "dtypes",
    "explain",
    "from_buffer",
    "from_dlpack",
    "get_include",
    "get_num_threads",
    "offload",
    "pinned_empty",
    "pool_stats",
    "record_stream",
    "reserve_pinned",
    "set_num_threads",
    "set_pool_limit",
    "shares_memory",
    "stage",
    "stage_many",
    "to_numpy",
    "to_torch",
    "trim_pinned",
]
