# SPDX-License-Identifier: Apache-2.0
"""Futures in asyncio, and groups of them."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core
from ._core import Future

if TYPE_CHECKING:
    import asyncio

    from numpy.typing import NDArray

_PIECE_BYTES = 64 << 20  # with a progress bar: what is staged between two of its steps


async def _until_done(future: Future) -> None:
    """Waits in the running loop, which the future's file descriptor wakes."""
    if future.done():
        return
    import asyncio  # here, since `await` needs it anyway

    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    # A loop watches a file descriptor for one waiter: each waiter has its own.
    fd = os.dup(future.fileno())
    try:
        loop.add_reader(fd, wake)
        try:
            await woken
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)


async def _result(future: Future) -> Any:
    await _until_done(future)
    return future.result()


def awaited(future: Future) -> Generator[Any, Any, Any]:
    """What `await future` runs."""
    return _result(future).__await__()


class _Batch(NamedTuple):
    """One operation of a group."""

    future: Future
    indices: list[int]  # of the sources that it stages
    is_batch: bool  # its result is a list, of one array for each index

    def results(self) -> list[Any]:
        result = self.future.result()
        return result if self.is_batch else [result]


class FutureGroup:
    """Several asynchronous copies: what stage_many() returns. The result is a list in the order of the sources.

    Dropping a group neither waits nor cancels.
    """

    def __init__(self, batches: list[_Batch], bar: Any = None) -> None:
        self._batches = batches
        self._bar = bar
        self._shown: set[int] = set()
        self._result: list[NDArray[Any]] | None = None

    def __len__(self) -> int:
        return sum(len(batch.indices) for batch in self._batches)

    def __repr__(self) -> str:
        return f"dlbridge.FutureGroup({len(self)} arrays, {'done' if self.done() else 'under way'})"

    def done(self) -> bool:
        """Return True if all copies have ended, with a result or an error. Never waits."""
        return all(batch.future.done() for batch in self._batches)

    def synchronize(self, timeout: float | None = None) -> None:
        """Wait as result() does and return None."""
        self.result(timeout)

    def result(self, timeout: float | None = None) -> list[NDArray[Any]]:
        """Wait at most `timeout` seconds and return the arrays, the same list on every call.

        Raises TimeoutError, or the ExchangeError that ended a copy, the first one in their order.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for batch in self._batches:
            batch.future.synchronize(None if until is None else max(0.0, until - time.monotonic()))
            self._show(batch.indices)
        return self._collect()

    def __await__(self) -> Generator[Any, Any, list[NDArray[Any]]]:
        return self._wait().__await__()

    async def _wait(self) -> list[NDArray[Any]]:
        for batch in self._batches:
            await _until_done(batch.future)
            batch.future.synchronize(0)
            self._show(batch.indices)
        return self._collect()

    def _collect(self) -> list[NDArray[Any]]:
        if self._result is None:
            found: dict[int, NDArray[Any]] = {}
            for batch in self._batches:
                found.update(zip(batch.indices, batch.results(), strict=True))
            self._result = [found[i] for i in range(len(found))]
            if self._bar is not None:
                self._bar.close()
        return self._result

    def _show(self, indices: list[int]) -> None:
        new = set(indices) - self._shown
        self._shown |= new
        if self._bar is not None:
            self._bar.update(len(new))


def _pieces(xs: list[Any]) -> Iterable[tuple[int, list[Any]]]:
    """Consecutive sources of about _PIECE_BYTES, and the index of the first one."""
    first, size, piece = 0, 0, []
    for i, x in enumerate(xs):
        piece.append(x)
        size += getattr(x, "nbytes", _PIECE_BYTES)
        if size >= _PIECE_BYTES or i + 1 == len(xs):
            yield first, piece
            first, size, piece = i + 1, 0, []


def stage_many(
    xs: Iterable[Any], /, *, device: Any = "cpu", stream: Any = None, snapshot: bool = True, progress: bool = False
) -> FutureGroup:
    """Start a copy of each tensor to the host and return a FutureGroup at once.

    Tensors of one device and stream are copied as one batch, into one pinned block. ``progress=True`` draws a tqdm bar
    during the wait, and copies in pieces of 64 MiB. To a device each tensor is copied on its own; the results are what
    ``stage(x, device=device)`` returns.
    """
    sources = list(xs)
    bar = _progress_bar(len(sources)) if progress else None
    if _is_host(device):
        batches = []
        for first, piece in _pieces(sources) if progress else [(0, sources)]:
            for future, indices in _core._stage_batch(piece, stream, snapshot):
                batches.append(_Batch(future, [first + i for i in indices], True))
    else:
        batches = [_Batch(_core.stage(x, device=device, stream=stream), [i], False) for i, x in enumerate(sources)]
    return FutureGroup(batches, bar)


def _is_host(device: Any) -> bool:
    return device in ("cpu", (1, 0)) or getattr(device, "type", None) == "cpu"


def _progress_bar(total: int) -> Any:
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("progress=True needs the package tqdm: pip install tqdm") from error
    return tqdm(total=total, unit="array")
