# SPDX-License-Identifier: Apache-2.0
"""What is active in this process."""

import importlib.util
from typing import TypedDict, cast

from . import _adapters, _build_facts, _core


class BuildInfo(TypedDict):
    """The result of build_info(): a dict, which notebooks show as a table.

    >>> info: dlbridge.BuildInfo = dlbridge.build_info()
    >>> info["torch_tier"] in ("direct", "exchange", "none")
    True

    .. versionadded:: 0.1.0
    """

    version: str
    numpy: str
    torch: str | None
    torch_tier: str
    torch_tier_reason: str
    on_write: str
    cuda: str
    dlpack: str


class _Shown(dict[str, object]):
    """The dict that is a BuildInfo, with a table for notebooks."""

    def _repr_html_(self) -> str:
        from . import _html

        return _html.build_info(self)


def describe_cuda() -> str:
    """One line about the CUDA that is needed, the driver and the devices, or about what is missing."""
    return _core._describe_device_module() or _adapters.load_device_module()


def _on_write() -> str:
    memory = _core.from_dlpack(b"1234")
    raises = _core.explain(memory, "torch", on_write="raise").verdict == "share"
    copies = _core.explain(memory, "torch", on_write="copy").verdict == "share"
    return "raise, copy" if copies else "raise" if raises else "none"


def build_info() -> BuildInfo:
    """Return versions, and which adapters and paths are active. Imports torch if it is installed.

    ``torch_tier`` is ``direct`` when tensors are reached through LibTorch itself, ``exchange`` when they are reached
    through torch's DLPack exchange table, ``none`` when torch cannot be reached; ``torch_tier_reason`` says why.
    ``on_write`` names the values of to_torch(on_write=) that share read-only memory here.
    ``dlpack`` is the version of the header this build was made with. ``cuda`` is one line about the CUDA it needs,
    the driver and the devices, or about what is missing.
    Raises ExchangeError where DLBRIDGE_TORCH_TIER names no tier.

    >>> dlbridge.build_info()["numpy"] == np.__version__
    True

    .. versionadded:: 0.1.0
    """
    import numpy

    version = None
    if importlib.util.find_spec("torch") is not None:
        import torch

        version = str(torch.__version__)
    tier = _adapters.torch_tier()
    info: BuildInfo = {
        "version": _build_facts.VERSION,
        "numpy": numpy.__version__,
        "torch": version,
        "torch_tier": tier.name,
        "torch_tier_reason": tier.reason,
        "on_write": "none" if tier.name == "none" else _on_write(),
        "cuda": describe_cuda(),
        "dlpack": _build_facts.DLPACK_VERSION,
    }
    return cast(BuildInfo, _Shown(info))
