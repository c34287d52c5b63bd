"""Loads the adapter modules when they are first needed, torch's in the first of its tiers that can be had.

`import dlbridge` loads NumPy's only. Torch is reached in one of three tiers (docs/tiers.md):

direct    LibTorch itself. The module is compiled against exactly one torch, whose inlined code it contains; the version
          is compared here, before the module's first instruction runs.
exchange  torch's DLPack exchange table.
protocol  DLPack capsules.

The environment variable DLBRIDGE_TORCH_TIER, read when torch's adapter is first needed, allows one tier alone.
"""

import functools
import importlib
import os
from typing import NamedTuple

from . import _build_facts, _core
from ._errors import ExchangeError

TIERS = ("direct", "exchange", "protocol")
TIER_VARIABLE = "DLBRIDGE_TORCH_TIER"


class Tier(NamedTuple):
    """A way to reach torch, `none` where there is none, and why it is this one."""

    name: str
    reason: str


def load(name: str) -> None:
    """Loads and registers the adapter called `name`. Raises ExchangeError (adapter_unavailable) where it cannot."""
    if name != "torch":
        _load_module(name)
        return
    tier = torch_tier()
    if tier.name == "none":
        raise ExchangeError(tier.reason, "adapter_unavailable", "torch")
    if tier.name == "direct":
        _load_module(name)
    else:
        _core._register_torch_by_dlpack(tier.name)


def load_device_module() -> str:
    """Loads the CUDA module. Empty, or why it cannot be loaded."""
    if _build_facts.CUDA_WHY:
        return f"dlbridge was built without it ({_build_facts.CUDA_WHY}): reinstall dlbridge where a CUDA toolkit is"
    try:
        module = importlib.import_module("._cuda", __package__)
        _core._register_device_module(module.device)
    except ImportError as error:
        return str(error)
    return ""


def _load_module(name: str) -> None:
    module = importlib.import_module(f"._{name}", __package__)
    _core._register_adapter(module.adapter)


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
    passed_over: list[str] = []
    for name in [wanted] if wanted else TIERS:
        obstacle = _OBSTACLES[name](str(torch.__version__))
        if obstacle is None:
            because = f"{TIER_VARIABLE} asks for it" if wanted else "; ".join(passed_over) or _direct_reason()
            return Tier(name, because)
        passed_over.append(f"not {name}: {obstacle}")
    return Tier("none", "; ".join(passed_over))


def _direct_reason() -> str:
    return f"built for this torch ({_build_facts.TORCH_VERSION})"


def _direct_obstacle(found: str) -> str | None:
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


def _exchange_obstacle(found: str) -> str | None:
    import torch

    if "__dlpack_c_exchange_api__" not in vars(torch.Tensor):
        return f"torch is {found} and has no DLPack exchange table; expected torch 2.10 or later"
    return _protocol_obstacle(found)


def _protocol_obstacle(found: str) -> str | None:
    try:
        importlib.import_module("._torch_calls", __package__)
    except AttributeError as error:
        return f"torch is {found} and lacks what tells special tensors from plain ones ({error}): install torch 2.11"
    return None


_OBSTACLES = {"direct": _direct_obstacle, "exchange": _exchange_obstacle, "protocol": _protocol_obstacle}
