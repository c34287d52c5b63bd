# SPDX-License-Identifier: Apache-2.0
"""Tests that anybody can run, on their machine and against their own framework.

    python -m dlbridge.testing gpu                               the way between GPU and NumPy, of what is installed
    python -m dlbridge.testing gpu --provider mine:MyProvider    of a framework that dlbridge does not know
    python -m dlbridge.testing cpu --provider mine:MyProvider    its arrays in host memory

A framework is described by a subclass of Provider. docs/gpu.md tells more. Nothing here needs more than NumPy.
"""

from .layouts import LAYOUTS, Layout
from .providers import Hold, Provider, Unsupported

__all__ = ["LAYOUTS", "Hold", "Layout", "Provider", "Unsupported"]
