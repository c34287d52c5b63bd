"""Measures staging beside torch and CuPy, in turns with them in one process. Run by scripts/gpu.

    python3 benchmarks/cuda/peers.py --library build/gpu/lib/libdlbridge_cuda.so [--json PATH] [--only REGEX]
                                     [--seed N] [--rounds N] [--samples N] [--seconds N] [--list]

dlbridge is called through its C ABI by ctypes, which costs it some microseconds for every result: where copies are
small the figures are shown and no bar is set. Ends as dlbridge_cuda_bars does: 0 where no bar was missed, 1, 2 for
wrong arguments, 3 where there is nothing to measure on.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from turns import Bar, Report, interleave, medians_of_blocks, not_measured, outcome

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
    arguments: dict[str, int] = field(default_factory=dict)


def _bar(name: str, peer: str, target: float | None) -> Bar:
    return Bar(name, f"time of {peer} / ours", "at least", target)


def cases() -> list[Case]:
    """What is compared, most important first."""
    table = []
    for size in (64 * MIB, 256 * MIB, GIB):
        what = f"d2h, {size_name(size)}, freed"
        bars = (
            _bar(f"{what}, torch .cpu().numpy()", "torch's x.cpu().numpy()", 8),
            _bar(f"{what}, torch pinned", "torch's copy into its cached pinned memory", 0.98),
            _bar(f"{what}, CuPy", "CuPy's x.get()", None),
        )
        table.append(Case(f"freed/{size_name(size)}", "freed", bars, {"size": size}))
    for size in (64 * MIB, 256 * MIB, GIB):
        bars = (_bar(f"d2h, {size_name(size)}, held, torch .cpu().numpy()", "torch's x.cpu().numpy()", 1),)
        table.append(Case(f"held/{size_name(size)}", "held", bars, {"size": size}))
    for size in (64 * MIB, 256 * MIB, GIB):
        bars = (_bar(f"h2d from pageable, {size_name(size)}, torch", "torch's target.copy_(source)", 3),)
        table.append(Case(f"h2d/{size_name(size)}", "to_device", bars, {"size": size}))
    for size in (4, 256, 4 * KIB, 64 * KIB):
        bars = (_bar(f"small d2h, {size_name(size)}, torch .cpu().numpy()", "torch's x.cpu().numpy(), p50", None),)
        table.append(Case(f"small/{size_name(size)}", "small", bars, {"size": size}))
    for count, size in ((16, 64 * KIB), (4096, 256)):
        bars = (_bar(f"batch d2h, {count} x {size_name(size)}, torch", "torch's .cpu().numpy() in a loop", None),)
        table.append(Case(f"batch/{count} x {size_name(size)}", "batch", bars, {"count": count, "size": size}))
    return table


class Session:
    """What the cases share: the library, torch, CuPy where there is one, the stream and the report."""

    def __init__(self, library: Any, report: Report, options: argparse.Namespace) -> None:
        import numpy
        import torch

        self.numpy, self.torch = numpy, torch
        self.library, self.report, self.options = library, report, options
        self.cupy: Any = None
        if importlib.util.find_spec("cupy") is not None:
            import cupy

            self.cupy = cupy
        self.order = random.Random(options.seed)
        self.stream = torch.cuda.current_stream().cuda_stream or 1  # DLPack's number of the legacy stream
        self.device = torch.cuda.current_device()
        torch.manual_seed(options.seed)

    # ---- What contenders are made of

    def source(self, size: int) -> Any:
        """Device memory with random words."""
        tensor = self.torch.randint(-(2**31), 2**31 - 1, (size // 4,), dtype=self.torch.int32, device="cuda")
        self.torch.cuda.synchronize()
        return tensor

    def describe(self, tensor: Any) -> Any:
        """Its descriptor."""
        from staging_abi import CUDA, INT32, Descriptor

        return Descriptor.of(tensor.data_ptr(), tensor.numel(), INT32, CUDA, self.device)

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

    def ours(self, tensor: Any, kept: list[Any] | None = None) -> Callable[[], tuple[float, Any, Callable[[], float]]]:
        """dlb_cuda_stage_to_host."""
        descriptor = self.describe(tensor)
        to_host, stream, clock = self.library.to_host, self.stream, time.perf_counter

        def run() -> tuple[float, Any, Callable[[], float]]:
            begin = clock()
            result = to_host(descriptor, stream)
            array = result.array()
            seconds = clock() - begin

            def give_back() -> float:
                if kept is not None:
                    kept.append(result)
                    return 0.0
                begin = clock()
                result.release()
                return clock() - begin

            return seconds, array, give_back

        return run

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

    def speed(self, bar: Bar, ours: list[float], peer: list[float], note: str = "") -> None:
        """Adds the entry: how many times as fast."""
        values = [theirs / mine for theirs, mine in zip(peer, ours, strict=True)]
        self.report.add(outcome(bar, values, {"ours": ours, "peer": peer}, self.options.seed, note))

    # ---- Cases

    def freed(self, bars: tuple[Bar, ...], size: int) -> None:
        """Results are given back at once."""
        torch = self.torch
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()

        def pinned() -> Any:
            block = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            block.copy_(tensor, non_blocking=True)
            torch.cuda.current_stream().synchronize()
            return block.numpy()

        contenders: Contenders = {
            "ours": self.checked(self.ours(tensor), expected),
            "torch": self.checked(self.peer(lambda: tensor.cpu().numpy()), expected),
            "torch pinned": self.checked(self.peer(pinned), expected),
        }
        if self.cupy is not None:
            array = self.cupy.from_dlpack(tensor)
            contenders["cupy"] = self.checked(self.peer(array.get), expected)
        seconds = self.contest(contenders)
        for bar, peer in zip(bars, ("torch", "torch pinned", "cupy"), strict=True):
            if peer in seconds:
                self.speed(bar, seconds["ours"], seconds[peer])
            else:
                self.report.add(not_measured(bar, "skipped", "CuPy is not installed"))

    def held(self, bars: tuple[Bar, ...], size: int) -> None:
        """All results are kept, so both sides need fresh memory in every round."""
        results = self.options.rounds + WARM_UPS
        available = _available_memory()
        if results * size > min(self.library.pinned_limit(), available // 3):
            why = f"{results} results of {size_name(size)} do not fit into the pool's limit or the free memory"
            self.report.add(not_measured(bars[0], "skipped", why))
            return
        self.library.trim()
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        ours: list[Any] = []
        theirs: list[Any] = []
        try:
            seconds = self.contest(
                {
                    "ours": self.checked(self.ours(tensor, ours), expected),
                    "torch": self.checked(self.peer(lambda: tensor.cpu().numpy(), theirs), expected),
                }
            )
        finally:
            for result in ours:
                result.release()
            self.library.trim()
        self.speed(bars[0], seconds["ours"], seconds["torch"])

    def to_device(self, bars: tuple[Bar, ...], size: int) -> None:
        """From an ordinary array into device memory that is there, until it has arrived."""
        from staging_abi import Descriptor

        torch, numpy = self.torch, self.numpy
        array = numpy.random.default_rng(self.options.seed).integers(-(2**31), 2**31, size // 4, numpy.int32)
        shared = torch.from_numpy(array)
        target = torch.empty(size // 4, dtype=torch.int32, device="cuda")
        expected = shared.cuda()
        source, descriptor = Descriptor.of_array(array), self.describe(target)
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

        seconds = self.contest(
            {
                "ours": arriving(lambda: self.library.to_device(source, descriptor, self.stream)),
                "torch": arriving(lambda: target.copy_(shared)),
            }
        )
        self.speed(bars[0], seconds["ours"], seconds["torch"])

    def small(self, bars: tuple[Bar, ...], size: int) -> None:
        """Where the calls are the cost."""
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        contenders = {
            "ours": self.checked(self.ours(tensor), expected),
            "torch": self.checked(self.peer(lambda: tensor.cpu().numpy()), expected),
        }
        seconds = interleave(contenders, LATENCY_WARM_UPS, self.options.samples, self.order)
        blocks = {name: medians_of_blocks(samples) for name, samples in seconds.items()}
        values = [theirs / mine for theirs, mine in zip(blocks["torch"], blocks["ours"], strict=True)]
        self.report.add(outcome(bars[0], values, seconds, self.options.seed, "ours by way of ctypes"))

    def batch(self, bars: tuple[Bar, ...], count: int, size: int) -> None:
        """Many tensors in one call, against a loop."""
        from staging_abi import Sources

        whole = self.source(2 * count * size)
        parts = [whole[2 * i * size // 4 :][: size // 4] for i in range(count)]
        expected = [part.cpu().numpy().copy() for part in parts]
        sources = Sources([self.describe(part) for part in parts])

        def ours() -> float:
            begin = time.perf_counter()
            results = self.library.many_to_host(sources, self.stream)
            seconds = time.perf_counter() - begin
            for result, content in zip(results, expected, strict=True):
                self.expect(result.array(), content, False)
            begin = time.perf_counter()
            for result in results:
                result.release()
            return seconds + time.perf_counter() - begin

        def theirs() -> float:
            begin = time.perf_counter()
            arrays = [part.cpu().numpy() for part in parts]
            seconds = time.perf_counter() - begin
            for array, content in zip(arrays, expected, strict=True):
                self.expect(array, content, False)
            return seconds

        seconds = self.contest({"ours": ours, "torch": theirs})
        self.speed(bars[0], seconds["ours"], seconds["torch"], "ours by way of ctypes")


def _available_memory() -> int:
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


def _obstacle(library: Any) -> str:
    """Why nothing can be measured; empty where it can."""
    usable, obstacle, message = library.availability()
    if not usable:
        return f"{'no CUDA driver' if obstacle == 'no_driver' else 'no GPU to use'}: nothing measured ({message})"
    if importlib.util.find_spec("torch") is None:
        return "no torch in this Python: nothing measured"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU: nothing measured"
    return ""


def _facts(session: Session) -> dict[str, str]:
    facts = {
        "device": session.torch.cuda.get_device_name(),
        "torch": str(session.torch.__version__),
        "numpy": session.numpy.__version__,
        "seed": str(session.options.seed),
        "rounds": str(session.options.rounds),
        "samples": str(session.options.samples),
    }
    if session.cupy is not None:
        facts["cupy"] = session.cupy.__version__
    return facts


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="libdlbridge_cuda.so")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose names match")
    parser.add_argument("--seed", type=_at_least(0), default=1)
    parser.add_argument("--rounds", type=_at_least(15), default=15)
    parser.add_argument("--samples", type=_at_least(5000), default=20_000)
    parser.add_argument("--seconds", type=float, default=1e9, help="no case begins after them")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [case for case in cases() if re.search(options.only, case.name)]
    if not chosen:
        parser.error(f"no case is called like '{options.only}'")
    if options.list:
        for case in chosen:
            for bar in case.bars:
                print(f"{case.name}: {bar.name} ({bar.figure})")
        return 0
    if options.library is None:
        parser.error("--library is missing: the path of libdlbridge_cuda.so")
    from staging_abi import Library

    library = Library(options.library)
    if obstacle := _obstacle(library):
        print(obstacle, file=sys.stderr)
        return 3
    begin = time.monotonic()
    session = Session(library, Report(None, {}), options)
    session.report = Report(options.json, _facts(session))
    gc.disable()
    for case in chosen:
        if time.monotonic() - begin >= options.seconds:
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
    return 1 if session.report.any_failed() else 0


if __name__ == "__main__":
    sys.exit(main())
