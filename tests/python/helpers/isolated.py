"""Runs a piece of Python in a process of its own: for tests of what would otherwise take the test run down with it."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HELPERS = str(Path(__file__).parent)
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")

_PRELUDE = """
import ctypes, gc, os, sys, threading, weakref
import numpy as np
import torch
import dlbridge
from dlbridge import from_dlpack, to_numpy, to_torch
"""


def run_isolated(code: str, *, timeout: float = 120, prelude: str = _PRELUDE) -> str:
    """Runs `code` after the usual imports; returns what it printed. Fails with the output where it ends badly."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
