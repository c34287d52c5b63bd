# SPDX-License-Identifier: Apache-2.0
"""Which cases there are, and the providers that a command line names."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from .case import CASES, Case
from .frameworks import FRAMEWORKS
from .frameworks_cpu import CPU_FRAMEWORKS
from .providers import Provider

TOPICS = ("elements", "order", "asyncio", "threads", "memory", "refusals", "process")
#: The frameworks that each suite knows.
SUITES = {"gpu": FRAMEWORKS, "cpu": CPU_FRAMEWORKS}


class UnknownName(ValueError):
    """A sentence for the command line."""


def all_cases(suite: str = "gpu") -> list[Case]:
    """Every case of every topic of a suite, in order."""
    for module in (*TOPICS, "cpu"):
        importlib.import_module(f".cases_{module}", __package__)
    cases = [case for case in CASES if case.suite == suite]
    return sorted(cases, key=lambda case: TOPICS.index(case.topic)) if suite == "gpu" else cases


def chosen_cases(only: str, suite: str = "gpu") -> list[Case]:
    """Those whose names match. Raises UnknownName where none does."""
    chosen = [case for case in all_cases(suite) if re.search(only, case.name)]
    if not chosen:
        raise UnknownName(f"no case is called like {only!r}: --list shows their names")
    return chosen


def make_provider(spec: str, suite: str = "gpu") -> Provider:
    """Of a name such as "torch", or of "module:Class". Raises UnknownName."""
    known = SUITES[suite]
    if spec in known:
        return known[spec]()
    module, colon, name = spec.partition(":")
    if not colon:
        raise UnknownName(f"no framework is called {spec!r}; expected one of {', '.join(known)}, or module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UnknownName(f"{spec} cannot be had: {error}") from error
    if not isinstance(made, Provider):
        raise UnknownName(f"{spec} is a {type(made).__name__}; expected a subclass of dlbridge.testing.Provider")
    if (made.device == "cpu") != (suite == "cpu"):
        wanted = "cpu" if suite == "cpu" else "cuda:0"
        raise UnknownName(f"{spec} has device = {made.device!r}; expected {wanted!r} for the suite {suite}")
    return made
