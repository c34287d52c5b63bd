# SPDX-License-Identifier: Apache-2.0
"""Loads the adapter modules when they are first needed, torch's in the first of its tiers that can be used.

`import dlbridge` loads NumPy's only. Torch is reached in one of two tiers (docs/tiers.md):

direct    LibTorch itself. The module is compiled against exactly one torch, whose inlined code it contains; the version
          is compared here, before the module's first instruction runs.
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
_MODULES = {"direct": "_torch", "exchange": "_torch_exchange"}


class Tier(NamedTuple):
    """A way to reach torch, `none` where there is none, and why it is this one."""

    name: str
    reason: str


def register() -> None:
    """Registers NumPy's adapter and announces what `load` registers later. Called once, by `import dlbridge`."""
    load("numpy")
    _core._expect_adapter("torch", "torch", "Tensor")
    for module in ("jax", "jaxlib"):  # their legacy capsules cannot say that the arrays are read-only
        _core._add_immutable_module(module)


def load(name: str) -> None:
    """Loads and registers the adapter called `name`. Raises ExchangeError (adapter_unavailable) where it cannot."""
    module = f"_{name}"
    if name == "torch":
        tier = torch_tier()
        if tier.name == "none":
            raise ExchangeError(tier.reason, "adapter_unavailable", "torch")
        module = _MODULES[tier.name]
    _core._register_adapter(importlib.import_module(f".{module}", __package__).adapter)


def load_device_module() -> str:
    """Loads the CUDA module. Returns why it cannot be loaded, or an empty string."""
    if _build_facts.CUDA_WHY:
        return f"dlbridge was built without it ({_build_facts.CUDA_WHY}): reinstall dlbridge where a CUDA toolkit is"
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
            because = f"{TIER_VARIABLE} asks for it" if wanted else "; ".join(passed_over) or _direct_reason()
            return Tier(name, because)
        passed_over.append(f"not {name}: {missing}")
    built = _build_facts.TORCH_VERSION
    remedy = f"install torch {built}, for which it was built, or torch 2.10 or later" if built else "install torch 2.10"
    return Tier("none", f"dlbridge cannot reach torch {found} ({'; '.join(passed_over)}): {remedy}")


def _direct_reason() -> str:
    return f"built for this torch ({_build_facts.TORCH_VERSION})"


def _direct_missing(found: str) -> str | None:
    built = _build_facts.TORCH_VERSION
    if not built:
        return (
            f"dlbridge was built without its torch adapter ({_build_facts.TORCH_WHY}): reinstall dlbridge into this "
            "environment now that torch is there"
        )
    if found != built:
        return (
            f"torch is {found}, dlbridge's torch adapter was built for {built}: reinstall dlbridge into this "
            "environment, or install that torch"
        )
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
