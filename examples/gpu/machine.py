"""Whether this machine has a GPU that the examples beside this file can use."""

import importlib.util

import numpy as np

import dlbridge


def obstacle() -> str | None:
    """Why they cannot run here, as a sentence; None where they can."""
    try:
        dlbridge.from_dlpack(np.zeros(1, np.uint8), device="cuda:0")
    except dlbridge.ExchangeError as error:
        return f"No GPU to use, so there is nothing to show: {error}"
    if importlib.util.find_spec("torch") is None:
        return "There is a GPU, but no torch, which this example computes with."
    import torch

    if not torch.cuda.is_available():
        return f"There is a GPU, but torch {torch.__version__} does not see it."
    return None
