# SPDX-License-Identifier: Apache-2.0
"""What a conversion that shares memory costs, beside other ways to the same result, all in one run.

    .venv/bin/python benchmarks/overhead.py [--json PATH] [--rounds N] [--calls N]

Peers are the frameworks' own calls, TVM FFI, nanobind and JAX where they can be imported, and the floor: the objects
and references that the result cannot do without (benchmarks/floor.cpp). Functions are bound before the loop. A round
times every side of a contest, in turn another one first; a ratio is the median of the per-round ratios, with its
quartiles, so slow drifts of the machine cancel out. All of dlbridge's checks are on. Ratios of one run can be compared;
timings of different runs or machines cannot.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dlbridge

ROOT = Path(__file__).resolve().parent.parent

# Runs a conversion that many times; nanoseconds a call.
Timer = Callable[[int], float]


@dataclass(frozen=True)
class Contest:
    """Our way to a result, and those of others by name. Goals are ratios to others' times."""

    name: str
    ours: Timer
    peers: dict[str, Timer]
    goals: dict[str, float]


@dataclass(frozen=True)
class Row:
    """One peer of a contest; nanoseconds are medians over the rounds, a ratio above 1 says that dlbridge is faster."""

    name: str
    peer: str
    peer_ns: float
    dlbridge_ns: float
    ratio: float
    quartiles: tuple[float, float]
    goal: float | None


# What the project promises of a tier (docs/tiers.md): the frameworks' time to ours.
GOALS = {
    "direct": {
        "torch.from_numpy(a)": 1.8,
        "t.numpy()": 6.0,
        "torch.from_numpy(a).numpy()": 3.5,
        "torch.from_numpy(t.numpy())": 3.5,
    },
    "exchange": {"torch.from_numpy(a)": 0.8, "t.numpy()": 0.8},
}


def call(function: Callable[[Any], object], argument: object) -> Timer:
    """Times function(argument)."""

    def timer(calls: int) -> float:
        convert, source = function, argument  # locals: the loop costs next to nothing
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, calls):
            convert(source)
        return (time.perf_counter_ns() - begin) / calls

    return timer


def call_method(method: Callable[[], object]) -> Timer:
    """Times method()."""

    def timer(calls: int) -> float:
        convert = method
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, calls):
            convert()
        return (time.perf_counter_ns() - begin) / calls

    return timer


def round_trip(there: Callable[[Any], object], back: Callable[[Any], object], argument: object) -> Timer:
    """Times back(there(argument))."""

    def timer(calls: int) -> float:
        forth, home, source = there, back, argument
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, calls):
            home(forth(source))
        return (time.perf_counter_ns() - begin) / calls

    return timer


def imported(name: str, folder: str | None = None) -> Any:
    """A module, also of the build tree, or None."""
    if folder is not None:
        sys.path.append(str(Path(os.environ.get("DLBRIDGE_BUILD_DIR", ROOT / "build" / "release")) / folder))
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def contests() -> list[Contest]:
    """What is timed: a small array, a strided view of 100 MB that must not be copied, handles, containers."""
    to_torch, to_numpy, from_dlpack = dlbridge.to_torch, dlbridge.to_numpy, dlbridge.from_dlpack
    from_numpy, tensor_numpy = torch.from_numpy, torch.Tensor.numpy
    floor, tvm = imported("floor", "benchmarks"), imported("tvm_ffi")
    nanobind, jax = imported("nanobind_peer", "tests/interop"), imported("jax")
    goals = GOALS.get(dlbridge.build_info()["torch_tier"], {})
    a, t = np.zeros((4, 5), np.float32), torch.zeros(4, 5)
    wide_a, wide_t = np.zeros((5000, 10000), np.float32)[:, ::2], torch.zeros(5000, 10000)[:, ::2]
    h, g = from_dlpack(a), from_dlpack(t)
    batch = [np.zeros((4, 5), np.float32) for _ in range(64)]
    loop_of_from_numpy = {"a loop over torch.from_numpy": call(lambda x: [from_numpy(leaf) for leaf in x], batch)}
    handles: dict[str, dict[str, Timer]] = {"a": {"np.from_dlpack(a)": call(np.from_dlpack, a)}, "t": {}}
    handles["t"]["torch.from_dlpack(t)"] = call(torch.from_dlpack, t)
    if tvm is not None:
        handles["a"]["tvm_ffi.from_dlpack(a)"] = call(tvm.from_dlpack, a)
        handles["t"]["tvm_ffi.from_dlpack(t)"] = call(tvm.from_dlpack, t)
    if nanobind is not None:
        handles["a"]["nanobind argument"] = call(nanobind.take, a)
        handles["t"]["nanobind argument"] = call(nanobind.take, t)
    if jax is not None:
        handles["a"]["jax.dlpack.from_dlpack(a)"] = call(jax.dlpack.from_dlpack, a)

    def with_floor(peers: dict[str, Timer], function: str, x: object) -> dict[str, Timer]:
        return peers if floor is None else peers | {"floor": call(getattr(floor, function), x)}

    def back(x: object) -> dict[str, Timer]:
        return {} if floor is None else {"floor": round_trip(floor.to_torch, floor.to_numpy, x)}

    table = []
    for size, array, tensor in (("(4, 5)", a, t), ("100 MB strided", wide_a, wide_t)):
        small = array is a
        to_numpy_peers = {"t.numpy()": call(tensor_numpy, tensor)}
        if small and tvm is not None:
            to_numpy_peers["np.from_dlpack(tvm_ffi.from_dlpack(t))"] = round_trip(
                tvm.from_dlpack, np.from_dlpack, tensor
            )
        there, home = (
            {"torch.from_numpy(a)": call(from_numpy, array)},
            {"torch.from_numpy(a).numpy()": round_trip(from_numpy, tensor_numpy, array)},
        )
        table += [
            Contest(
                f"to_torch(a), {size}",
                call(to_torch, array),
                with_floor(there, "to_torch", array) if small else there,
                goals,
            ),
            Contest(
                f"to_numpy(t), {size}",
                call(to_numpy, tensor),
                with_floor(to_numpy_peers, "to_numpy", tensor) if small else to_numpy_peers,
                goals,
            ),
            Contest(
                f"array and back, {size}",
                round_trip(to_torch, to_numpy, array),
                home | (back(array) if small else {}),
                goals,
            ),
            Contest(
                f"tensor and back, {size}",
                round_trip(to_numpy, to_torch, tensor),
                {"torch.from_numpy(t.numpy())": round_trip(tensor_numpy, from_numpy, tensor)},
                goals,
            ),
        ]
    table += [
        Contest("from_dlpack(a)", call(from_dlpack, a), with_floor(handles["a"], "from_array", a), {}),
        Contest("from_dlpack(t)", call(from_dlpack, t), with_floor(handles["t"], "from_tensor", t), {}),
        Contest(
            "h.numpy()",
            call_method(h.numpy),
            {"to_numpy(h)": call(to_numpy, h), "np.from_dlpack(h)": call(np.from_dlpack, h)},
            {},
        ),
        Contest(
            "h.torch()",
            call_method(g.torch),
            {"to_torch(h)": call(to_torch, g), "torch.from_dlpack(h)": call(torch.from_dlpack, g)},
            {},
        ),
        Contest(
            "to_torch of 64 arrays",
            call(to_torch, batch),
            with_floor(loop_of_from_numpy, "to_torch_list", batch),
            {},
        ),
    ]
    return table


def measure(contest: Contest, rounds: int, calls: int) -> list[Row]:
    """Times one contest. The loop's own cost counts on every side."""
    sides = [contest.ours, *contest.peers.values()]
    samples: list[list[float]] = []
    for turn in range(rounds):
        order = sorted(range(len(sides)), key=lambda side: (side + turn) % len(sides))
        times = [0.0] * len(sides)
        for side in order:
            times[side] = sides[side](calls)
        samples.append(times)
    ours = statistics.median(times[0] for times in samples)
    rows = []
    for place, peer in enumerate(contest.peers, 1):
        ratios = [times[place] / times[0] for times in samples]
        low, middle, high = statistics.quantiles(ratios, n=4)
        peer_ns = statistics.median(times[place] for times in samples)
        rows.append(Row(contest.name, peer, peer_ns, ours, middle, (low, high), contest.goals.get(peer)))
    return rows


def flatness(rounds: int, calls: int) -> dict[str, list[tuple[int, float]]]:
    """Nanoseconds of to_torch and to_numpy against the rank (0 to 32) and the size in bytes (4 B to 1 GB)."""
    ranks = {rank: np.zeros((1,) * rank, np.float32) for rank in (0, 1, 2, 4, 8, 16, 32)}
    sizes = {4 * count: np.empty(count, np.float32) for count in (1, 1 << 10, 1 << 20, 1 << 28)}
    table: dict[str, list[tuple[int, float]]] = {}
    for axis, arrays in (("rank", ranks), ("bytes", sizes)):
        timers = {
            (name, x): call(function, array if name == "to_torch" else torch.from_numpy(array))
            for x, array in arrays.items()
            for name, function in (("to_torch", dlbridge.to_torch), ("to_numpy", dlbridge.to_numpy))
        }
        times: dict[tuple[str, int], list[float]] = {key: [] for key in timers}
        for _ in range(rounds):
            for key, timer in timers.items():
                times[key].append(timer(calls))
        for (name, x), found in times.items():
            table.setdefault(f"{name} by {axis}", []).append((x, statistics.median(found)))
    return table


def main() -> None:
    """Prints the tables; writes them as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the rows there")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--calls", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    gc.disable()
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
    print(f"{'conversion':32}{'beside':42}{'its ns':>9}{'dlbridge ns':>13}{'ratio':>8}  {'quartiles':14}{'goal':>6}")
    rows: list[Row] = []
    for contest in contests():
        calls = options.calls if "64" not in contest.name else max(options.calls // 64, 1)
        for row in measure(contest, options.rounds, calls):
            rows.append(row)
            spread, goal = (
                f"{row.quartiles[0]:.2f}-{row.quartiles[1]:.2f}",
                f"{row.goal:.1f}" if row.goal is not None else "-",
            )
            print(
                f"{row.name:32}{row.peer:42}{row.peer_ns:>9.0f}{row.dlbridge_ns:>13.0f}{row.ratio:>8.2f}"
                f"  {spread:14}{goal:>6}",
                flush=True,
            )
    flat = flatness(max(options.rounds // 4, 2), options.calls)
    for name, points in flat.items():
        print(f"{name:32}" + "  ".join(f"{x}: {ns:.0f} ns" for x, ns in points))
    if options.json is not None:
        result = {"machine": machine, "rows": [asdict(row) for row in rows], "flatness": flat}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
