# SPDX-License-Identifier: Apache-2.0
"""Tests of the way between GPU and NumPy that anybody can run, on their machine and against their own framework.

    python -m dlbridge.testing gpu                               the frameworks that are installed
    python -m dlbridge.testing gpu --provider mine:MyProvider    one that dlbridge does not know

A framework is described by a subclass of Provider. docs/gpu.md tells more. Nothing here needs more than NumPy.
"""

from .layouts import LAYOUTS, Layout
from .providers import Hold, Provider, Unsupported

__all__ = ["LAYOUTS", "Hold", "Layout", "Provider", "Unsupported"]
