# SPDX-License-Identifier: Apache-2.0
"""What gpu_plots.py draws and tabulates. No GPU is needed."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from pages import ROOT

sys.path[:0] = [str(ROOT / "benchmarks" / "cuda"), str(ROOT / "scripts")]

import gpu_plots  # noqa: E402
import turns  # noqa: E402

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: no plots"
)


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
