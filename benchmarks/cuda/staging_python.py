# SPDX-License-Identifier: Apache-2.0
"""Measures what a Python user gets: dlbridge's calls beside torch, CuPy, JAX, Numba and the driver called directly, in
turns in one process. Run by scripts/gpu.

    PYTHONPATH=build/gpu/package python3 benchmarks/cuda/staging_python.py [--json PATH] [--only REGEX]
                                     [--seed N] [--rounds N] [--samples N] [--seconds N] [--list]

Raw calls are made by ctypes. Where calls are the cost, what ctypes takes for them is measured as well and left out.
Ends as bars.py does: 0 where no bar was missed, 1, 2 for wrong arguments, 3 where there is nothing to
measure on.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import staging_session
from staging_session import GIB, KIB, LATENCY_WARM_UPS, MIB, STEP, Case, Contenders, size_name
from turns import Bar, interleave, medians_of_blocks, not_measured, outcome

PEERS = {  # contender -> what it does, in a bar's name and in its figure
    "torch": ("torch .cpu().numpy()", "torch's x.cpu().numpy()"),
    "torch pinned": ("torch pinned", "torch's copy into its cached pinned memory"),
    "cupy": ("CuPy", "CuPy's x.get()"),
    "jax": ("JAX", "numpy.asarray of a JAX array"),
    "numba": ("Numba", "Numba's x.copy_to_host()"),
    "raw": ("raw", "cuMemcpyDtoHAsync and cuStreamSynchronize into pinned memory"),
}
FREED_BARS = {"torch": 8, "torch pinned": 0.98}
SIZES = (64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB, GIB)
BARS_FROM = 64 * MIB
SMALL = (4, 256, 4 * KIB, 64 * KIB)
#: What is left of a matrix, and the least share of the speed of as many bytes in one run.
STRIDED = {"transposed": 0.99, "columns": 0.93, "every second row": 0.93}


def _ratio(what: str, peer: str, target: float | None) -> Bar:
    name, figure = PEERS[peer]
    return Bar(f"{what}, {name}", f"time of {figure} / ours", "at least", target)


def cases() -> list[Case]:
    """What is compared, most important first."""
    table = []
    for size in sorted(SIZES, key=lambda size: size < BARS_FROM):
        what = f"Python d2h, {size_name(size)}, freed"
        targets = FREED_BARS if size >= BARS_FROM else {}
        bars = tuple(_ratio(what, peer, targets.get(peer)) for peer in PEERS)
        table.append(Case(f"python/freed/{size_name(size)}", "freed", bars, {"size": size}))
    for size in SMALL:
        what = f"Python small d2h, {size_name(size)}"
        bars = (
            Bar(f"{what}, beyond raw", "p50 of ours - p50 of raw, without ctypes", "at most", 1.5, unit="us"),
            Bar(f"{what}, torch .cpu().numpy()", "time of torch's x.cpu().numpy() / ours, p50", "at least", 1),
        )
        table.append(Case(f"python/small/{size_name(size)}", "small", bars, {"size": size}))
    for size in (64 * MIB, 256 * MIB):
        bars = (Bar(f"Python d2h, {size_name(size)}, held, torch", "time of x.cpu().numpy() / ours", "at least", 1),)
        table.append(Case(f"python/held/{size_name(size)}", "held", bars, {"size": size}))
    for size in (64 * MIB, 256 * MIB):
        bars = (Bar(f"Python h2d from pageable, {size_name(size)}, torch", "time of copy_ / ours", "at least", 3),)
        table.append(Case(f"python/h2d/{size_name(size)}", "to_device", bars, {"size": size}))
        bars = (Bar(f"Python d2h into pageable out=, {size_name(size)}, torch", "time of copy_ / ours", "at least", 1),)
        table.append(Case(f"python/out/{size_name(size)}", "into_out", bars, {"size": size}))
    for layout, target in STRIDED.items():
        bars = (
            Bar(
                f"Python d2h, {layout}, 256 MiB, one run", "time of as many bytes in one run / ours", "at least", target
            ),
            Bar(f"Python d2h, {layout}, 256 MiB, torch", "time of torch's x.cpu().numpy() / ours", "at least", 1),
        )
        table.append(Case(f"python/strided/{layout}", "strided", bars, {"layout": layout, "size": 256 * MIB}))
    for count, size, target in ((16, 64 * KIB, 5), (4096, 256, 30)):
        what = f"Python batch d2h, {count} x {size_name(size)}"
        bars = (Bar(f"{what}, torch", "time of torch's .cpu().numpy() in a loop / ours", "at least", target),)
        table.append(Case(f"python/batch/{count} x {size_name(size)}", "batch", bars, {"count": count, "size": size}))
    for size in (4 * KIB, 16 * MIB):
        bars = (
            Bar(f"Python async submit, {size_name(size)}, torch", "time to enqueue, torch's / ours", "at least", None),
        )
        table.append(Case(f"python/submit/{size_name(size)}", "submit", bars, {"size": size}))
    return table


class Raw:
    """Copies by the driver, called as cheaply as ctypes can."""

    def __init__(self) -> None:
        import ctypes

        self._copy, self._wait = self._functions(ctypes.CDLL("libcuda.so.1"), ctypes)
        c = ctypes.CDLL(None)
        c.memchr.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        c.labs.argtypes = [ctypes.c_long]
        self._nothing, self._nothing_short = c.memchr, c.labs

    @staticmethod
    def _functions(driver: Any, ctypes: Any) -> tuple[Any, Any]:
        copy, wait = driver.cuMemcpyDtoHAsync_v2, driver.cuStreamSynchronize
        copy.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
        wait.argtypes = [ctypes.c_void_p]
        return copy, wait

    def to_host(self, target: int, source: int, size: int, stream: int) -> float:
        """The seconds of a copy that is waited for."""
        copy, wait, clock = self._copy, self._wait, time.perf_counter
        begin = clock()
        failed = copy(target, source, size, stream) or wait(stream)
        seconds = clock() - begin
        if failed:
            raise RuntimeError(f"the driver answers {failed}")
        return seconds

    def nothing(self, target: int) -> float:
        """The seconds of two calls by ctypes that do nothing."""
        copy, wait, clock = self._nothing, self._nothing_short, time.perf_counter
        begin = clock()
        copy(target, 0, 0)
        wait(0)
        return clock() - begin


class Session(staging_session.Session):
    """What the cases share: the package and the other frameworks besides."""

    def __init__(self, dlbridge: Any, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.dlbridge = dlbridge
        self.raw = Raw()
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the GPU
        self.missing: dict[str, str] = {} if self.cupy is not None else {"cupy": "CuPy is not installed"}
        self.jax = self._usable("jax", "jax", lambda jax: jax.devices("cuda"))
        self.numba = self._usable("numba", "numba.cuda", lambda cuda: cuda.current_context())

    def _usable(self, name: str, module: str, probe: Callable[[Any], object]) -> Any:
        if importlib.util.find_spec(name) is None:
            self.missing[name] = f"{name} is not installed"
            return None
        try:
            found = importlib.import_module(module)
            probe(found)
        except Exception as error:
            self.missing[name] = f"{name} sees no GPU: {str(error).splitlines()[0]}"
            return None
        return found

    def add(self, bar: Bar, values: list[float], series: dict[str, list[float]], **facts: Any) -> None:
        """An entry, with the bytes and whose the series are."""
        self.report.add({**outcome(bar, values, series, self.options.seed), **facts})

    def against(self, bar: Bar, seconds: dict[str, list[float]], peer: str, **facts: Any) -> None:
        """How many times as fast as a peer."""
        values = [theirs / mine for theirs, mine in zip(seconds[peer], seconds["ours"], strict=True)]
        self.add(bar, values, {"ours": seconds["ours"], peer: seconds[peer]}, **facts)

    def facts(self) -> dict[str, str]:
        """Of what was measured with what."""
        found = super().facts()
        found["dlbridge"] = self.dlbridge.__version__
        found["torch tier"] = self.dlbridge.build_info()["torch_tier"]
        for name in ("jax", "numba"):
            if getattr(self, name) is not None:
                found[name] = importlib.import_module(name).__version__
        return found

    def to_numpy(self, tensor: Any) -> Callable[[], Any]:
        """Our call."""
        to_numpy = self.dlbridge.to_numpy
        return lambda: to_numpy(tensor, device="cpu")

    def jax_contender(self, tensor: Any, expected: Any) -> Callable[[], float]:
        """A new array for each turn, since JAX keeps what it has copied once. Its result cannot be written."""
        shared = self.jax.dlpack.from_dlpack(tensor)
        copy, asarray = self.jax.numpy.copy, self.numpy.asarray

        def contender() -> float:
            fresh = self.jax.block_until_ready(copy(shared))
            begin = time.perf_counter()
            array = asarray(fresh)
            seconds = time.perf_counter() - begin
            if not self.numpy.array_equal(array[::STEP], expected[::STEP]):
                raise RuntimeError("wrong content")
            begin = time.perf_counter()
            del array, fresh
            return seconds + time.perf_counter() - begin

        return contender

    def raw_contender(self, tensor: Any, expected: Any, size: int) -> Callable[[], float]:
        """Into memory that is pinned all the time."""
        target = self.dlbridge.pinned_empty(expected.shape, expected.dtype)
        where = target.__array_interface__["data"][0]
        first = [True]

        def contender() -> float:
            seconds = self.raw.to_host(where, tensor.data_ptr(), size, self._handle())
            self.expect(target, expected, first[0])
            first[0] = False
            return seconds

        return contender

    def _handle(self) -> int:
        return int(self.torch.cuda.current_stream().cuda_stream)

    # ---- Cases

    def freed(self, bars: tuple[Bar, ...], size: int) -> None:
        """Results are given back at once."""
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        contenders: Contenders = {
            "ours": self.checked(self.peer(self.to_numpy(tensor)), expected),
            "torch": self.checked(self.peer(lambda: tensor.cpu().numpy()), expected),
            "torch pinned": self.checked(self.peer(self.pinned(tensor)), expected),
            "raw": self.raw_contender(tensor, expected, size),
        }
        if self.cupy is not None:
            contenders["cupy"] = self.checked(self.peer(self.cupy.from_dlpack(tensor).get), expected)
        if self.jax is not None:
            contenders["jax"] = self.jax_contender(tensor, expected)
        if self.numba is not None:
            contenders["numba"] = self.checked(self.peer(self.numba.as_cuda_array(tensor).copy_to_host), expected)
        seconds = self.contest(contenders)
        for bar, peer in zip(bars, PEERS, strict=True):
            if peer in seconds:
                self.against(bar, seconds, peer, bytes=size, kind="bandwidth")
            else:
                self.report.add(not_measured(bar, "skipped", self.missing[peer]))

    def held(self, bars: tuple[Bar, ...], size: int) -> None:
        """All results are kept, so both sides need fresh memory in every round."""
        if not self.has_room_to_hold(bars[0], size, self.dlbridge.pool_stats().limit):
            return
        self.trim()
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        kept: list[Any] = []
        try:
            seconds = self.contest(
                {
                    "ours": self.checked(self.peer(self.to_numpy(tensor), kept), expected),
                    "torch": self.checked(self.peer(lambda: tensor.cpu().numpy(), kept), expected),
                }
            )
        finally:
            kept.clear()
            self.trim()
        self.against(bars[0], seconds, "torch", bytes=size, kind="held")

    def trim(self) -> None:
        """What is free in the pool is given back: a limit below it, and the old one again."""
        limit = self.dlbridge.pool_stats().limit
        self.dlbridge.set_pool_limit(0)
        self.dlbridge.set_pool_limit(limit)

    def to_device(self, bars: tuple[Bar, ...], size: int) -> None:
        """From an ordinary array into device memory that is there, until it has arrived."""
        stage = self.dlbridge.stage
        seconds = self.race_to_device(size, lambda array, target: lambda: stage(array, out=target))
        self.against(bars[0], seconds, "torch", bytes=size, kind="to device")

    def into_out(self, bars: tuple[Bar, ...], size: int) -> None:
        """Into an ordinary array that was written before."""
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        ours, theirs = self.numpy.zeros_like(expected), self.torch.zeros_like(tensor, device="cpu")
        to_numpy = self.dlbridge.to_numpy

        def copy() -> Any:
            theirs.copy_(tensor)
            return theirs.numpy()

        seconds = self.contest(
            {
                "ours": self.checked(self.peer(lambda: to_numpy(tensor, out=ours, device="cpu")), expected),
                "torch": self.checked(self.peer(copy), expected),
            }
        )
        self.against(bars[0], seconds, "torch", bytes=size, kind="out")

    def small(self, bars: tuple[Bar, ...], size: int) -> None:
        """Where the calls are the cost."""
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        contenders: Contenders = {
            "ours": self.checked(self.peer(self.to_numpy(tensor)), expected),
            "torch": self.checked(self.peer(lambda: tensor.cpu().numpy()), expected),
            "raw": self.raw_contender(tensor, expected, size),
            "ctypes": lambda: self.raw.nothing(0),
        }
        seconds = interleave(contenders, LATENCY_WARM_UPS, self.options.samples, self.order)
        blocks = {name: medians_of_blocks(samples) for name, samples in seconds.items()}
        per_block = list(zip(blocks["ours"], blocks["torch"], blocks["raw"], blocks["ctypes"], strict=True))
        beyond = [(ours - max(raw - nothing, 0.0)) * 1e6 for ours, _, raw, nothing in per_block]
        self.add(bars[0], beyond, seconds, bytes=size, kind="latency")
        self.add(bars[1], [torch / ours for ours, torch, _, _ in per_block], seconds, bytes=size, kind="latency")

    def strided(self, bars: tuple[Bar, ...], layout: str, size: int) -> None:
        """A view of twice as much memory, or a transposed one; beside it as many bytes that lie in one run."""
        rows = 8192
        whole = self.source(size if layout == "transposed" else 2 * size).view(rows, -1)
        views = {
            "transposed": whole.t(),
            "columns": whole[:, whole.shape[1] // 2 :],
            "every second row": whole[::2],
        }
        view = views[layout]
        expected = view.cpu().numpy().copy()
        run = self.source(size)
        of_run = run.cpu().numpy().copy()

        def checked(convert: Callable[[], Any]) -> Callable[[], float]:
            first = [True]

            def contender() -> float:
                begin = time.perf_counter()
                array = convert()
                seconds = time.perf_counter() - begin
                rows_seen = slice(None) if first[0] else slice(None, None, 97)
                if not self.numpy.array_equal(array[rows_seen], expected[rows_seen]):
                    raise RuntimeError("wrong content")
                array[::97] ^= -1
                first[0] = False
                begin = time.perf_counter()
                del array
                return seconds + time.perf_counter() - begin

            return contender

        seconds = self.contest(
            {
                "ours": checked(self.to_numpy(view)),
                "torch": checked(lambda: view.cpu().numpy()),
                "one run": self.checked(self.peer(self.to_numpy(run)), of_run),
            }
        )
        self.against(bars[0], seconds, "one run", bytes=size, kind="strided", layout=layout)
        self.against(bars[1], seconds, "torch", bytes=size, kind="strided", layout=layout)

    def batch(self, bars: tuple[Bar, ...], count: int, size: int) -> None:
        """Many tensors in one call, against a loop."""
        whole = self.source(2 * count * size)
        parts = [whole[2 * i * size // 4 :][: size // 4] for i in range(count)]
        expected = [part.cpu().numpy().copy() for part in parts]
        stage_many = self.dlbridge.stage_many

        def timed(convert: Callable[[], list[Any]]) -> Callable[[], float]:
            def contender() -> float:
                begin = time.perf_counter()
                arrays = convert()
                seconds = time.perf_counter() - begin
                for array, content in zip(arrays, expected, strict=True):
                    self.expect(array, content, False)
                begin = time.perf_counter()
                del array, arrays
                return seconds + time.perf_counter() - begin

            return contender

        seconds = self.contest(
            {
                "ours": timed(lambda: stage_many(parts, device="cpu").result()),
                "torch": timed(lambda: [part.cpu().numpy() for part in parts]),
            }
        )
        self.against(bars[0], seconds, "torch", bytes=count * size, kind="batch", count=count)

    def submit(self, bars: tuple[Bar, ...], size: int) -> None:
        """Until the call has returned; the copy is waited for outside of the time."""
        torch = self.torch
        tensor = self.source(size)
        expected = tensor.cpu().numpy().copy()
        stage = self.dlbridge.stage

        def ours() -> float:
            begin = time.perf_counter()
            future = stage(tensor, device="cpu")
            seconds = time.perf_counter() - begin
            self.expect(future.result(), expected, False)
            return seconds

        def theirs() -> float:
            begin = time.perf_counter()
            block = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            block.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            seconds = time.perf_counter() - begin
            event.synchronize()
            self.expect(block.numpy(), expected, False)
            return seconds

        rounds = max(self.options.rounds, self.options.samples // 20)
        seconds = interleave({"ours": ours, "torch": theirs}, LATENCY_WARM_UPS, rounds, self.order)
        self.against(bars[0], seconds, "torch", bytes=size, kind="submit")


def reason() -> tuple[str, Any]:
    """Why nothing can be measured, or the package."""
    if importlib.util.find_spec("dlbridge") is None:
        return "dlbridge cannot be imported: nothing measured", None
    import dlbridge

    if not hasattr(dlbridge, "stage"):
        return "this dlbridge has no CUDA module: nothing measured", None
    try:
        dlbridge.pool_stats()
    except dlbridge.ExchangeError as error:
        what = "no CUDA driver" if error.code == "no_driver" else "no GPU to use"
        return f"{what}: nothing measured ({error})", None
    return staging_session.torch_reason(), dlbridge


def main() -> int:
    """See the module's text."""
    command_line = staging_session.parser(__doc__)
    options = command_line.parse_args()
    chosen = staging_session.choose(command_line, options, cases())
    why_not, dlbridge = reason()
    if why_not:
        print(why_not, file=sys.stderr)
        return 3
    return staging_session.run(Session(dlbridge, options), chosen)


if __name__ == "__main__":
    sys.exit(main())
