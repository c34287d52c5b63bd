# SPDX-License-Identifier: Apache-2.0
"""Waits for Dynamo, the tracer of torch.compile, and tells it then what dlbridge's calls are: see _dynamo_calls.py."""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_DYNAMO = "torch._dynamo"


class _WhenImported:
    """A finder of Dynamo alone, by the other finders. Tells Dynamo as soon as it is imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _DYNAMO:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                _tell()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _tell() -> None:
    """Registers the calls. A torch that cannot breaks the graph with a warning: its import must not fail for it."""
    with contextlib.suppress(Exception):
        importlib.import_module("._dynamo_calls", __package__)


def register() -> None:
    """Tells Dynamo of the calls, at once or when it is imported. Imports neither torch nor Dynamo."""
    if _DYNAMO in sys.modules:
        _tell()
    else:
        sys.meta_path.insert(0, _WhenImported())
