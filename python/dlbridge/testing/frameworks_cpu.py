# SPDX-License-Identifier: Apache-2.0
"""The providers of arrays in host memory that come with dlbridge: NumPy, torch and JAX."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

import dlbridge

from .frameworks import Package, TorchArrays
from .layouts import Layout
from .providers import Array, Provider, Unsupported


class HostNumpy(Package):
    """numpy.ndarray."""

    name, device = "numpy", "cpu"

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Array:
        """A view of a copy."""
        return layout.of(buffer.copy())

    def read(self, x: Any) -> Array:
        """Another copy."""
        read: Array = x.copy()
        return read

    def take(self, tensor: Any, stream: Any) -> Any:
        """numpy.from_dlpack."""
        return np.from_dlpack(tensor)

    def address(self, x: Any) -> int:
        """Of its data."""
        return int(x.ctypes.data)

    def lock(self, x: Any) -> Array:
        """A view with the flag."""
        view: Array = x.view()
        view.flags.writeable = False
        return view

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """By assignment."""
        x[...] = np.full(x.itemsize, byte, np.uint8).view(x.dtype)[0]


class HostTorch(TorchArrays):
    """torch.Tensor."""

    device = "cpu"

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """A view of a tensor that owns its memory."""
        return self.seen(self._module.tensor(buffer.view(np.uint8)), buffer, layout)

    def take(self, tensor: Any, stream: Any) -> Any:
        """dlbridge.to_torch: torch.from_dlpack makes read-only memory writable."""
        return dlbridge.to_torch(tensor)

    def address(self, x: Any) -> int:
        """Tensor.data_ptr()."""
        return int(x.data_ptr())

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """Tensor.copy_()."""
        x.copy_(self._module.tensor([byte] * x.element_size(), dtype=self._module.uint8).view(x.dtype)[0])


class HostJax(Package):
    """jax.Array, which is never writable."""

    name, device = "jax", "cpu"

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """A copy, in row-major order as all arrays of JAX."""
        if not layout.row_major:
            raise Unsupported("jax.Array has no views")
        self._same_type(buffer.dtype.name, self._module.dtypes.canonicalize_dtype(buffer.dtype).name)
        return self._module.numpy.array(layout.of(buffer), copy=True)

    @staticmethod
    def _same_type(given: str, made: str) -> None:
        if made != given:
            raise Unsupported(f"JAX makes {made} of {given}")

    def read(self, x: Any) -> Array:
        """numpy.array."""
        return np.array(x)

    def take(self, tensor: Any, stream: Any) -> Any:
        """jax.dlpack.from_dlpack, which refuses read-only memory."""
        made = importlib.import_module("jax.dlpack").from_dlpack(tensor)
        self._same_type(tensor.dtype, made.dtype.name)
        return made

    def address(self, x: Any) -> int:
        """Of its only buffer."""
        return int(x.unsafe_buffer_pointer())

    def lock(self, x: Any) -> Any:
        """All of them are."""
        return x


CPU_FRAMEWORKS: dict[str, Callable[[], Provider]] = {
    provider.name: provider for provider in (HostNumpy, HostTorch, HostJax)
}
