# SPDX-License-Identifier: Apache-2.0
"""Claims that are checked, addresses, timings, and the tables that show them.

A call is given as text, so that what is printed is what was run and timed.
"""

import os
import re
import statistics
import textwrap
import time
import timeit
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dlbridge

WIDTH = 118
ROUNDS = 15
SECONDS_A_ROUND = 0.002


def as_array(x: Any) -> np.ndarray:
    """`x` as an array over the same memory, by its own framework: a check that does not use dlbridge."""
    if not isinstance(x, torch.Tensor):
        return np.asarray(x)
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def address(x: Any) -> int:
    """The address of the first element, from the framework."""
    return x.data_ptr() if isinstance(x, torch.Tensor) else as_array(x).__array_interface__["data"][0]


def same_memory(a: Any, b: Any) -> bool:
    """Whether two arrays of any framework have bytes in common, by NumPy."""
    return np.shares_memory(as_array(a), as_array(b))


def duration(seconds: float) -> str:
    """`seconds` in a unit that keeps the number short."""
    for unit, scale in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.0f} {unit}" if unit == "ns" else f"{seconds * scale:.1f} {unit}"
    return f"{seconds:.2f} s"


def times_as_long(seconds: float, ours: float) -> str:
    """`seconds` as a multiple of dlbridge's."""
    ratio = seconds / ours
    return f"{ratio:,.0f} x" if ratio >= 100 else f"{ratio:.1f} x" if ratio >= 0.95 else f"{ratio:.2f} x"


def bind(code: str, names: dict[str, Any]) -> str:
    """`code` with `torch.f` and `np.f` bound to plain names, so that looking `f` up in its module is not timed."""

    def plain(match: re.Match[str]) -> str:
        module, attribute = match.groups()
        names[f"{module}_{attribute}"] = getattr(names[module], attribute)
        return f"{module}_{attribute}"

    return re.sub(r"\b(torch|np|jnp)\.(\w+)", plain, code)


def busy_cpus(seconds: float = 0.2) -> float:
    """How many CPUs other processes keep busy just now; 0 where /proc/stat does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0

    def ticks() -> int:
        user, nice, system, *_ = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
        return user + nice + system

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def race(calls: Sequence[str], names: dict[str, Any]) -> list[float]:
    """Median seconds of one run of each call: several rounds, in each of which every call has its turn."""
    timers = [timeit.Timer(bind(call, names), globals=names) for call in calls]
    turns = [max(1, int(SECONDS_A_ROUND / (timer.timeit(3) / 3))) for timer in timers]
    samples: list[list[float]] = [[] for _ in timers]
    for _ in range(ROUNDS):
        for timer, turn, sample in zip(timers, turns, samples, strict=True):
            sample.append(timer.timeit(turn) / turn)
    return [statistics.median(sample) for sample in samples]


def plan_of(call: str, names: dict[str, Any]) -> dlbridge.Plan | None:
    """What explain() says beforehand about a call of to_torch or to_numpy; None for any other call."""
    match = re.fullmatch(r"to_(torch|numpy)\((.+?)(, .+)?\)", call)
    if match is None:
        return None
    target, source, options = match.groups()
    return eval(f"explain({source}, {target!r}{options or ''})", names)


@dataclass
class Report:
    """Prints, and counts the claims that hold and those that do not."""

    held: int = 0
    broken: list[str] = field(default_factory=list)

    def claim(self, what: str, holds: bool) -> None:
        """Notes whether `what` is true in this run. A false claim is printed at once and fails the run."""
        if holds:
            self.held += 1
        else:
            self.broken.append(what)
            print(f"     CLAIM IS FALSE: {what}")

    def say(self, text: str, indent: int = 5) -> None:
        """Prints a paragraph."""
        print(textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent))

    def heading(self, text: str) -> None:
        """Begins a section."""
        print(f"\n{text}\n{'=' * len(text)}")


class Trace:
    """The way of one photograph: a row for each hop."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.hops: list[Any] = []
        header = ("", "hop", "in", "shape", "strides", "dtype", "address", "time", "own call's")
        print("{:>2} {:<35} {:<5} {:<10} {:<13} {:<7} {:<14} {:>9} {:>10}".format(*header))
        self.started = time.perf_counter()

    def hop(self, call: str, value: Any, *, over: Any = None, why: str = "", own: str = "", **names: Any) -> None:
        """Shows `value`, which `call` has just made, beside everything that came before.

        `over`: what it is claimed to share memory with; if None, it is claimed to have memory of its own, for the
        reason `why`. `own`: the framework's own call, to be timed beside `call`, both with `names`.
        """
        took = time.perf_counter() - self.started
        times = [took]
        if own:
            names |= vars(dlbridge) | {"torch": torch, "np": np}
            times = race([call, own], names)
        handle = dlbridge.from_dlpack(value)
        shared_with = [number for number, earlier in enumerate(self.hops, 1) if same_memory(earlier, value)]
        self.hops.append(value)
        self._print_row(call, value, handle, times)
        self._print_memory(handle.nbytes, shared_with, why, own, times)
        self.report.claim(f"{call}: the handle has the framework's address", handle.data_ptr == address(value))
        if over is None:
            self.report.claim(f"{call} has memory of its own", not shared_with)
        else:
            self.report.claim(f"{call} shares memory", same_memory(value, over) and dlbridge.shares_memory(value, over))
        if plan := plan_of(call, names) if own else None:
            self.report.claim(f"explain predicts {call}", (plan.verdict == "share") == (over is not None))
            self.report.claim(f"explain counts {call}'s bytes", plan.bytes == (handle.nbytes if over is None else 0))
        self.started = time.perf_counter()

    def _print_row(self, call: str, value: Any, handle: dlbridge.Tensor, times: list[float]) -> None:
        framework = "torch" if isinstance(value, torch.Tensor) else "NumPy"
        shape, strides = "x".join(map(str, handle.shape)), ",".join(map(str, handle.strides))
        where, clock = f"{handle.data_ptr:#x}", [duration(seconds) for seconds in times] + ["-"]
        print(
            f"{len(self.hops):>2} {call:<35} {framework:<5} {shape:<10} {strides:<13} {handle.dtype:<7} {where:<14} "
            f"{clock[0]:>9} {clock[1]:>10}"
        )

    def _print_memory(self, nbytes: int, shared_with: list[int], why: str, own: str, times: list[float]) -> None:
        if shared_with:
            memory = f"shared with {', '.join(map(str, shared_with))}" + (f": {why}" if why else "")
        else:
            memory = f"copied {nbytes:,} bytes: {why}" if own else f"new memory, {nbytes:,} bytes: {why}"
        beside = f"; own call {own}: {times_as_long(times[1], times[0])}" if own else ""
        self.report.say(memory + beside, 3)


@dataclass
class Outcome:
    """What one call was seen to do."""

    call: str
    result: Any = None
    error: Exception | None = None
    warning: str = ""
    shared: bool = False
    plan: dlbridge.Plan | None = None

    @property
    def verdict(self) -> str:
        """`shared`, `copied` or `refused`."""
        return "refused" if self.error else "shared" if self.shared else "copied"

    @property
    def memory(self) -> str:
        """The verdict with the address or the bytes."""
        if self.error:
            return f"refused  {type(self.error).__name__}"
        array = as_array(self.result)
        return f"{self.verdict:<7}  " + (f"at {address(array):#x}" if self.shared else f"{array.nbytes:,} bytes")


class Case:
    """One thing people want, as they know it and with dlbridge: run, compare, time, print."""

    def __init__(self, report: Report, title: str, **names: Any) -> None:
        self.report = report
        self.names = {"np": np, "torch": torch, **vars(dlbridge), **names}
        self.outcomes: list[Outcome] = []
        print(f"\n{title}")

    def run(self, call: str, source: str) -> Outcome:
        """Runs `call` and compares what it gives with the object called `source`."""
        outcome = Outcome(call, plan=plan_of(call, self.names))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                outcome.result = eval(call, self.names)
            except Exception as error:  # a refusal is an outcome like any other
                outcome.error = error
        outcome.warning = " ".join(str(entry.message) for entry in caught)
        if outcome.error is None:
            outcome.shared = same_memory(outcome.result, self.names[source])
        self.outcomes.append(outcome)
        return outcome

    def expect(self, call: str, source: str, verdict: str) -> Outcome:
        """run(), for a call of dlbridge: claims the verdict, and that explain() predicts it with the bytes."""
        outcome = self.run(call, source)
        plan = outcome.plan
        found = f"{outcome.memory} {outcome.error or ''}"
        self.report.claim(f"{call} is {verdict} (found: {found})", outcome.verdict == verdict)
        if plan is not None:
            predicted = {"share": "shared", "refuse": "refused"}.get(plan.verdict, "copied")
            self.report.claim(f"explain predicts {call} (it said {plan.verdict})", predicted == outcome.verdict)
        if outcome.error is not None:
            self.report.claim(f"{call} raises ExchangeError", isinstance(outcome.error, dlbridge.ExchangeError))
            self.report.claim(f"{call} raises what explain says", plan is None or str(outcome.error) == plan.message)
        else:
            nbytes = 0 if outcome.shared else as_array(outcome.result).nbytes
            self.report.claim(f"explain counts {call}'s bytes", plan is None or plan.bytes == nbytes)
        return outcome

    def show(self, *, timed: bool = True) -> None:
        """Prints a row for each call, with its time where it gave a result and its ratio to dlbridge's."""
        running = [outcome.call for outcome in self.outcomes if timed and outcome.error is None]
        times = dict(zip(running, race(running, self.names), strict=True))
        bridge = [seconds for call, seconds in times.items() if call.startswith("to_")]
        for outcome in self.outcomes:
            seconds = times.get(outcome.call)
            clock = duration(seconds) if seconds else ""
            stock = bridge and not outcome.call.startswith("to_")
            ratio = times_as_long(seconds, bridge[-1]) if seconds and stock else ""
            print(f"   {outcome.call:<56} {outcome.memory:<32} {clock:>10} {ratio:>8}".rstrip())
            self._print_remark(outcome)

    def _print_remark(self, outcome: Outcome) -> None:
        first_line = str(outcome.error or outcome.warning).partition("\n")[0]
        if outcome.plan is not None and outcome.verdict != "shared":
            self.report.say(f"explain: {outcome.plan.verdict}: {outcome.plan.message}", 7)
        elif outcome.error or outcome.warning:
            kind = "error" if outcome.error else "warning"
            self.report.say(f"{kind}: {textwrap.shorten(first_line, 170, placeholder=' ...')}", 7)
