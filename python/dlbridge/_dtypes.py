# SPDX-License-Identifier: Apache-2.0
"""The dtypes of DLPack, and which of NumPy and torch are the same."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core

if TYPE_CHECKING:
    import numpy as np
    import torch


class DType(NamedTuple):
    """An element type of ``dlbridge.dtypes``: its name, and DLPack's code, bits and lanes.

    >>> dlbridge.dtypes["float32"]
    DType(name='float32', code=2, bits=32, lanes=1)
    >>> dlbridge.dtypes["float32"].numpy, dlbridge.dtypes["float32"].torch
    (dtype('float32'), torch.float32)

    .. versionadded:: 0.1.0
    """

    name: str
    code: int
    bits: int
    lanes: int

    @property
    def numpy(self) -> np.dtype[Any] | None:
        """NumPy's dtype, of ml_dtypes where NumPy has none; None where arrays of it cannot be exchanged."""
        if self not in _held("numpy"):
            return None
        import numpy as np

        try:
            found: np.dtype[Any] = np.dtype(self.name)
        except TypeError:
            found = np.dtype(getattr(importlib.import_module("ml_dtypes"), self.name))
        return found

    @property
    def torch(self) -> torch.dtype | None:
        """torch's dtype; None where tensors of it cannot be exchanged, and where torch is not installed."""
        if importlib.util.find_spec("torch") is None or self not in _held("torch"):
            return None
        import torch

        found: torch.dtype = getattr(torch, self.name)
        return found


@functools.cache
def _held(target: str) -> frozenset[DType]:
    return frozenset(DType(*row) for row in _core._dtypes(target))


class _DTypes(Mapping[str, DType]):
    """The element types of DLPack by name: a read-only mapping from str to DType.

    >>> "bfloat16" in dlbridge.dtypes, dlbridge.dtypes["bfloat16"].bits
    (True, 16)
    """

    def __init__(self) -> None:
        self._rows = {row[0]: DType(*row) for row in _core._dtypes("dlpack")}

    def __getitem__(self, name: str) -> DType:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"dlbridge.dtypes({', '.join(self)})"


dtypes: Mapping[str, DType] = _DTypes()
