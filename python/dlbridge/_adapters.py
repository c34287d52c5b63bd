"""Loads the adapter modules when they are first needed.

`import dlbridge` loads NumPy's only. Torch's direct adapter is compiled against exactly one torch, whose inlined code
it contains; the version is compared here, before the module's first instruction runs.
"""

import importlib

from . import _build_facts, _core
from ._errors import ExchangeError


def load(name: str) -> None:
    """Loads and registers the adapter called `name`. Raises ExchangeError (adapter_unavailable) where it cannot."""
    if name == "torch":
        reason = torch_obstacle()
        if reason is not None:
            raise ExchangeError(reason, "adapter_unavailable", "torch")
    module = importlib.import_module(f"._{name}", __package__)
    _core._register_adapter(module.adapter)


def torch_obstacle() -> str | None:
    """Why the direct torch adapter cannot be loaded, or None if it can. Imports torch."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error}); expected an installed torch: pip install torch"
    built = _build_facts.TORCH_VERSION
    if not built:
        return (
            f"dlbridge was built without its torch adapter ({_build_facts.TORCH_WHY}): reinstall dlbridge into this "
            "environment now that torch is there"
        )
    found = str(torch.__version__)
    if found != built:
        return (
            f"torch is {found}, dlbridge's torch adapter was built for {built}: reinstall dlbridge into this "
            "environment, or install that torch"
        )
    return None
