# SPDX-License-Identifier: Apache-2.0
"""Futures in asyncio, and the bar of stage_many(progress=True)."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from ._core import Future


async def _result(future: Future) -> Any:
    import asyncio  # here, since `await` needs it anyway

    loop = asyncio.get_running_loop()
    while not future.done():
        woken: asyncio.Future[None] = loop.create_future()

        def wake(woken: asyncio.Future[None] = woken) -> None:
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
    return future.result()


def awaited(future: Future) -> Generator[Any, Any, Any]:
    """What `await future` runs."""
    return _result(future).__await__()


def progress_bar(unit: str = "array", **options: Any) -> Callable[[int], Any]:
    """A function that draws a tqdm bar for so many units."""
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("progress=True needs the package tqdm: pip install tqdm") from error
    return lambda total: tqdm(total=total, unit=unit, **options)
