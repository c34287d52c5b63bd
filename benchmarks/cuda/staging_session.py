# SPDX-License-Identifier: Apache-2.0
"""What staging_python.py is made of: cases, command line, checked contenders, the loop over cases."""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from turns import Bar, Report, interleave, not_measured

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
WARM_UPS = 3
LATENCY_WARM_UPS = 500
STEP = 1023  # elements between those that are looked at after every round: one in each 4 KiB
Contenders = dict[str, Callable[[], float]]


def size_name(size: int) -> str:
    """ "64 MiB" """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


@dataclass(frozen=True)
class Case:
    """Bars that are measured together, by the Session's method of this name."""

    name: str
    method: str
    bars: tuple[Bar, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


class Session:
    """What the cases share: torch, CuPy where there is one, the stream and the report."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy
        import torch

        self.numpy, self.torch = numpy, torch
        self.options = options
        self.report = Report(None, {})
        self.cupy: Any = None
        if importlib.util.find_spec("cupy") is not None:
            import cupy

            self.cupy = cupy
        self.order = random.Random(options.seed)
        torch.manual_seed(options.seed)

    def facts(self) -> dict[str, str]:
        """Of what was measured with what."""
        found = {
            "device": self.torch.cuda.get_device_name(),
            "torch": str(self.torch.__version__),
            "numpy": self.numpy.__version__,
            "seed": str(self.options.seed),
            "rounds": str(self.options.rounds),
            "samples": str(self.options.samples),
        }
        if self.cupy is not None:
            found["cupy"] = self.cupy.__version__
        return found

    # ---- What contenders are made of

    def source(self, size: int) -> Any:
        """Device memory with random words."""
        tensor = self.torch.randint(-(2**31), 2**31 - 1, (size // 4,), dtype=self.torch.int32, device="cuda")
        self.torch.cuda.synchronize()
        return tensor

    def expect(self, got: Any, expected: Any, first: bool) -> None:
        """Compares one element in every page, or all; spoils what it saw."""
        step = 1 if first else STEP
        if not self.numpy.array_equal(got[::step], expected[::step]) or got[-1] != expected[-1]:
            raise RuntimeError("wrong content")
        got[::STEP] ^= -1

    def checked(self, run: Callable[[], tuple[float, Any, Callable[[], float]]], expected: Any) -> Callable[[], float]:
        """A contender: `run` answers with its seconds, the array, and what gives that back and how long it took."""
        first = [True]

        def contender() -> float:
            seconds, array, give_back = run()
            self.expect(array, expected, first[0])
            first[0] = False
            del array
            return seconds + give_back()

        return contender

    def peer(
        self, convert: Callable[[], Any], kept: list[Any] | None = None
    ) -> Callable[[], tuple[float, Any, Callable[[], float]]]:
        """A way of torch's or CuPy's."""
        clock = time.perf_counter

        def run() -> tuple[float, Any, Callable[[], float]]:
            begin = clock()
            array = convert()
            seconds = clock() - begin
            last = [array]
            if kept is not None:
                kept.append(array)

            def give_back() -> float:
                begin = clock()
                last.clear()
                return clock() - begin

            return seconds, array, give_back

        return run

    def contest(self, contenders: Contenders) -> dict[str, list[float]]:
        """Long copies."""
        return interleave(contenders, WARM_UPS, self.options.rounds, self.order)

    def pinned(self, tensor: Any) -> Callable[[], Any]:
        """Torch's quickest way that waits for the result."""
        torch = self.torch

        def copy() -> Any:
            block = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            block.copy_(tensor, non_blocking=True)
            torch.cuda.current_stream().synchronize()
            return block.numpy()

        return copy

    def race_to_device(self, size: int, ours: Callable[[Any, Any], Callable[[], object]]) -> dict[str, list[float]]:
        """From an ordinary array into device memory that is there, until it has arrived. `ours` makes our call of the
        array and the target."""
        torch, numpy = self.torch, self.numpy
        array = numpy.random.default_rng(self.options.seed).integers(-(2**31), 2**31, size // 4, numpy.int32)
        shared = torch.from_numpy(array)
        target = torch.empty(size // 4, dtype=torch.int32, device="cuda")
        expected = shared.cuda()
        synchronize = torch.cuda.current_stream().synchronize

        def arriving(send: Callable[[], object]) -> Callable[[], float]:
            def contender() -> float:
                target.fill_(-1)
                torch.cuda.synchronize()
                begin = time.perf_counter()
                send()
                synchronize()
                seconds = time.perf_counter() - begin
                if not torch.equal(target, expected):
                    raise RuntimeError("wrong content")
                return seconds

            return contender

        return self.contest({"ours": arriving(ours(array, target)), "torch": arriving(lambda: target.copy_(shared))})

    def has_room_to_hold(self, bar: Bar, size: int, limit: int) -> bool:
        """Whether every round's result can be kept; else the bar is skipped."""
        results = self.options.rounds + WARM_UPS
        if results * size <= min(limit, available_memory() // 3):
            return True
        why = f"{results} results of {size_name(size)} do not fit into the pool's limit or the free memory"
        self.report.add(not_measured(bar, "skipped", why))
        return False


def available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"{number}; expected {least} or more")
        return number

    return parse


def parser(description: str | None) -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, metavar="PATH")
    made.add_argument("--only", default="", metavar="REGEX", help="cases whose names match")
    made.add_argument("--seed", type=_at_least(0), default=1)
    made.add_argument("--rounds", type=_at_least(15), default=15)
    made.add_argument("--samples", type=_at_least(5000), default=20_000)
    made.add_argument("--seconds", type=float, default=1e9, help="no case begins after them")
    made.add_argument("--list", action="store_true")
    return made


def choose(command_line: argparse.ArgumentParser, options: argparse.Namespace, cases: list[Case]) -> list[Case]:
    """Those that --only names. Ends the program where that is none, and after --list."""
    chosen = [case for case in cases if re.search(options.only, case.name)]
    if not chosen:
        command_line.error(f"no case is called like '{options.only}'")
    if options.list:
        for case in chosen:
            for bar in case.bars:
                print(f"{case.name}: {bar.name} ({bar.figure})")
        command_line.exit()
    return chosen


def torch_reason() -> str:
    """Why torch cannot be measured; empty where it can."""
    if importlib.util.find_spec("torch") is None:
        return "no torch in this Python: nothing measured"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU: nothing measured"
    return ""


def measure(session: Session, chosen: list[Case], seconds: float) -> None:
    """Every case for which there is time; one that breaks leaves the others alone."""
    begin = time.monotonic()
    for case in chosen:
        if time.monotonic() - begin >= seconds:
            for bar in case.bars:
                session.report.add(not_measured(bar, "skipped", "the time was up"))
            continue
        before = len(session.report.entries)
        try:
            getattr(session, case.method)(case.bars, **case.arguments)
        except Exception as error:  # the other cases are worth measuring all the same
            for bar in case.bars[len(session.report.entries) - before :]:
                session.report.add(not_measured(bar, "BROKEN", f"{type(error).__name__}: {error}"))
        gc.collect()


def run(session: Session, chosen: list[Case]) -> int:
    """Measures the cases and writes the report: the program's exit status."""
    options = session.options
    session.report = Report(options.json, session.facts())
    gc.disable()
    measure(session, chosen, options.seconds)
    return 1 if session.report.any_failed() else 0
