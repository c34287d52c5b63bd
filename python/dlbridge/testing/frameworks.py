# SPDX-License-Identifier: Apache-2.0
"""The providers that come with dlbridge: its own tensors, plain CUDA memory, torch, CuPy, Numba and JAX."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

import dlbridge

from . import driver
from .case import element_type
from .layouts import Layout
from .providers import Array, Hold, Provider, Unsupported

LEGACY = 1  # DLPack's number of the legacy default stream
POOL_BYTES = 16 << 20


class Package(Provider):
    """A framework that is a package, imported when it is tested."""

    package = ""  # where it is not `name`
    _module: Any

    def why_not(self) -> str | None:
        """It can be imported, or not."""
        try:
            self._module = importlib.import_module(self.package or self.name)
        except ImportError as error:
            return f"{self.name} is not installed, or cannot be imported: {error}"
        return None


class OnDevice(Package):
    """What is common to frameworks whose streams are handles of CUDA: the driver knows them."""

    _driver: driver.Driver

    def open(self) -> None:
        """Needs a device."""
        self._driver = driver.Driver()

    def close(self) -> None:
        """Waits for what was left."""
        self._driver.synchronize()

    def synchronize(self) -> None:
        """By the driver, so everybody's work."""
        self._driver.synchronize()

    def handle(self, stream: Any) -> int:
        """CUDA's handle of one of its streams."""
        number = self.number(stream)
        return 0 if number == LEGACY else number

    def hold(self, stream: Any) -> Hold:
        """A wait for a word of host memory. The pool has room for what is staged meanwhile: growing may wait for the
        device."""
        if dlbridge.pool_stats().free < POOL_BYTES:
            with contextlib.suppress(dlbridge.ExchangeError):
                dlbridge.reserve_pinned(POOL_BYTES)
        return self._driver.hold(self.handle(stream))

    def capture(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """In the mode that forbids others nothing."""
        return self._driver.capture(self.handle(stream))

    def send(self, buffer: Array, address: int, stream: Any) -> None:
        """Enqueues a copy to device memory, out of pinned memory."""
        if buffer.nbytes == 0:
            return
        pinned = self._driver.pinned(buffer.nbytes)
        pinned[:] = buffer.view(np.uint8)
        self._driver.to_device(address, pinned, self.handle(stream))


class DeviceArray:
    """Device memory that says what it is by `__cuda_array_interface__` alone. Owns: the memory."""

    def __init__(self, owner: Any, address: int, layout: Layout, dtype: np.dtype[Any], stream: int | None) -> None:
        self.owner, self.address, self.layout, self.dtype, self.stream = owner, address, layout, dtype, stream
        self.nbytes = layout.size * dtype.itemsize

    def __del__(self) -> None:
        with contextlib.suppress(driver.DriverError):
            self.owner.free(self.address)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        item = self.dtype.itemsize
        return {
            "version": 3,
            "shape": self.layout.shape,
            "strides": tuple(stride * item for stride in self.layout.strides),
            "typestr": self.dtype.str,
            "data": (0 if self.layout.size == 0 else self.address + self.layout.offset * item, False),
            "stream": self.stream,
        }


class CudaMemory(OnDevice):
    """Memory of the driver's own, without any framework."""

    name = "cuda"

    def why_not(self) -> str | None:
        """The driver is all that it takes."""
        return driver.why_not()

    def array(self, buffer: Array, layout: Layout, stream: Any) -> DeviceArray:
        """A copy out of pinned memory, in the stream's order."""
        if buffer.dtype.str[1] == "V":
            raise Unsupported(f"__cuda_array_interface__ has no name for {buffer.dtype}")
        address = self._driver.allocate(buffer.nbytes)
        made = DeviceArray(self._driver, address, layout, buffer.dtype, self.number(stream))
        self.send(buffer, made.address, stream)
        return made

    def read(self, x: Any) -> Array:
        """Reads the whole buffer and looks at it as the layout says."""
        if isinstance(x, DeviceArray):
            return x.layout.of(self._driver.to_host(x.address, x.nbytes).view(x.dtype)).copy()
        given = x.__cuda_array_interface__
        dtype, shape = np.dtype(given["typestr"]), given["shape"]
        if given.get("strides") is not None:
            raise Unsupported("reading strided memory of others")
        nbytes = int(np.prod(shape)) * dtype.itemsize
        read: Array = self._driver.to_host(given["data"][0], nbytes).view(dtype).reshape(shape)
        return read

    def take(self, tensor: Any, stream: Any) -> Any:
        """As it is."""
        return tensor

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """cuMemsetD8Async."""
        self._driver.fill(x.address, byte, x.nbytes, self.handle(stream))

    def new_stream(self) -> int:
        """A number."""
        return self._driver.new_stream()

    def number(self, stream: Any) -> int:
        """Its handle; without a stream the legacy one."""
        return LEGACY if stream is None else int(stream)


class OwnTensors(CudaMemory):
    """dlbridge.Tensor, made by from_dlpack(device=...)."""

    name = "dlbridge"

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """Waits for the copy: so it is no work of any stream."""
        if not layout.row_major:
            raise Unsupported("dlbridge.Tensor has no views")
        return dlbridge.from_dlpack(layout.of(buffer), device=self.device)

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """cuMemsetD8Async."""
        self._driver.fill(x.data_ptr, byte, x.nbytes, self.handle(stream))


class TorchArrays(Package):
    """torch.Tensor, wherever it lies."""

    name = "torch"

    def seen(self, flat: Any, buffer: Array, layout: Layout) -> Any:
        """The bytes `flat` of the buffer as the layout says."""
        if any(stride < 0 for stride in layout.strides):
            raise Unsupported("torch.Tensor has no negative strides")
        dtype = getattr(self._module, buffer.dtype.name, None)
        if not isinstance(dtype, self._module.dtype):
            raise Unsupported(f"torch has no {buffer.dtype.name}")
        return flat.view(dtype).as_strided(layout.shape, layout.strides, layout.offset)

    def read(self, x: Any) -> Array:
        """Its bytes, through Tensor.numpy()."""
        flat = x.cpu().contiguous().reshape(-1).view(self._module.uint8).numpy()
        dtype = element_type(str(x.dtype).removeprefix("torch."))
        read: Array = flat.view(dtype).reshape(tuple(x.shape)).copy()
        return read


class Torch(TorchArrays, OnDevice):
    """torch.Tensor on a GPU."""

    def why_not(self) -> str | None:
        """torch with CUDA, and a device that it sees."""
        if (missing := super().why_not()) is not None:
            return missing
        if not self._module.cuda.is_available():
            cuda = "is built without CUDA" if self._module.version.cuda is None else "sees no GPU"
            return f"torch {self._module.__version__} {cuda}"
        return driver.why_not()

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """A copy out of pinned memory, in the stream's order."""
        with self.current(stream):
            flat = self._module.empty(buffer.nbytes, dtype=self._module.uint8, device=self.device)
            self.send(buffer, flat.data_ptr(), stream)
            return self.seen(flat, buffer, layout)

    def read(self, x: Any) -> Array:
        """After all work of torch's."""
        self._module.cuda.synchronize()
        return super().read(x)

    def take(self, tensor: Any, stream: Any) -> Any:
        """torch.from_dlpack."""
        with self.current(stream):
            return self._module.from_dlpack(tensor)

    def to_device(self, host: Array) -> Any:
        """dlbridge.to_torch, in memory of torch's allocator."""
        return dlbridge.to_torch(host, device=self.device)

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """fill_ over the storage."""
        with self.current(stream):
            self._module.empty(0, dtype=self._module.uint8, device=self.device).set_(x.untyped_storage()).fill_(byte)

    def new_stream(self) -> Any:
        """torch.cuda.Stream."""
        return self._module.cuda.Stream()

    def number(self, stream: Any) -> int:
        """Its handle."""
        stream = self._module.cuda.current_stream() if stream is None else stream
        return int(stream.cuda_stream) or LEGACY

    def current(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """torch.cuda.stream."""
        current: contextlib.AbstractContextManager[Any] = self._module.cuda.stream(stream)
        return current


class CuPy(OnDevice):
    """cupy.ndarray."""

    name = "cupy"

    def why_not(self) -> str | None:
        """CuPy, and a device that it sees."""
        if (missing := super().why_not()) is not None:
            return missing
        return driver.why_not() if self._module.is_available() else f"CuPy {self._module.__version__} sees no GPU"

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """A copy out of pinned memory, in the stream's order."""
        cupy = self._module
        with self.current(stream):
            try:
                flat = cupy.empty(buffer.shape, buffer.dtype)
            except (TypeError, ValueError) as error:
                raise Unsupported(f"CuPy has no {buffer.dtype.name}: {error}") from error
            self.send(buffer, flat.data.ptr, stream)
            strides = [stride * buffer.itemsize for stride in layout.strides]
            return cupy.lib.stride_tricks.as_strided(flat[layout.offset :], layout.shape, strides)

    def read(self, x: Any) -> Array:
        """cupy.asnumpy."""
        self._driver.synchronize()
        read: Array = self._module.asnumpy(x)
        return read

    def take(self, tensor: Any, stream: Any) -> Any:
        """cupy.from_dlpack."""
        with self.current(stream):
            return self._module.from_dlpack(tensor)

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """Over all of its memory."""
        self._driver.fill(x.data.mem.ptr, byte, x.data.mem.size, self.handle(stream))

    def new_stream(self) -> Any:
        """cupy.cuda.Stream."""
        return self._module.cuda.Stream(non_blocking=True)

    def number(self, stream: Any) -> int:
        """Its handle."""
        stream = self._module.cuda.get_current_stream() if stream is None else stream
        return int(stream.ptr) or LEGACY

    def current(self, stream: Any) -> contextlib.AbstractContextManager[Any]:
        """`with stream`."""
        if stream is None:
            return contextlib.nullcontext()
        current: contextlib.AbstractContextManager[Any] = stream
        return current


class Numba(OnDevice):
    """numba.cuda's device arrays, which have `__cuda_array_interface__` alone."""

    name, package = "numba", "numba.cuda"

    def why_not(self) -> str | None:
        """Numba's CUDA target, and a device that it sees."""
        if (missing := super().why_not()) is not None:
            return missing
        return driver.why_not() if self._module.is_available() else "Numba sees no GPU"

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """A view of a device array that was filled in the stream's order."""
        devicearray = importlib.import_module("numba.cuda.cudadrv.devicearray")
        if buffer.dtype.str[1] == "V":
            raise Unsupported(f"Numba has no {buffer.dtype.name}")
        if buffer.size == 0:
            raise Unsupported("Numba's device arrays are not empty")
        own = 0 if stream is None else stream
        flat = self._module.device_array(buffer.shape, buffer.dtype, stream=own)
        self.send(buffer, flat.device_ctypes_pointer.value, stream)
        memory = flat.gpu_data.view(layout.offset * buffer.itemsize)
        strides = tuple(stride * buffer.itemsize for stride in layout.strides)
        made = devicearray.DeviceNDArray(layout.shape, strides, buffer.dtype, stream=own, gpu_data=memory)
        made.whole_buffer = flat
        return made

    def read(self, x: Any) -> Array:
        """The whole buffer through copy_to_host, looked at on the host."""
        self._driver.synchronize()
        whole = x.whole_buffer.copy_to_host()
        begin = x.device_ctypes_pointer.value - x.whole_buffer.device_ctypes_pointer.value
        view: Array = np.ndarray(x.shape, x.dtype, whole.data, begin, x.strides).copy()
        return view

    def overwrite(self, x: Any, byte: int, stream: Any) -> None:
        """cuMemsetD8Async."""
        whole = x.whole_buffer
        self._driver.fill(
            whole.device_ctypes_pointer.value, byte, whole.size * whole.dtype.itemsize, self.handle(stream)
        )

    def new_stream(self) -> Any:
        """A stream of the driver's: those of numba.cuda.stream() wait for the legacy one."""
        return self._module.external_stream(self._driver.new_stream())

    def number(self, stream: Any) -> int:
        """Its handle."""
        if stream is None:
            return LEGACY
        handle = stream.handle
        return int(getattr(handle, "value", handle) or LEGACY)


class Jax(Package):
    """jax.Array: no strides, no writes, no streams that can be named."""

    name = "jax"

    def why_not(self) -> str | None:
        """JAX with a CUDA backend."""
        if (missing := super().why_not()) is not None:
            return missing
        try:
            self._module.devices("cuda")
        except RuntimeError as error:
            return f"JAX {self._module.__version__} sees no GPU: {str(error).splitlines()[0]}"
        return driver.why_not()

    def array(self, buffer: Array, layout: Layout, stream: Any) -> Any:
        """device_put."""
        if stream is not None:
            raise Unsupported("JAX has no streams that can be chosen")
        if not layout.row_major:
            raise Unsupported("arrays of JAX are row-major")
        if buffer.dtype.itemsize == 8 and buffer.dtype.kind in "iuf" or buffer.dtype == np.complex128:
            raise Unsupported(f"JAX has {buffer.dtype.name} in another mode only")
        return self._module.device_put(layout.of(buffer).copy(), self._module.devices("cuda")[0])

    def read(self, x: Any) -> Array:
        """numpy.asarray, which waits."""
        return np.asarray(x)

    def take(self, tensor: Any, stream: Any) -> Any:
        """jax.dlpack.from_dlpack."""
        return self._module.dlpack.from_dlpack(tensor)

    def synchronize(self) -> None:
        """An array that was computed after all others."""
        self._module.block_until_ready(self._module.device_put(0, self._module.devices("cuda")[0]) + 1)


FRAMEWORKS: dict[str, Callable[[], Provider]] = {
    provider.name: provider for provider in (OwnTensors, CudaMemory, Torch, CuPy, Numba, Jax)
}
