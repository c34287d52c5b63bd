# SPDX-License-Identifier: Apache-2.0
"""Which cases there are, and the providers that a command line names."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from .case import CASES, Case
from .frameworks import FRAMEWORKS
from .providers import Provider

TOPICS = ("elements", "order", "asyncio", "threads", "memory", "refusals", "process")


class UnknownName(ValueError):
    """A sentence for the command line."""


def all_cases() -> list[Case]:
    """Every case of every topic, in order."""
    for topic in TOPICS:
        importlib.import_module(f".cases_{topic}", __package__)
    return sorted(CASES, key=lambda case: TOPICS.index(case.topic))


def chosen_cases(only: str) -> list[Case]:
    """Those whose names match. Raises UnknownName where none does."""
    chosen = [case for case in all_cases() if re.search(only, case.name)]
    if not chosen:
        raise UnknownName(f"no case is called like {only!r}: --list shows their names")
    return chosen


def make_provider(spec: str) -> Provider:
    """Of a name such as "torch", or of "module:Class". Raises UnknownName."""
    if spec in FRAMEWORKS:
        return FRAMEWORKS[spec]()
    module, colon, name = spec.partition(":")
    if not colon:
        raise UnknownName(f"no framework is called {spec!r}; expected one of {', '.join(FRAMEWORKS)}, or module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UnknownName(f"{spec} cannot be had: {error}") from error
    if not isinstance(made, Provider):
        raise UnknownName(f"{spec} is a {type(made).__name__}; expected a subclass of dlbridge.testing.Provider")
    return made
