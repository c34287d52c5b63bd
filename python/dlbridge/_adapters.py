# SPDX-License-Identifier: Apache-2.0
"""Loads the adapter modules when they are first needed, torch's in the first of its tiers that can be used.

`import dlbridge` loads NumPy's only. Torch is reached in one of two tiers (docs/tiers.md):

direct    LibTorch itself, by a module that was compiled with the headers of this minor version of torch. torch's C++
          ABI, the module's symbols and the layout of a tensor are probed before it is used.
exchange  torch's DLPack exchange table (torch >= 2.10).

The environment variable DLBRIDGE_TORCH_TIER, read when torch's adapter is first needed, allows one tier alone.
"""

import functools
import importlib
import os
from typing import NamedTuple

from . import _build_facts, _core
from ._errors import ExchangeError

TIERS = ("direct", "exchange")
TIER_VARIABLE = "DLBRIDGE_TORCH_TIER"


class Tier(NamedTuple):
    """A way to reach torch, `none` where there is none, and why it is this one."""

    name: str
    reason: str


def register() -> None:
    """Registers NumPy's adapter and announces what `load` registers later. Called once, by `import dlbridge`."""
    load("numpy")
    _core._expect_adapter("torch", "torch", "Tensor")
    for module in ("jax", "jaxlib", "tensorflow"):  # their legacy capsules cannot say that the arrays are read-only
        _core._add_immutable_module(module)


def load(name: str) -> None:
    """Loads and registers the adapter called `name`. Raises ExchangeError (adapter_unavailable) where it cannot."""
    module = f"_{name}"
    if name == "torch":
        tier = torch_tier()
        if tier.name == "none":
            raise ExchangeError(tier.reason, "adapter_unavailable", "torch")
        module = _torch_module() if tier.name == "direct" else "_torch_exchange"
    _core._register_adapter(importlib.import_module(f".{module}", __package__).adapter)


def load_device_module() -> str:
    """Loads the CUDA module. Returns why it cannot be loaded, or an empty string."""
    if _build_facts.CUDA_WHY:
        return f"dlbridge was built without it ({_build_facts.CUDA_WHY}): reinstall dlbridge without that option"
    try:
        module = importlib.import_module("._cuda", __package__)
        _core._register_device_module(module.device)
    except ImportError as error:
        return str(error)
    return ""


@functools.cache
def torch_tier() -> Tier:
    """The tier that this process reaches torch in. Imports torch. Raises ExchangeError where the variable is wrong."""
    wanted = os.environ.get(TIER_VARIABLE, "")
    if wanted and wanted not in TIERS:
        raise ExchangeError(
            f"{TIER_VARIABLE} is {wanted!r}; expected one of {', '.join(TIERS)}, or leave it unset",
            "invalid_argument",
            TIER_VARIABLE,
        )
    try:
        import torch
    except ImportError as error:
        return Tier("none", f"torch cannot be imported ({error}); expected an installed torch: pip install torch")
    found = str(torch.__version__)
    passed_over: list[str] = []
    for name in [wanted] if wanted else TIERS:
        missing = _MISSING[name](found)
        if missing is None:
            because = (
                f"{TIER_VARIABLE} asks for it"
                if wanted
                else "; ".join(passed_over) or f"its module for torch {_torch_minor()} fits"
            )
            return Tier(name, because)
        passed_over.append(f"not {name}: {missing}")
    newest = _build_facts.TORCH_MINORS[-1] if _build_facts.TORCH_MINORS else "2.10 or later"
    return Tier("none", f"dlbridge cannot reach torch {found} ({'; '.join(passed_over)}): install torch {newest}")


def _torch_minor() -> str:
    """Major and minor version of torch, such as 2.15 of 2.15.0.dev20261101+cpu."""
    import torch

    return ".".join(str(torch.__version__).split(".")[:2])


def _torch_module() -> str:
    return "_torch_" + _torch_minor().replace(".", "_")


def _direct_missing(found: str) -> str | None:
    import torch

    if not _build_facts.TORCH_MINORS:
        return (
            f"dlbridge was built without its torch adapter ({_build_facts.TORCH_WHY}): in its sources run pip install "
            "--force-reinstall --no-deps --no-cache-dir . now that torch is there"
        )
    minor, minors = _torch_minor(), _build_facts.TORCH_MINORS
    if minor not in minors:
        versions = minors[0] + (f" to {minors[-1]}" if len(minors) > 1 else "")
        return f"torch is {found}, dlbridge has direct adapters for torch {versions}"
    if not torch._C._GLIBCXX_USE_CXX11_ABI:
        return f"torch is {found} of the C++ ABI before GCC 5, dlbridge's adapter for torch {minor} of the one since"
    if torch.version.debug:
        return f"torch is {found}, a debug build, dlbridge's adapter for torch {minor} is for release builds"
    try:
        importlib.import_module(f".{_torch_module()}", __package__)
    except ImportError as error:
        return f"dlbridge's adapter for torch {minor} cannot be loaded into torch {found} ({error})"
    return None


def _exchange_missing(found: str) -> str | None:
    import torch

    if "__dlpack_c_exchange_api__" not in vars(torch.Tensor):
        return f"torch is {found} and has no DLPack exchange table; expected torch 2.10 or later"
    try:
        importlib.import_module("._torch_calls", __package__)
    except AttributeError as error:
        return f"torch is {found} and lacks a function that dlbridge calls ({error}); expected torch 2.11"
    return None


_MISSING = {"direct": _direct_missing, "exchange": _exchange_missing}
