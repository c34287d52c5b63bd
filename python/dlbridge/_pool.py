# SPDX-License-Identifier: Apache-2.0
"""The pool of pinned memory, in numbers."""

from typing import NamedTuple

from . import _core


class PoolStats(NamedTuple):
    """The pool's bytes by state: registered = free + owned + in_flight + quarantined + leaked (docs/staging.md)."""

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
    """Blocks that the limit did not allow: such results are pageable."""


def pool_stats() -> PoolStats:
    """Return the state of the pool. Raises ExchangeError (no_driver, driver_too_old, no_device, no_staging)."""
    return PoolStats(*_core._pool_stats())
