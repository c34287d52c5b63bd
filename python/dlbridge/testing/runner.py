# SPDX-License-Identifier: Apache-2.0
"""Runs cases against a provider, one after the other, each with a limit of time."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import dlbridge

from .case import Bench, Case
from .providers import Provider, Unsupported

#: After these a case counts as one that hangs. Cases have limits of their own, which are shorter.
CASE_SECONDS = 90.0


@dataclass(frozen=True)
class Outcome:
    """How one case ended: "passed", "failed" or "skipped", and why."""

    framework: str
    topic: str
    name: str
    state: str
    seconds: float = 0.0
    message: str = ""
    details: str = ""


class Worker:
    """A thread that runs one thing after another, and is left behind when one of them hangs."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def call(self, function: Callable[[], None], seconds: float) -> BaseException | None:
        """What it raised; a TimeoutError that says where it hangs."""
        raised: list[BaseException] = []
        ended = threading.Event()

        def work() -> None:
            try:
                function()
            except BaseException as error:
                raised.append(error)
            finally:
                ended.set()

        self._work.put(work)
        if not ended.wait(seconds):
            frame = sys._current_frames().get(self._thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame is not None else ""
            return TimeoutError(f"did not end in {seconds:.0f} s; it hangs here:\n{where}")
        return raised[0] if raised else None

    def end(self) -> None:
        """No more work comes."""
        self._work.put(None)


class Runner:
    """Runs and collects. `opened` is called with a framework's name before its cases, `show` with every outcome."""

    def __init__(
        self,
        seconds: float,
        show: Callable[[Outcome], None],
        case_seconds: float = CASE_SECONDS,
        opened: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.reasons: dict[str, str] = {}  # by framework: why none of its cases could run
        self.hanging = False
        self._deadline = time.monotonic() + seconds
        self._show = show
        self._case_seconds = case_seconds
        self._opened = opened

    def run(self, provider: Provider, spec: str, cases: list[Case]) -> None:
        """All cases against one framework."""
        worker = Worker()
        begin = time.monotonic()
        reason: list[str | None] = []
        error = worker.call(lambda: reason.append(self._begin(provider)), self._case_seconds)
        if error is not None:
            self._add(provider, Case("provider", "open", {}, print), error, time.monotonic() - begin)
            self._skip(provider, cases, "its provider could not be opened")
            return worker.end()
        if reason[0] is not None:
            self.reasons[provider.name] = reason[0]
            self._skip(provider, cases, reason[0])
            return worker.end()
        self._opened(provider.name)
        for number, case in enumerate(cases):
            if time.monotonic() > self._deadline:
                self._skip(provider, cases[number:], "the time was up")
                break
            self._one(provider, spec, case, worker)
            if self.hanging:
                return self._skip(provider, cases[number + 1 :], "an earlier case hangs")
        begin = time.monotonic()
        error = worker.call(provider.close, self._case_seconds)
        if error is not None:
            self._add(provider, Case("provider", "close", {}, print), error, time.monotonic() - begin)
        worker.end()

    @staticmethod
    def _begin(provider: Provider) -> str | None:
        if (why_not := provider.why_not()) is not None:
            return why_not
        provider.open()
        if (why_not := staging_error(provider.device)) is not None:
            provider.close()
        return why_not

    def _one(self, provider: Provider, spec: str, case: Case, worker: Worker) -> None:
        def work() -> None:
            try:
                case.run(Bench(provider, spec), **case.arguments)
            finally:
                provider.check()

        begin = time.monotonic()
        error = worker.call(work, self._case_seconds)
        self.hanging = isinstance(error, TimeoutError) and "it hangs here" in str(error)
        self._add(provider, case, error, time.monotonic() - begin)

    def _add(self, provider: Provider, case: Case, error: BaseException | None, seconds: float) -> None:
        state, message, details = "passed", "", ""
        if isinstance(error, Unsupported):
            state, message = "skipped", str(error)
        elif error is not None:
            state, message = "failed", f"{type(error).__name__}: {error}"
            details = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._keep(Outcome(provider.name, case.topic, case.name, state, seconds, message, details))

    def _skip(self, provider: Provider, cases: Iterable[Case], why: str) -> None:
        for case in cases:
            self._keep(Outcome(provider.name, case.topic, case.name, "skipped", 0.0, why))

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._show(outcome)


def staging_error(device: str) -> str | None:
    """Why dlbridge cannot stage to this device, in its own words; None where it can, or need not."""
    if device == "cpu":
        return None
    if not hasattr(dlbridge, "stage"):
        return f"this build of dlbridge has no CUDA module: build_info()['cuda'] is {dlbridge.build_info()['cuda']!r}"
    try:
        tensor: Any = dlbridge.from_dlpack(np.zeros(1, np.uint8), device=device)
        del tensor
    except dlbridge.ExchangeError as error:
        return f"{error.code}: {error}"
    return None
