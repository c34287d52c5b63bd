# SPDX-License-Identifier: Apache-2.0
"""What staging_python.py measures and what gpu_plots.py draws. No GPU is needed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import random
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "benchmarks" / "cuda"), str(ROOT / "scripts")]

import gpu_fingerprint  # noqa: E402
import gpu_plots  # noqa: E402
import staging_python  # noqa: E402
import staging_session  # noqa: E402
import turns  # noqa: E402

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: no plots"
)


def run_bars(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "cuda" / "staging_python.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


class TestBars:
    def test_cases_have_methods(self):
        table = staging_python.cases()
        bars = [bar.name for case in table for bar in case.bars]
        assert len(bars) == len(set(bars))
        for case in table:
            assert callable(getattr(staging_python.Session, case.method))
            assert case.name.startswith("python/")

    def test_promises_are_bars(self):
        targets = {bar.name: (bar.sense, bar.target) for case in staging_python.cases() for bar in case.bars}
        assert targets["Python d2h, 64 MiB, freed, torch .cpu().numpy()"] == ("at least", 8)
        assert targets["Python d2h, 1 GiB, freed, torch pinned"] == ("at least", 0.98)
        assert targets["Python small d2h, 4 B, beyond raw"] == ("at most", 1.5)
        assert targets["Python h2d from pageable, 64 MiB, torch"] == ("at least", 3)
        assert targets["Python d2h, transposed, 256 MiB, one run"] == ("at least", 0.99)
        assert targets["Python batch d2h, 4096 x 256 B, torch"] == ("at least", 30)
        assert targets["Python d2h, 64 KiB, freed, torch pinned"][1] is None

    def test_list_needs_no_gpu(self):
        done = run_bars("--list", "--only", "small")
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 2 * len(staging_python.SMALL)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [(("--only", "nothing"), "no case is called like"), (("--rounds", "3"), "expected 15 or more")],
    )
    def test_wrong_arguments_end_with_2(self, arguments, message):
        done = run_bars(*arguments)
        assert done.returncode == 2 and message in done.stderr

    @pytest.mark.skipif(not gpu_fingerprint.capability()[1], reason="this machine has a GPU")
    def test_nothing_measured_without_gpu(self, tmp_path):
        done = run_bars("--json", str(tmp_path / "a.json"))
        assert done.returncode == 3, done.stderr
        assert "nothing measured" in done.stderr and not (tmp_path / "a.json").exists()

    def session(self, **facts):
        """One without a GPU: torch and dlbridge are stand-ins."""
        session = object.__new__(staging_python.Session)
        session.numpy, session.cupy, session.jax, session.numba = np, None, None, None
        session.missing = {"cupy": "no CuPy", "jax": "no JAX", "numba": "no Numba"}
        session.options = Namespace(seed=1, rounds=15, samples=5000)
        session.order = random.Random(1)
        session.report = turns.Report(None, {})
        for name, fact in facts.items():
            setattr(session, name, fact)
        return session

    class HostTensor:
        """Stands for a torch.Tensor."""

        def __init__(self, array: np.ndarray) -> None:
            self._array = array

        def cpu(self):
            return self

        def numpy(self):
            return self._array.copy()

    def test_missing_peers_are_skipped(self, monkeypatch):
        ticks = itertools.count()
        monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
        array = np.arange(16_384, dtype=np.int32)
        session = self.session(
            source=lambda size: self.HostTensor(array),
            dlbridge=SimpleNamespace(to_numpy=lambda tensor, device: tensor.numpy()),
            pinned=lambda tensor: tensor.numpy,
            raw_contender=lambda tensor, expected, size: lambda: 1e-6,
        )
        (case,) = [case for case in staging_python.cases() if case.name == "python/freed/64 KiB"]
        session.freed(case.bars, **case.arguments)
        assert not session.report.any_failed()
        notes = {entry["name"].split(", ")[-1]: entry for entry in session.report.entries}
        assert [notes[name]["note"] for name in ("CuPy", "JAX", "Numba")] == ["no CuPy", "no JAX", "no Numba"]
        measured = notes["torch .cpu().numpy()"]
        assert (measured["bytes"], measured["kind"], len(measured["series"])) == (65_536, "bandwidth", 2)
        assert measured["value"] == 1  # both are the same call

    def test_wrong_elements_break_cases(self):
        array = np.arange(16_384, dtype=np.int32)

        def wrong(tensor, device):
            made = tensor.numpy()
            made[5000] += 1
            return made

        session = self.session(
            source=lambda size: self.HostTensor(array),
            dlbridge=SimpleNamespace(to_numpy=wrong),
            pinned=lambda tensor: tensor.numpy,
            raw_contender=lambda tensor, expected, size: lambda: 1e-6,
        )
        chosen = [case for case in staging_python.cases() if case.name == "python/freed/64 KiB"]
        staging_session.measure(session, chosen, 60)
        assert {entry["verdict"] for entry in session.report.entries} == {"BROKEN"}
        assert session.report.entries[0]["note"] == "RuntimeError: wrong content"

    def test_ctypes_cost_is_subtracted(self, monkeypatch):
        times = {"ours": 9e-6, "torch": 12e-6, "raw": 8.5e-6, "ctypes": 0.7e-6}
        monkeypatch.setattr(
            staging_python, "interleave", lambda contenders, *_: {name: [times[name]] * 5000 for name in contenders}
        )
        tensor = self.HostTensor(np.zeros(1, np.int32))
        session = self.session(
            source=lambda size: tensor, raw_contender=lambda *_: None, dlbridge=SimpleNamespace(to_numpy=None)
        )
        (case,) = [case for case in staging_python.cases() if case.name == "python/small/4 B"]
        session.small(case.bars, **case.arguments)
        beyond, speed = session.report.entries
        assert beyond["value"] == pytest.approx(9 - (8.5 - 0.7)) and beyond["verdict"] == "passed"
        assert speed["value"] == pytest.approx(12 / 9) and speed["verdict"] == "passed"
        times["ours"] = 9.4e-6
        session.small(case.bars, **case.arguments)
        assert session.report.entries[2]["verdict"] == "FAILED"

    def test_time_limit_stops_cases(self):
        session = self.session()
        staging_session.measure(session, staging_python.cases(), 0)
        assert {entry["note"] for entry in session.report.entries} == {"the time was up"}


def synthetic() -> dict:
    """Results as scripts/gpu writes them. The numbers are invented, of no machine."""
    entries = []
    for size, seconds in ((1 << 20, 1e-4), (64 << 20, 4e-3)):
        bar = turns.Bar(f"d2h {size}", "torch / ours", "at least", 2)
        series = {"ours": [seconds] * 15, "torch": [3 * seconds] * 15}
        entries.append({**turns.outcome(bar, [3.0] * 15, series, 1), "bytes": size, "kind": "bandwidth"})
    for size in (4, 4096):
        series = {"ours": [8e-6] * 5000, "raw": [7e-6] * 5000}
        bar = turns.Bar(f"small {size}", "ours - raw", "at most", 1.5, unit="us")
        entries.append({**turns.outcome(bar, [1.0] * 10, series, 1), "bytes": size, "kind": "latency"})
    for layout in ("transposed", "columns"):
        series = {"ours": [1e-2] * 15, "one run": [0.9e-2] * 15}
        bar = turns.Bar(f"strided {layout}", "one run / ours", "at least", 0.93)
        entries.append(
            {**turns.outcome(bar, [0.9] * 15, series, 1), "bytes": 1 << 28, "kind": "strided", "layout": layout}
        )
    entries.append(turns.not_measured(turns.Bar("CuPy", "", "at least", None), "skipped", "CuPy is not installed"))
    return {
        "fingerprint": {"GPU": "Invented GPU", "PCIe generation, now": "5", "PCIe width, now": "16"},
        "steps": [],
        "bars": [{**entry, "source": "python"} for entry in entries],
    }


class TestPlots:
    def results(self, tmp_path, content=None):
        path = tmp_path / "results.json"
        path.write_text(json.dumps(content or synthetic()))
        return path

    def test_bus_limit(self):
        assert gpu_plots.bus_limit(synthetic()["fingerprint"]) == (pytest.approx(63.0, abs=0.1), "PCIe 5.0 x16")
        after = {**synthetic()["fingerprint"], "PCIe generation, now after the bars": "4"}
        assert gpu_plots.bus_limit(after) == (pytest.approx(31.5, abs=0.1), "PCIe 4.0 x16")
        assert gpu_plots.bus_limit({"GPU": "unknown"}) is None
        assert gpu_plots.bus_limit({"PCIe generation, now": "9", "PCIe width, now": "16"}) is None

    def test_tables_hold_measurements(self, tmp_path):
        into = tmp_path / "into"
        assert gpu_plots.main([str(self.results(tmp_path)), "--into", str(into), "--tables-only"]) == 0
        text = (into / "staging.md").read_text()
        assert [path.name for path in into.iterdir()] == ["staging.md"]
        assert "| 1 MiB | 10.49 | 3.50 |" in text
        assert "| 64 MiB | 16.78 | 5.59 |" in text
        assert "| 4 KiB | 8.0 / 8.0 | 7.0 / 7.0 |" in text
        assert "| transposed | 26.84 | 29.83 |" in text
        assert "| strided columns | one run / ours | 0.9 x | 0.9 to 0.9 | at least 0.93 |  | FAILED |" in text
        assert "1 bars were skipped" in text and "![" not in text
        assert "The bus is PCIe 5.0 x16: at most 63.0 GB/s" in text

    @needs_matplotlib
    def test_plots_are_drawn(self, tmp_path):
        into = tmp_path / "into"
        assert gpu_plots.main([str(self.results(tmp_path)), "--into", str(into)]) == 0
        names = {path.name for path in into.iterdir()}
        assert names == {"staging.md", "bandwidth.svg", "latency.svg", "strided.svg"}
        for name in names - {"staging.md"}:
            assert f"]({name})" in (into / "staging.md").read_text()
            assert (into / name).read_text().lstrip().startswith("<?xml")
        assert "limit of the bus, PCIe 5.0 x16" in (into / "bandwidth.svg").read_text()
        assert "limit of the bus" not in (into / "latency.svg").read_text()

    @needs_matplotlib
    def test_plots_are_reproducible(self, tmp_path):
        results = self.results(tmp_path)
        for name in ("a", "b"):
            gpu_plots.main([str(results), "--into", str(tmp_path / name)])
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name

    def test_no_measurements_no_files(self, tmp_path, capsys):
        content = {**synthetic(), "bars": synthetic()["bars"][-1:]}
        arguments = [str(self.results(tmp_path, content)), "--into", str(tmp_path / "into"), "--tables-only"]
        assert gpu_plots.main(arguments) == 3
        assert not (tmp_path / "into").exists() and "nothing written" in capsys.readouterr().err

    def test_missing_results_are_refused(self, tmp_path, capsys):
        with pytest.raises(SystemExit, match="2"):
            gpu_plots.main([str(tmp_path / "none.json"), "--tables-only"])
        assert "expected results.json of scripts/gpu" in capsys.readouterr().err

    def test_folder_is_named_after_gpu(self):
        folder = gpu_plots.default_folder({"fingerprint": {"GPU": "NVIDIA H200 (SXM)"}})
        assert folder == ROOT / "docs" / "measurements" / "gpu-nvidia-h200-sxm"
