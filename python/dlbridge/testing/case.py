# SPDX-License-Identifier: Apache-2.0
"""What a case is, and what it is given: a bench with the framework, elements to send and ways to compare them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

import dlbridge

from .layouts import LAYOUTS, Layout
from .providers import Array, Hold, Provider, Unsupported

DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
    "complex64", "complex128", "bfloat16", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip
E = TypeVar("E", bound=BaseException)
#: How long a case waits for something that has to happen.
PATIENCE_SECONDS = 15.0


@dataclass(frozen=True)
class Case:
    """One test: `topic.function[parameters]`."""

    topic: str
    function: str
    arguments: dict[str, Any]
    run: Callable[..., None] = field(compare=False)
    suite: str = "gpu"

    @property
    def name(self) -> str:
        """As --list, --only and docs/gpu.md have it."""
        shown = "-".join(str(value) for value in self.arguments.values())
        return f"{self.topic}.{self.function}" + (f"[{shown}]" if shown else "")


#: All of them, in the order in which they run. Filled by the modules cases_*.
CASES: list[Case] = []


def case(
    suite: str = "gpu", topic: str = "", /, **parameters: Iterable[Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of a Bench, perhaps an async one: once for every combination of its parameters.

    Without a topic it is that of the module's name.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        named = topic or function.__module__.rpartition(".cases_")[2]

        def run(*bench: Bench, **arguments: Any) -> None:
            ended = function(*bench, **arguments)
            if inspect.iscoroutine(ended):
                asyncio.run(ended)

        for values in itertools.product(*parameters.values()):
            arguments = dict(zip(parameters, values, strict=True))
            CASES.append(Case(named, function.__name__, arguments, run, suite))
        return function

    return register


def element_type(name: str) -> np.dtype[Any]:
    """NumPy's dtype; those of ml_dtypes where that is installed."""
    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        import ml_dtypes
    except ImportError as error:
        raise Unsupported(f"ml_dtypes is not installed, so NumPy has no {name}") from error
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def wait_for(what: str, seen: Callable[[], Any]) -> None:
    """Until `seen` gives something true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not seen():
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE_SECONDS:.0f} s"
        time.sleep(0.002)


@dataclass
class Bench:
    """What a case is given. One for each case."""

    provider: Provider
    spec: str  # by which a child process makes the provider again
    seed: int = 1

    def elements(self, dtype: str, size: int) -> Array:
        """Random elements, others in every call: any bits, but for bool."""
        self.seed += 1
        kind = element_type(dtype)
        draw = np.random.default_rng(self.seed)
        if kind == np.bool_:
            return draw.integers(0, 2, size).astype(np.bool_)
        return np.frombuffer(draw.bytes(size * kind.itemsize), np.uint8).view(kind)

    def on_device(
        self, layout: Layout | str = "dense", dtype: str = "float32", stream: Any = None
    ) -> tuple[Any, Array]:
        """An array of the framework, and what it has to hold."""
        layout = LAYOUTS[layout] if isinstance(layout, str) else layout
        buffer = self.elements(dtype, layout.size)
        return self.provider.array(buffer, layout, stream), layout.of(buffer).copy()

    def on_host(self, layout: str, dtype: str = "float32") -> Array:
        """An array of NumPy that must not be written."""
        return LAYOUTS[layout].of(self.elements(dtype, LAYOUTS[layout].size))

    def target(self, x: Any) -> Any:
        """An array of the framework as `out=` takes it."""
        tensor = dlbridge.from_dlpack(x)
        if tensor.read_only:
            raise Unsupported(f"arrays of {self.provider.name} cannot be written")
        return tensor

    def same(self, got: Any, expected: Array) -> None:
        """Fails where an array differs in shape, dtype or bits."""
        assert isinstance(got, np.ndarray), f"got {type(got).__name__}, expected ndarray"
        assert got.shape == expected.shape, f"got the shape {got.shape}, expected {expected.shape}"
        assert got.dtype == expected.dtype, f"got {got.dtype}, expected {expected.dtype}"
        if got.tobytes() != expected.tobytes():
            ours, theirs = (np.frombuffer(a.tobytes(), np.uint8) for a in (got, expected))
            wrong = np.flatnonzero(ours != theirs)
            first = int(wrong[0])
            raise AssertionError(
                f"{wrong.size} of {ours.size} bytes are wrong, the first at {first}: "
                f"{ours[first : first + 8].tobytes().hex()}, expected {theirs[first : first + 8].tobytes().hex()}"
            )

    def same_taken(self, tensor: Any, expected: Array) -> None:
        """Fails where the framework reads something else in what it takes of a dlbridge.Tensor."""
        self.same(self.provider.read(self.provider.take(tensor, None)), expected)

    def raised(self, kind: type[E], call: Callable[[], Any]) -> E:
        """The exception of this kind that the call raises."""
        try:
            call()
        except kind as error:
            return error.with_traceback(None)
        raise AssertionError(f"nothing was refused; expected {kind.__name__}")

    def refusal(self, code: str, call: Callable[[], Any]) -> dlbridge.ExchangeError:
        """The ExchangeError of this code that the call raises."""
        error = self.raised(dlbridge.ExchangeError, call)
        assert error.code == code, f"refused with the code {error.code} ({error}), expected {code}"
        return error

    @contextlib.contextmanager
    def held(self, stream: Any) -> Iterator[Hold]:
        """The stream is held up until release(), at the latest until the end of the block."""
        hold = self.provider.hold(stream)
        try:
            yield hold
        finally:
            hold.release()

    @contextlib.contextmanager
    def late(self, layout: Layout | str) -> Iterator[tuple[Any, Array, Any, Hold]]:
        """An array of the framework, what it will hold, the stream that is to write it, and the hold of that stream."""
        own = self.provider.new_stream()
        with self.held(own) as hold:
            yield (*self.on_device(layout, stream=own), own, hold)  # and is not kept: cases drop the array
