# SPDX-License-Identifier: Apache-2.0
"""The pool of pinned memory: its numbers, and reservations."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core
from ._futures import progress_bar

if TYPE_CHECKING:
    from concurrent.futures import Future

_STEP_S = 0.1  # between two updates of a progress bar


class PoolStats(NamedTuple):
    """The pool's bytes: registered = free + owned + in_flight + quarantined + leaked. Notebooks show a table.

    >>> stats = dlbridge.pool_stats()
    >>> stats.leaked, stats.registered <= stats.limit
    (0, True)

    .. versionadded:: 0.1.0
    """

    registered: int
    """Bytes that the pool has page-locked."""
    limit: int
    free: int
    owned: int
    """By arrays that are held, and by copies that run."""
    in_flight: int
    """Dropped; a copy of dlbridge's still uses them."""
    quarantined: int
    """Dropped; other work on a stream may still use them."""
    leaked: int
    """In unknown use after a device failed: never used again."""
    hits: int
    misses: int
    grows: int
    refused: int
    """Blocks that the limit or the driver did not allow: such results are pageable."""
    register_failed: int
    """Registrations that the driver refused: each lowered the limit."""

    def _repr_html_(self) -> str:
        """Return the table of notebooks."""
        from . import _html

        return _html.pool_stats(self)


def pool_stats() -> PoolStats:
    """Return the state of the pool: bytes, and counts since the start of the process.

    Raises ExchangeError (no_driver, driver_too_old, no_device, no_staging) without a GPU.

    >>> dlbridge.pool_stats().limit > 0
    True

    .. versionadded:: 0.1.0
    """
    return PoolStats(*_core._pool_stats())


def reserve_pinned(bytes: int, background: bool = True, progress: bool = False) -> Future[int]:
    """Page-lock `bytes` more, in pieces of at most 1 GiB, each usable as soon as it is locked.

    Returns a ``concurrent.futures.Future`` at once, whose ``result()`` is `bytes`; with ``background=False`` when it is
    done. Locking takes long, and may wait for running kernels: reserve before the work that must not wait. Reserved
    memory stays until ``trim_pinned`` or ``set_pool_limit``. ``progress=True`` draws a tqdm bar.

    The result raises ExchangeError (out_of_memory) if the limit does not allow `bytes`, or if the driver refuses; what
    was locked before the refusal stays. The call itself raises what pool_stats() does.

    >>> dlbridge.reserve_pinned(1 << 20).result()
    1048576

    .. versionadded:: 0.1.0
    """
    from concurrent.futures import Future, wait  # here, since few programs reserve

    bytes = _core._byte_count(bytes)
    future: Future[int] = Future()
    before = pool_stats().registered  # raises where there is no GPU
    bar = progress_bar("B", unit_scale=True, unit_divisor=1024)(bytes) if progress else None

    def reserve() -> None:
        try:
            _core._reserve_pinned(bytes)
            future.set_result(bytes)
        except BaseException as error:
            future.set_exception(error)

    def watch(bar: Any) -> None:
        done = False
        while not done:
            done = bool(wait([future], _STEP_S).done)
            bar.update(min(bytes, max(pool_stats().registered - before, 0)) - bar.n)
        bar.close()

    # Daemons: the pool stops a reservation at the process's exit.
    threading.Thread(target=reserve, name="dlbridge-reserve", daemon=True).start()
    if bar is not None:
        watcher = threading.Thread(target=watch, args=[bar], name="dlbridge-progress", daemon=True)
        watcher.start()
        if not background:
            watcher.join()
    if not background:
        future.result()
    return future
