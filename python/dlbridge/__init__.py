"""dlbridge: one array, many frameworks, one memory.

Passes tensors between frameworks without copying. A copy happens only where the call names it; what cannot be shared is
refused with the call that works.

    >>> import dlbridge, numpy
    >>> t = dlbridge.to_torch(numpy.zeros((4, 5)))    # the same memory
    >>> a = dlbridge.to_numpy(t)                      # still the same memory
"""

from . import _adapters
from ._build_facts import VERSION as __version__
from ._core import (
    Plan,
    Tensor,
    explain,
    from_dlpack,
    shares_memory,
    to_numpy,
    to_torch,
)
from ._errors import ExchangeError
from ._info import BuildInfo, build_info
from ._paths import cmake_dir

_adapters.load("numpy")

__all__ = [
    "BuildInfo",
    "ExchangeError",
    "Plan",
    "Tensor",
    "__version__",
    "build_info",
    "cmake_dir",
    "explain",
    "from_dlpack",
    "shares_memory",
    "to_numpy",
    "to_torch",
]
