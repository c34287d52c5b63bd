# SPDX-License-Identifier: Apache-2.0
"""Tells whether this machine has a GPU that the examples in this folder can use."""

import importlib.util

import numpy as np

import dlbridge


def reason() -> str | None:
    """A sentence that says why they cannot run here; None if they can."""
    try:
        dlbridge.from_dlpack(np.zeros(1, np.uint8), device="cuda:0")
    except dlbridge.ExchangeError as error:
        return f"No usable GPU, so there is nothing to show: {error}"
    if importlib.util.find_spec("torch") is None:
        return "There is a GPU, but no torch, which this example needs."
    import torch

    if not torch.cuda.is_available():
        return f"There is a GPU, but torch {torch.__version__} does not see it."
    return None
