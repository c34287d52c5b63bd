# SPDX-License-Identifier: Apache-2.0
"""The part of scripts/demo that needs a GPU, on a simulated one; and what it says where there is none."""

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the demo races torch, which is not installed")
sys.path.append(str(Path(__file__).resolve().parents[3] / "examples"))

import through_gpu
from observe import Report

PHOTO = np.random.default_rng(5).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def test_photograph_survives_the_gpu(gpu, capsys):
    report = Report()
    through_gpu.show(report, PHOTO)
    assert (report.held, report.broken) == (6, [])
    shown = capsys.readouterr().out
    assert "stage cpu to cuda:0" in shown and "pooled pinned memory" in shown


@pytest.mark.parametrize("row", [0, -1])
def test_changed_photograph_is_noticed(gpu, capsys, monkeypatch, row):
    def spoiled(x, **named):
        array = to_numpy(x, **named)
        array[row] ^= 1
        return array

    to_numpy = through_gpu.dlbridge.to_numpy
    monkeypatch.setattr(through_gpu.dlbridge, "to_numpy", spoiled)
    report = Report()
    through_gpu.show(report, PHOTO)
    assert report.broken == ["the photograph came back byte for byte"]


def test_demo_names_missing_gpu(capsys):
    report = Report()
    through_gpu.show(report, PHOTO)
    assert (report.held, report.broken) == (0, [])
    assert "Nothing is staged in this run: " in capsys.readouterr().out
