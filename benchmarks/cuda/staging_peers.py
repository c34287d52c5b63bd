# SPDX-License-Identifier: Apache-2.0
"""Measures staging beside torch and CuPy, in turns with them in one process. Run by scripts/gpu.

    python3 benchmarks/cuda/staging_peers.py --library build/gpu/lib/libdlbridge_cuda.so [--json PATH] [--only REGEX]
                                     [--seed N] [--rounds N] [--samples N] [--seconds N] [--list]

dlbridge is called through its C ABI by ctypes, which costs it some microseconds for every result: where copies are
small the figures are shown and no bar is set. Ends as bars.py does: 0 where no bar was missed, 1, 2 for
wrong arguments, 3 where there is nothing to measure on.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import staging_session
from staging_session import GIB, KIB, LATENCY_WARM_UPS, MIB, Case, Contenders, size_name
from turns import Bar, interleave, medians_of_blocks, not_measured, outcome


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


class Session(staging_session.Session):
    """What the cases share: the library besides."""

    def __init__(self, library: Any, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.library = library
        self.stream = self.torch.cuda.current_stream().cuda_stream or 1  # DLPack's number of the legacy stream
        self.device = self.torch.cuda.current_device()

    def describe(self, tensor: Any) -> Any:
        """Its descriptor."""
        from staging_abi import CUDA, INT32, Descriptor

        return Descriptor.of(tensor.data_ptr(), tensor.numel(), INT32, CUDA, self.device)

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

    def speed(self, bar: Bar, ours: list[float], peer: list[float], note: str = "") -> None:
        """Adds the entry: how many times as fast."""
        values = [theirs / mine for theirs, mine in zip(peer, ours, strict=True)]
        self.report.add(outcome(bar, values, {"ours": ours, "peer": peer}, self.options.seed, note))

    # ---- Cases

    def freed(self, bars: tuple[Bar, ...], size: int) -> None:
        """Results are given back at once."""
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        contenders: Contenders = {
            "ours": self.checked(self.ours(tensor), expected),
            "torch": self.checked(self.peer(lambda: tensor.cpu().numpy()), expected),
            "torch pinned": self.checked(self.peer(self.pinned(tensor)), expected),
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
        if not self.has_room_to_hold(bars[0], size, self.library.pinned_limit()):
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

        def ours(array: Any, target: Any) -> Callable[[], object]:
            source, descriptor = Descriptor.of_array(array), self.describe(target)
            return lambda: self.library.to_device(source, descriptor, self.stream)

        seconds = self.race_to_device(size, ours)
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


def _reason(library: Any) -> str:
    """Why nothing can be measured; empty where it can."""
    usable, reason, message = library.availability()
    if not usable:
        return f"{'no CUDA driver' if reason == 'no_driver' else 'no GPU to use'}: nothing measured ({message})"
    return staging_session.torch_reason()


def main() -> int:
    """See the module's text."""
    command_line = staging_session.parser(__doc__)
    command_line.add_argument("--library", type=Path, help="libdlbridge_cuda.so")
    options = command_line.parse_args()
    chosen = staging_session.choose(command_line, options, cases())
    if options.library is None:
        command_line.error("--library is missing: the path of libdlbridge_cuda.so")
    from staging_abi import Library

    library = Library(options.library)
    if reason := _reason(library):
        print(reason, file=sys.stderr)
        return 3
    return staging_session.run(Session(library, options), chosen)


if __name__ == "__main__":
    sys.exit(main())
