# SPDX-License-Identifier: Apache-2.0
"""What a conversion costs, side by side with the frameworks' own calls in one run.

    .venv/bin/python benchmarks/overhead.py [--json PATH] [--rounds N] [--calls N]

Functions are bound before the loop. A round times both sides, each first in turn; a ratio is the median of the
per-round ratios, so slow drifts of the machine cancel out. All of dlbridge's checks are on. Timings of different runs
or machines are not comparable; ratios of one run are.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dlbridge

# Runs a conversion that many times; nanoseconds a call.
Timer = Callable[[int], float]


@dataclass(frozen=True)
class Contest:
    """Two ways to the same result: ours and the one people use today."""

    name: str
    native_name: str
    native: Timer
    ours: Timer
    bar: float | None


@dataclass(frozen=True)
class Row:
    """One measured contest; nanoseconds are medians over the rounds."""

    name: str
    native: str
    native_ns: float
    dlbridge_ns: float
    ratio: float
    bar: float | None


# What the project promises of each tier (docs/tiers.md); nothing is promised of the protocol.
BARS = {
    "direct": {"to_torch": 1.8, "to_numpy": 6.0, "and back": 3.5},
    "exchange": {"to_torch": 0.8, "to_numpy": 0.8},
}


def _call(function: Callable[[Any], object], argument: object) -> Timer:
    def timer(calls: int) -> float:
        convert, source = function, argument  # locals: the loop costs next to nothing
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, calls):
            convert(source)
        return (time.perf_counter_ns() - begin) / calls

    return timer


def _round_trip(there: Callable[[Any], object], back: Callable[[Any], object], argument: object) -> Timer:
    def timer(calls: int) -> float:
        forth, home, source = there, back, argument
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, calls):
            home(forth(source))
        return (time.perf_counter_ns() - begin) / calls

    return timer


def contests() -> list[Contest]:
    """The pairs that are timed: a small array, and a strided view of 100 MB that must not be copied."""
    to_torch, to_numpy, from_dlpack = dlbridge.to_torch, dlbridge.to_numpy, dlbridge.from_dlpack
    from_numpy, tensor_numpy = torch.from_numpy, torch.Tensor.numpy
    small_array, small_tensor = np.zeros((4, 5), np.float32), torch.zeros(4, 5)
    big_array = np.zeros((5000, 10000), np.float32)[:, ::2]
    big_tensor = torch.zeros(5000, 10000)[:, ::2]
    bars = BARS.get(dlbridge.build_info()["torch_tier"], {})
    table: list[Contest] = []
    for size, array, tensor in (("(4, 5)", small_array, small_tensor), ("100 MB strided", big_array, big_tensor)):
        table += [
            Contest(
                f"to_torch(a), {size}",
                "torch.from_numpy(a)",
                _call(from_numpy, array),
                _call(to_torch, array),
                bars.get("to_torch"),
            ),
            Contest(
                f"to_numpy(t), {size}",
                "t.numpy()",
                _call(tensor_numpy, tensor),
                _call(to_numpy, tensor),
                bars.get("to_numpy"),
            ),
            Contest(
                f"array and back, {size}",
                "torch.from_numpy(a).numpy()",
                _round_trip(from_numpy, tensor_numpy, array),
                _round_trip(to_torch, to_numpy, array),
                bars.get("and back"),
            ),
            Contest(
                f"tensor and back, {size}",
                "torch.from_numpy(t.numpy())",
                _round_trip(tensor_numpy, from_numpy, tensor),
                _round_trip(to_numpy, to_torch, tensor),
                bars.get("and back"),
            ),
        ]
    table += [
        Contest(
            "from_dlpack(a)",
            "np.from_dlpack(a)",
            _call(np.from_dlpack, small_array),
            _call(from_dlpack, small_array),
            None,
        ),
        Contest(
            "from_dlpack(t)",
            "torch.from_dlpack(t)",
            _call(torch.from_dlpack, small_tensor),
            _call(from_dlpack, small_tensor),
            None,
        ),
    ]
    return table


def measure(contest: Contest, rounds: int, calls: int) -> Row:
    """Times one contest. The loop's own cost counts on both sides."""
    samples: list[tuple[float, float]] = []
    for turn in range(rounds):
        if turn % 2:
            native, ours = contest.native(calls), contest.ours(calls)
        else:
            ours, native = contest.ours(calls), contest.native(calls)
        samples.append((native, ours))
    return Row(
        contest.name,
        contest.native_name,
        statistics.median(native for native, _ in samples),
        statistics.median(ours for _, ours in samples),
        statistics.median(native / ours for native, ours in samples),
        contest.bar,
    )


def main() -> None:
    """Prints the table; writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows there")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
    rows = [measure(contest, options.rounds, options.calls) for contest in contests()]
    machine = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "dlbridge": dlbridge.__version__,
        "tier": dlbridge.build_info()["torch_tier"],
        "machine": platform.platform(),
        "rounds": options.rounds,
        "calls": options.calls,
    }
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"{'conversion':34}{'native':32}{'native ns':>10}{'dlbridge ns':>13}{'ratio':>8}{'bar':>6}")
    for row in rows:
        bar = f"{row.bar:>6.1f}" if row.bar is not None else "     -"
        print(f"{row.name:34}{row.native:32}{row.native_ns:>10.0f}{row.dlbridge_ns:>13.0f}{row.ratio:>8.2f}{bar}")
    if options.json is not None:
        options.json.write_text(
            json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
