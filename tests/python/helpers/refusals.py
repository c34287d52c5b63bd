# SPDX-License-Identifier: Apache-2.0
"""The one way to look at an ExchangeError. Needs no torch, and imports nothing before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def without_gpu() -> str:
    """The code of calls that need a GPU, in a process without one."""
    import dlbridge

    return str(refusal(lambda: dlbridge.pinned_empty(1)).code)


def refusal(call: Callable[[], Any]) -> Any:
    """The ExchangeError that `call` raises; fails when it raises none. Keeps no frame, and so no argument, alive."""
    from dlbridge import ExchangeError

    try:
        call()
    except ExchangeError as error:
        return error.with_traceback(None)
    raise AssertionError("ExchangeError was not raised")
