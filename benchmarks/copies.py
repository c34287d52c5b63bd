# SPDX-License-Identifier: Apache-2.0
"""Host copies against NumPy and torch, in interleaved rounds of one process.

    .venv/bin/python benchmarks/copies.py [--table calls|layouts|all] [--only TEXT] [--rounds N] [--json PATH]

A round times every side of a race, each first in turn: the fastest of some samples, so that what else runs on the
machine counts little. Before each side the process rests: threads of the side before spin for a while, and other
programs are waited for, as long as --patience lasts. A ratio is the median over the rounds of the best peer's time by
dlbridge's: above 1, dlbridge is faster. The spread is the distance between the quartiles of those ratios.
Functions are bound before the loop. All of dlbridge's checks are on.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dlbridge

KIB, MIB = 1024, 1024 * 1024
SAMPLE_US, SAMPLES = 300, 5  # a sample repeats its call for about this long; at least so many samples, and
SETTLE_S = 0.012  # so much time: where other programs run, a thread that is woken waits for a CPU
REST_S = 0.008  # OpenMP's threads spin for some milliseconds after torch's work


@dataclass(frozen=True)
class Race:
    """One copy, by dlbridge and by its peers."""

    name: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Row:
    """One measured race; times are medians over the rounds, in microseconds."""

    name: str
    peer: str
    peer_us: float
    dlbridge_us: float
    ratio: float
    spread: float


def _bound(function: Callable[..., object], *args: object, **named: object) -> Callable[[], object]:
    """The call written out, as a caller would: functools.partial passes keywords more slowly."""
    names = {f"a{i}": value for i, value in enumerate(args)} | {f"k_{key}": value for key, value in named.items()}
    text = ", ".join([f"a{i}" for i in range(len(args))] + [f"{key}=k_{key}" for key in named])
    made = eval(f"lambda f, {', '.join(names)}: lambda: f({text})" if names else "lambda f: lambda: f()")
    result: Callable[[], object] = made(function, **names)
    return result


def _text(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def _pair(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, torch.Tensor]:
    """An array and a tensor with the same elements, each in memory of its own."""
    array = (np.arange(int(np.prod(shape))) % 251).astype(dtype).reshape(shape)
    return array, torch.from_numpy(array.copy())


def contiguous() -> Iterator[Race]:
    """New memory and `out=`, without a change of layout."""
    for dtype in (np.uint8, np.float32, np.float64):
        for size in (KIB, 16 * KIB, 256 * KIB, 4 * MIB, 64 * MIB):
            array, tensor = _pair((size // np.dtype(dtype).itemsize,), dtype)
            new = {"np.copy": _bound(np.copy, array), "clone": _bound(tensor.clone)}
            name = f"{np.dtype(dtype).name}, {_text(size)}"
            yield Race(f"to_numpy(t, copy=True), {name}", _bound(dlbridge.to_numpy, tensor, copy=True), new)
            yield Race(f"to_torch(a, copy=True), {name}", _bound(dlbridge.to_torch, array, copy=True), new)
            if dtype is not np.float32:
                continue
            out, out_tensor = np.zeros_like(array), torch.zeros_like(tensor)
            into = {"np.copyto": _bound(np.copyto, out, array), "copy_": _bound(out_tensor.copy_, tensor)}
            yield Race(f"to_numpy(t, out=o), {name}", _bound(dlbridge.to_numpy, tensor, out=out), into)


def casts() -> Iterator[Race]:
    """Contiguous casts into new memory, into NumPy and into torch."""
    pairs = (
        ("uint8", "float32"),
        ("uint8", "float64"),
        ("float32", "float16"),
        ("float16", "float32"),
        ("float64", "float32"),
        ("float32", "float64"),
        ("int64", "float32"),
        ("int64", "int32"),
        ("int32", "int64"),
        ("int16", "float32"),
        ("bool", "float32"),
        ("float32", "bool"),
        ("float32", "uint8"),
        ("float64", "int64"),
    )
    for source, target in pairs:
        for count in (4 * KIB, MIB, 16 * MIB):
            array, tensor = _pair((count,), source)
            kind = getattr(torch, target)
            peers = {
                "astype": _bound(array.astype, target),
                "t.to": _bound(tensor.to, kind),
            }
            name = f"{source} to {target}, {count // KIB} Ki"
            yield Race(f"to_numpy(t, dtype=), {name}", _bound(dlbridge.to_numpy, tensor, dtype=target), peers)
            yield Race(f"to_torch(a, dtype=), {name}", _bound(dlbridge.to_torch, array, dtype=kind), peers)


def _layouts(count: int) -> Iterator[tuple[str, tuple[int, ...], Callable[[Any], Any]]]:
    """Name, shape of about `count` elements, and the view that is copied, for an array or a tensor."""
    side = int(count**0.5)
    cube = round(count ** (1 / 3))
    image = int((count / 3) ** 0.5)
    image4 = int((count / 4) ** 0.5)
    rows, heads = max(count // (8 * 64), 1), 8
    turn = lambda *order: lambda x: x.transpose(order) if isinstance(x, np.ndarray) else x.permute(order)  # noqa: E731
    yield "transposed", (side, side), turn(1, 0)
    yield "rotated", (cube, cube, cube), turn(2, 0, 1)
    yield "heads", (rows, heads, 64), turn(1, 0, 2)
    yield "HWC to CHW", (image, image, 3), turn(2, 0, 1)
    yield "CHW to HWC", (3, image, image), turn(1, 2, 0)
    yield "HWC4 to CHW", (image4, image4, 4), turn(2, 0, 1)
    yield "step 2", (2 * count,), lambda x: x[::2]
    yield "step 3 in rows", (side, 3 * side), lambda x: x[:, ::3]
    yield "window", (side + 32, side + 32), lambda x: x[16:-16, 16:-16]
    yield "flip rows", (side, side), lambda x: x[::-1] if isinstance(x, np.ndarray) else x.flip(0)
    yield "flip columns", (side, side), lambda x: x[:, ::-1] if isinstance(x, np.ndarray) else x.flip(1)
    yield (
        "flipped HWC to CHW",
        (image, image, 3),
        lambda x: x[:, ::-1].transpose(2, 0, 1) if isinstance(x, np.ndarray) else x.flip(1).permute(2, 0, 1),
    )


def layouts() -> Iterator[Race]:
    """12 layouts of 4 item sizes in 3 sizes, into existing and into new memory."""
    for size, dtype in itertools.product((16 * KIB, MIB, 64 * MIB), (np.uint8, np.int16, np.float32, np.float64)):
        for kind, shape, view in _layouts(size // np.dtype(dtype).itemsize):
            array, tensor = _pair(shape, dtype)
            source = view(array)
            out, out_tensor = np.zeros(source.shape, dtype), torch.zeros(source.shape, dtype=tensor.dtype)
            new_tensor = lambda out=out_tensor, view=view, tensor=tensor: out.copy_(view(tensor))  # noqa: E731
            peers = {
                "np.copyto": _bound(np.copyto, out, source),
                "ascontiguousarray": _bound(np.ascontiguousarray, source),
                "copy_": new_tensor if "flip" in kind else _bound(out_tensor.copy_, view(tensor)),
            }
            name = f"{kind}, {np.dtype(dtype).name}, {_text(size)}"
            yield Race(name, _bound(dlbridge.to_numpy, source, out=out), peers)


class Rest:
    """The pause before a side is timed."""

    def __init__(self, patience: float) -> None:
        self.patience = patience  # seconds left to wait for other programs
        self.pauses = self.busy = 0  # how many, and how many ended while others ran

    def __call__(self) -> None:
        """Waits for the threads of this process, and for other programs."""
        time.sleep(REST_S)
        while (busy := self._others_run()) and self.patience > 0:
            time.sleep(REST_S)
            self.patience -= REST_S
        self.pauses += 1
        self.busy += busy

    @staticmethod
    def _others_run() -> bool:
        load = Path("/proc/loadavg")  # its fourth field: how many threads run, and how many there are
        return load.exists() and int(load.read_text().split()[3].split("/")[0]) > 1


def _time(function: Callable[[], object], calls: int) -> float:
    """Microseconds a call, in the fastest sample."""
    best = float("inf")
    end = time.perf_counter() + SETTLE_S
    for sample in itertools.count(1):
        begin = time.perf_counter_ns()
        for _ in itertools.repeat(None, calls):
            function()
        best = min(best, (time.perf_counter_ns() - begin) / calls / 1000)
        if sample >= SAMPLES and time.perf_counter() > end:
            return best
    raise AssertionError


def measure(race: Race, rounds: int, rest: Rest) -> Row:
    """Times one race."""
    sides = {"dlbridge": race.ours, **race.peers}
    calls = {}
    for name, function in sides.items():
        function()
        calls[name] = max(1, round(SAMPLE_US / max(_time(function, 1), 0.05)))
    names = list(sides)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            rest()
            samples[name].append(_time(sides[name], calls[name]))
    best = min(race.peers, key=lambda name: statistics.median(samples[name]))
    ratios = [peer / ours for peer, ours in zip(samples[best], samples["dlbridge"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    median = statistics.median
    return Row(race.name, best, median(samples[best]), median(samples["dlbridge"]), median(ratios), high - low)


TABLES = {"contiguous": contiguous, "casts": casts, "layouts": layouts}


def main() -> None:
    """Runs the races, prints a line for each and a summary for each table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=[*TABLES, "all"], default="all")
    parser.add_argument("--only", default="", help="races whose name has this in it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--patience", type=float, default=300, help="seconds to wait for other programs, in all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gc.disable()
    rest = Rest(options.patience)
    result: dict[str, list[dict[str, object]]] = {}
    for table in TABLES if options.table == "all" else [options.table]:
        rows = []
        print(f"{table:<48} {'best peer':<18} {'peer us':>10} {'dlbridge us':>12} {'ratio':>7} {'spread':>7}")
        for race in TABLES[table]():
            if options.only not in race.name:
                continue
            row = measure(race, options.rounds, rest)
            rows.append(row)
            print(
                f"{row.name:<48} {row.peer:<18} {row.peer_us:10.1f} {row.dlbridge_us:12.1f} {row.ratio:7.2f} "
                f"{row.spread:7.2f}",
                flush=True,
            )
        if rows:
            ratios = [row.ratio for row in rows]
            lost = sum(ratio < 1 for ratio in ratios)
            print(f"{table}: {len(rows)} races, {lost} lost, median {statistics.median(ratios):.2f}x\n")
        result[table] = [asdict(row) for row in rows]
    about = {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "busy": round(rest.busy / max(rest.pauses, 1), 3),  # of the sides, those timed while other programs ran
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if options.json:
        options.json.write_text(json.dumps({**about, "tables": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
