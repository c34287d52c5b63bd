# SPDX-License-Identifier: Apache-2.0
"""A GPU for tests on machines that have none: the CUDA simulator, put into the library that the package has loaded.

with simulated_gpu() as gpu:
    fake = gpu.array(np.arange(6).reshape(2, 3)[:, ::2], late=True)    # its bytes arrive by work on the legacy stream
    dlbridge.to_numpy(fake, device="cpu")

The simulator reports every use that is not ordered, in whatever order things happened to run, and what was not given
back; simulated_gpu() fails where there was either. Streams are ints, as DLPack counts: 1 is the legacy default stream.
The extension (tests/support/python_sim) is built where there is a CUDA toolkit; why_not() says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from build_tree import BUILD, load_module, module_file
from capsules import READ_ONLY
from dtypes import DTYPES, numpy_dtype

import dlbridge

EXTENSION = ("tests/support/python_sim", "dlbridge_sim")
LEGACY, PER_THREAD, NO_SYNC = 1, 2, -1
CUDA, CUDA_HOST, CUDA_MANAGED = 2, 3, 13  # DLPack's device types
POISON = 0xDB  # what stands where a write is under way

# CUresult
OUT_OF_MEMORY, INVALID_VALUE, ILLEGAL_ADDRESS, LAUNCH_FAILURE = 2, 1, 700, 719


SMALL, LARGE = (10, 10), (700, 700)  # shapes: through a slot of the pool, and by a strategy of its own


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dense": lambda a: a,
    "scalar": lambda a: a[1, 2, 3],
    "empty": lambda a: a[:0],
    "one_element": lambda a: a[:1, :1, :1],
    "transposed": lambda a: a.reshape(-1, a.shape[2]).T,
    "permuted": lambda a: a.transpose(2, 0, 1),
    "offset": lambda a: a[1:],
    "columns": lambda a: a[:, :, 2:],
    "stepped": lambda a: a.reshape(-1)[1::3],
    "stepped_columns": lambda a: a[::2, :, ::2],
    "backwards": lambda a: a.reshape(-1)[::-1],
    "one_axis_backwards": lambda a: a[:, ::-1, ::2],
    "broadcast": lambda a: np.broadcast_to(a[0], (3, *a[0].shape)),
    "broadcast_column": lambda a: np.broadcast_to(a[:, :1, :1], a.shape),
}


def values_of(shape: tuple[int, ...] = SMALL, first: int = 1) -> np.ndarray:
    """Successive float32 numbers."""
    return np.arange(first, first + np.prod(shape), dtype=np.float32).reshape(shape)


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for what other threads do. The limit only ends a test that would hang."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.001)


def why_not() -> str | None:
    """Why there is no simulated GPU here; None where there is one."""
    if module_file(*EXTENSION) is None:
        return (
            f"this Python's CUDA simulator is not built in {BUILD}: it needs a CUDA toolkit and scripts/setup --tests"
        )
    return None


@functools.cache
def extension() -> ModuleType:
    """dlbridge_sim, linked with the libdlbridge_cuda of the package that is imported, wherever that was installed."""
    file = module_file(*EXTENSION)
    assert file is not None, why_not()
    for library in (Path(dlbridge.__file__).parent / "lib").glob("libdlbridge_cuda.so.*"):
        age = (BUILD / "lib" / library.name).stat().st_mtime - library.stat().st_mtime
        assert abs(age) < 2, f"{library} is not the one of {BUILD}: run scripts/setup"
        ctypes.CDLL(str(library))  # a library of this name is loaded once
    return load_module(file, EXTENSION[1])


class FakeArray:
    """An array in simulated memory, as some framework would have it. It lives as long as its gpu.

    It does what a producer has to do: it makes the consumer's stream wait for the stream that its content is made on.
    """

    def __init__(
        self,
        gpu: SimulatedGpu,
        values: np.ndarray,
        *,
        stream: int = LEGACY,
        device: int = 0,
        kind: int = CUDA,
        late: bool = False,
        byte_offset: int = 0,
        read_only: bool = False,
        with_strides: bool = True,
        free_on_release: bool = False,
    ) -> None:
        self.gpu = gpu
        self.stream = stream
        self.device = (kind, device)
        self.shape, self.dtype = values.shape, values.dtype
        self.strides_bytes = values.strides
        self.read_only = read_only
        self.byte_offset = byte_offset
        self.with_strides = with_strides
        self.ledger = extension().new_ledger()
        self.requests: list[dict[str, Any]] = []  # of __dlpack__
        view = View(values)
        self.span, self.first = view.span, view.first
        self._pages: ctypes.Array[ctypes.c_char] | None = None
        self.allocation = self._allocate(byte_offset + self.span)
        self.memory = self.allocation + byte_offset
        content = view.content()
        if kind != CUDA:
            ctypes.memmove(self.memory, content, self.span)
        elif late:
            gpu.sim.enqueue_write(stream, self.memory, content)
        else:
            gpu.sim.poke(self.memory, content)
        if free_on_release:
            self.ledger.free_on_release(gpu.sim, self.allocation)

    def _allocate(self, size: int) -> int:
        kind, device = self.device
        if kind == CUDA:
            return int(self.gpu.sim.device_alloc(max(size, 1), device))
        if kind == CUDA_MANAGED:
            return int(self.gpu.sim.managed_alloc(max(size, 1), device))
        whole = -(-max(size, 1) // 4096) * 4096
        self._pages = ctypes.create_string_buffer(whole + 4096)
        address = -(-ctypes.addressof(self._pages) // 4096) * 4096
        self.gpu.sim.register_host(address, whole)
        return address

    def free(self) -> None:
        """Gives the memory back, which is a report where work on it may still run."""
        kind = self.device[0]
        if self.allocation and not self.ledger.freed:
            if kind in (CUDA, CUDA_MANAGED):
                self.gpu.sim.device_free(self.allocation)
            else:
                self.gpu.sim.unregister_host(self.allocation)
        self.allocation = 0

    @property
    def address(self) -> int:
        """Of the first element."""
        return self.memory + self.first

    @property
    def strides(self) -> tuple[int, ...]:
        """In elements, as DLPack counts."""
        return tuple(stride // self.dtype.itemsize for stride in self.strides_bytes)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def exported(self) -> int:
        """Capsules that were made of it."""
        return self.ledger.exported

    @property
    def released(self) -> int:
        """Capsules whose deleter has run."""
        return self.ledger.released

    def read(self) -> np.ndarray:
        """The elements, in the array's own layout, once its stream has nothing more to do."""
        return self.gpu.read(self, self.stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        self.requests.append({"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy})
        if dl_device is not None and tuple(dl_device) != self.device:
            raise BufferError(f"a FakeArray cannot go to {dl_device}")
        if copy:
            raise BufferError("a FakeArray cannot copy itself")
        self._let_wait(stream)
        return self.capsule(versioned=max_version is not None and max_version[0] >= 1)

    def _let_wait(self, stream: int | None) -> None:
        if self.device[0] == CUDA_HOST:
            return
        if stream == 0:
            raise ValueError("stream=0 names two streams; expected 1 (legacy), 2 (per thread), -1 or a handle")
        if stream != NO_SYNC:
            self.gpu.order(self.stream, LEGACY if stream is None else stream, self.device[1])

    def capsule(self, *, versioned: bool = True, device: tuple[int, int] | None = None) -> Any:
        """A capsule, without any order between streams; `device` may name a wrong one."""
        code, bits = DTYPES[self.dtype.name]
        return extension().capsule(
            self.ledger,
            self.address - self.byte_offset,
            list(self.shape),
            list(self.strides) if self.with_strides else None,
            [code, bits, 1],
            list(device or self.device),
            self.byte_offset,
            READ_ONLY if self.read_only else 0,
            versioned,
        )

    def as_cai(self, *, version: int = 3, **entries: Any) -> CudaArray:
        """An object with nothing but __cuda_array_interface__; `entries` go over what stands there, None included."""
        interface: dict[str, Any] = {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.nbytes else 0, self.read_only),
            "strides": self.strides_bytes,
            "version": version,
        }
        if version == 3:
            interface["stream"] = self.stream
        return CudaArray(self, {**interface, **entries})


class CudaArray:
    """An array that only __cuda_array_interface__ leads to."""

    def __init__(self, owner: FakeArray, interface: dict[str, Any]) -> None:
        self.owner = owner
        self.interface = interface
        self.asked = 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self.asked += 1
        return self.interface


class StreamObject:
    """A stream as an object: its handle under the name that some framework has for it."""

    def __init__(self, handle: int, name: str) -> None:
        if name == "__cuda_stream__":
            self.__class__ = type("CudaStream", (StreamObject,), {name: lambda _: (0, handle)})
        else:
            setattr(self, name, handle)


class Held:
    """A stream whose operations do not run before release()."""

    def __init__(self, gpu: SimulatedGpu, stream: int) -> None:
        self._gpu, self._stream = gpu, stream
        gpu.sim.hold_stream(stream)

    def release(self) -> None:
        """Lets them run; nothing happens the second time."""
        if self in self._gpu.holds:
            self._gpu.holds.remove(self)
            self._gpu.sim.go_stream(self._stream)


class SimulatedGpu:
    """The simulator, once it is installed. `sim` is the extension's object, with all that stands here and more."""

    def __init__(
        self,
        scheduler: str = "lazy",
        *,
        seed: int = 1,
        devices: int = 1,
        current: int | None = 0,
        piece_bytes: int = 0,
        **config: Any,
    ) -> None:
        config.setdefault("active", [] if current is None else list(range(devices)))
        self.sim = extension().Gpu(schedule=scheduler, seed=seed, devices=devices, **config)
        self.holds: list[Held] = []
        self._arrays: list[FakeArray] = []
        self._losses = False
        self.patience_seconds = 20.0
        self._current = current
        if current is not None:
            self.sim.use_device(current)
        self.sim.install(piece_bytes)

    # ---- memory

    def array(self, values: Any, **options: Any) -> FakeArray:
        """A new array with the elements and the layout of an ndarray; options are those of FakeArray.

        late=True: the bytes arrive by work on `stream`, poison is there before.
        """
        self._arrays.append(FakeArray(self, np.asanyarray(values), **options))
        return self._arrays[-1]

    def overwrite(self, x: Any, value: int, stream: int = LEGACY) -> None:
        """A kernel that sets every byte of the elements' memory, gaps included."""
        view = View(x)
        self.sim.enqueue_write(stream, view.begin, bytes([value]) * view.span)

    def write(self, x: Any, values: np.ndarray, stream: int = LEGACY) -> None:
        """A kernel that writes elements; their strides have to be those of `x`."""
        view, new = View(x), View(values)
        assert (new.strides, new.span) == (view.strides, view.span)
        self.sim.enqueue_write(stream, view.begin, new.content())

    def read_later(self, x: Any, stream: int = LEGACY) -> LaterRead:
        """A kernel that reads the elements; what it found is there when it has run."""
        view = View(x)
        return LaterRead(self.sim.enqueue_read(stream, view.begin, view.span), view)

    def read(self, x: Any, stream: int = LEGACY) -> np.ndarray:
        """The elements of an array on the device, read by a kernel on `stream`, which is then waited for."""
        reading = self.read_later(x, stream)
        self.sim.synchronize(stream)
        return reading.array()

    # ---- streams

    def stream(self, *, device: int = 0, blocking: bool = False) -> int:
        """A new stream, which the legacy one does not wait for unless it is `blocking`."""
        return int(self.sim.make_stream(device, blocking))

    def order(self, earlier: int, later: int, device: int = 0) -> None:
        """What `later` gets from here on waits for what `earlier` has."""
        self.sim.order(earlier, later, device)

    def synchronize(self, stream: int = LEGACY) -> None:
        self.sim.synchronize(stream)

    def hold(self, stream: int = LEGACY) -> Held:
        """Work behind it does not run before release(); other work does."""
        self.holds.append(Held(self, stream))
        return self.holds[-1]

    @contextlib.contextmanager
    def capture(self, stream: int) -> Iterator[None]:
        """The stream is being captured; it fails where something broke that."""
        self.sim.begin_capture(stream)
        try:
            yield
        finally:
            answer = self.sim.end_capture(stream)
        assert answer == 0, f"the capture was broken: {answer}\n{self.sim.complaint()}"

    # ---- failures

    def fail_next(self, call: str, n: int = 1, code: int = LAUNCH_FAILURE, *, sticky: bool = False) -> None:
        """The n-th call of this function of the table from now on fails; sticky: its device is dead from then on."""
        self.sim.fail(call, n, code, sticky)

    def expect_losses(self) -> None:
        """A device dies in this test: what it has is not given back, nor are loans."""
        self._losses = True

    # ---- what was seen

    def take_reports(self) -> list[str]:
        """The kinds of all reports so far, which are expected and now forgotten."""
        kinds = [kind for kind, _ in self.sim.reports()]
        self.sim.clear_reports()
        return kinds

    def leaks(self) -> dict[str, int]:
        """What was made through the table and not given back, where there is any."""
        return {name: count for name, count in self.sim.leaks().items() if count and name != "test_allocations"}

    def counts(self) -> dict[str, int]:
        """Calls of the functions of the table so far."""
        return dict(self.sim.counts())

    def copy_streams(self) -> list[int]:
        """Streams that something was enqueued on through the table."""
        return list(self.sim.used_streams())

    # ---- the end

    def release_all(self) -> None:
        """Lets everything go on."""
        for hold in list(self.holds):
            hold.release()
        self.sim.clear_faults()
        self.sim.go()

    def close(self, *, check: bool = True) -> None:
        """Takes the simulator out of the library, and fails where anything is not in order."""
        self.release_all()
        stack, mode = self.sim.context_stack(), self.sim.capture_mode()
        self._settle()
        self.sim.uninstall()
        self.sim.finish()
        self.sim.use_device(0)  # for what is to be unregistered
        leaks, unreleased = {}, []
        if not self._losses:
            leaks = self._leaks_of_others()
            unreleased = [(x.shape, x.exported, x.released) for x in self._arrays if x.exported != x.released]
            for array in self._arrays:
                array.free()
        complaint = self.sim.complaint()
        self.sim.use_no_device()
        self.sim.destroy()
        if not check:
            return
        assert complaint == "", complaint
        assert not leaks, f"not given back: {leaks}"
        assert not unreleased, f"shape, capsules exported, released: {unreleased}"
        assert stack == ([] if self._current is None else [self._current]), f"contexts of the thread: {stack}"
        assert self._losses or mode == 0, f"the thread's capture mode is {mode}"

    def _settle(self) -> None:
        """Waits until every operation is complete and threads unknown to Python have released what they hold."""
        gc.collect()
        extension().drain(10)
        with contextlib.suppress(AssertionError):  # close() says what was not released
            eventually(
                lambda: all(array.exported == array.released for array in self._arrays),
                0.3 if self._losses else self.patience_seconds,
            )

    def _leaks_of_others(self) -> dict[str, int]:
        """leaks() but for what this object has pinned itself."""
        leaks = self.leaks()
        ours = sum(array.device[0] == CUDA_HOST and array.allocation != 0 for array in self._arrays)
        leaks["registrations"] = leaks.get("registrations", 0) - ours
        return {name: count for name, count in leaks.items() if count}


class LaterRead:
    """What a kernel reads."""

    def __init__(self, pending: Any, view: View) -> None:
        self._pending, self._view = pending, view

    def array(self) -> np.ndarray | None:
        """The elements; None before the kernel has run."""
        content, view = self._pending.bytes(), self._view
        if len(content) != view.span:
            return None
        return np.ndarray(view.shape, view.dtype, bytearray(content or view.dtype.itemsize), view.first, view.strides)


class View:
    """Where the elements of an array lie: an ndarray, a FakeArray, a dlbridge.Tensor or a torch.Tensor."""

    def __init__(self, x: Any) -> None:
        self.shape = tuple(x.shape)
        if isinstance(x, FakeArray):
            self.dtype, self.strides, address = x.dtype, x.strides_bytes, x.address
        elif isinstance(x, np.ndarray):
            self.dtype, self.strides, address = x.dtype, x.strides, x.__array_interface__["data"][0]
        else:
            self.dtype = numpy_dtype(str(x.dtype).removeprefix("torch."))
            steps = x.stride() if callable(getattr(x, "stride", None)) else x.strides
            self.strides = tuple(step * self.dtype.itemsize for step in steps)
            address = x.data_ptr() if callable(x.data_ptr) else x.data_ptr
        reaches = [(extent - 1) * stride for extent, stride in zip(self.shape, self.strides, strict=True)]
        empty = 0 in self.shape
        self.first = 0 if empty else -sum(min(reach, 0) for reach in reaches)  # where the first element is in the span
        self.span = 0 if empty else sum(map(abs, reaches)) + self.dtype.itemsize
        self.begin = address - self.first

    def content(self) -> bytes:
        """The bytes of an ndarray, gaps included."""
        return ctypes.string_at(self.begin, self.span)


@contextlib.contextmanager
def simulated_gpu(scheduler: str = "lazy", **config: Any) -> Iterator[SimulatedGpu]:
    """An installed simulated GPU. At the end it fails where there was a report, or something was not given back."""
    gpu = SimulatedGpu(scheduler, **config)
    try:
        yield gpu
    except BaseException:
        gpu.close(check=False)
        raise
    gpu.close()
