# SPDX-License-Identifier: Apache-2.0
"""What staging_python.py of benchmarks/cuda measures. No GPU is needed."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import time
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pages import ROOT

FOLDER = ROOT / "benchmarks" / "cuda"
sys.path[:0] = [str(FOLDER), str(ROOT / "scripts")]

import gpu_fingerprint  # noqa: E402
import staging_python  # noqa: E402
import staging_session  # noqa: E402
import turns  # noqa: E402


def session_of(**facts: Any) -> Any:
    """A session without a GPU: `facts` stand for what it would find."""
    session = object.__new__(staging_python.Session)
    options = Namespace(seed=1, rounds=15, samples=5000)
    missing = {"cupy": "no CuPy", "jax": "no JAX", "numba": "no Numba"}
    facts = {**dict.fromkeys(missing), "missing": missing, **facts}
    facts |= {"numpy": np, "options": options, "order": random.Random(1), "report": turns.Report(None, {})}
    for name, fact in facts.items():
        setattr(session, name, fact)
    return session


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "staging_python.py"), *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_cases_have_methods():
    bars = [bar.name for case in staging_python.cases() for bar in case.bars]
    assert len(bars) == len(set(bars))
    assert all(callable(getattr(staging_python.Session, case.method)) for case in staging_python.cases())


def test_list_names_every_bar():
    done = run("--list")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == sum(len(case.bars) for case in staging_python.cases())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--only", "nothing"), "no case is called like"), (("--rounds", "3"), "expected 15 or more")],
)
def test_wrong_arguments_end_with_2(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2 and message in done.stderr


def test_wrong_content_is_detected():
    expected = np.arange(10_000, dtype=np.int32)
    session = session_of()
    for wrong in (0, 1, 5000, 9999):
        got = expected.copy()
        got[wrong] += 1
        with pytest.raises(RuntimeError, match="wrong content"):
            session.expect(got, expected, True)
    got = expected.copy()
    session.expect(got, expected, True)
    with pytest.raises(RuntimeError, match="wrong content"):  # it was spoilt by being looked at
        session.expect(got, expected, False)


def test_only_converting_counts(monkeypatch):
    now = [0.0]

    def takes(seconds, result=None):
        now[0] += seconds
        return result

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    expected = np.arange(1000, dtype=np.int32)
    session = session_of(expect=lambda *_: takes(5))
    kept = []
    contender = session.checked(session.peer(lambda: takes(2, expected.copy()), kept), expected)
    assert contender() == 2
    assert len(kept) == 1


def test_time_limit_stops_cases():
    session = session_of()
    staging_session.measure(session, staging_python.cases(), 0)
    assert {entry["note"] for entry in session.report.entries} == {"the time was up"}


def test_promises_are_bars():
    assert all(case.name.startswith("python/") for case in staging_python.cases())
    targets = {bar.name: (bar.sense, bar.target) for case in staging_python.cases() for bar in case.bars}
    assert targets["Python d2h, 64 MiB, freed, torch .cpu().numpy()"] == ("at least", 8)
    assert targets["Python d2h, 1 GiB, freed, torch pinned"] == ("at least", 0.98)
    assert targets["Python small d2h, 4 B, beyond raw"] == ("at most", 1.5)
    assert targets["Python h2d from pageable, 64 MiB, torch"] == ("at least", 3)
    assert targets["Python d2h, transposed, 256 MiB, one run"] == ("at least", 0.99)
    assert targets["Python batch d2h, 4096 x 256 B, torch"] == ("at least", 30)
    assert targets["Python d2h, 64 KiB, freed, torch pinned"][1] is None


@pytest.mark.skipif(not gpu_fingerprint.capability()[1], reason="this machine has a GPU")
def test_nothing_measured_without_gpu(tmp_path):
    done = run("--json", str(tmp_path / "a.json"))
    assert done.returncode == 3, done.stderr
    assert "nothing measured" in done.stderr and not (tmp_path / "a.json").exists()


class HostTensor:
    """Stands for a torch.Tensor."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def cpu(self):
        return self

    def numpy(self):
        return self._array.copy()


def with_results_of(to_numpy: Any) -> tuple[Any, list[Any]]:
    """A session whose tensors are arrays, with dlbridge.to_numpy given, and a case of it."""
    array = np.arange(16_384, dtype=np.int32)
    session = session_of(
        source=lambda size: HostTensor(array),
        dlbridge=SimpleNamespace(to_numpy=to_numpy),
        pinned=lambda tensor: tensor.numpy,
        raw_contender=lambda tensor, expected, size: lambda: 1e-6,
    )
    return session, [case for case in staging_python.cases() if case.name == "python/freed/64 KiB"]


def test_missing_peers_are_skipped(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    session, (case,) = with_results_of(lambda tensor, device: tensor.numpy())
    session.freed(case.bars, **case.arguments)
    assert not session.report.any_failed()
    notes = {entry["name"].split(", ")[-1]: entry for entry in session.report.entries}
    assert [notes[name]["note"] for name in ("CuPy", "JAX", "Numba")] == ["no CuPy", "no JAX", "no Numba"]
    measured = notes["torch .cpu().numpy()"]
    assert (measured["bytes"], measured["kind"], len(measured["series"])) == (65_536, "bandwidth", 2)
    assert measured["value"] == 1  # both are the same call


def test_wrong_elements_break_cases():
    def wrong(tensor, device):
        made = tensor.numpy()
        made[5000] += 1
        return made

    session, chosen = with_results_of(wrong)
    staging_session.measure(session, chosen, 60)
    assert {entry["verdict"] for entry in session.report.entries} == {"BROKEN"}
    assert session.report.entries[0]["note"] == "RuntimeError: wrong content"


def test_ctypes_cost_is_subtracted(monkeypatch):
    times = {"ours": 9e-6, "torch": 12e-6, "raw": 8.5e-6, "ctypes": 0.7e-6}
    monkeypatch.setattr(
        staging_python, "interleave", lambda contenders, *_: {name: [times[name]] * 5000 for name in contenders}
    )
    tensor = HostTensor(np.zeros(1, np.int32))
    session = session_of(
        source=lambda size: tensor,
        raw_contender=lambda *_: None,
        dlbridge=SimpleNamespace(to_numpy=None),
    )
    (case,) = [case for case in staging_python.cases() if case.name == "python/small/4 B"]
    session.small(case.bars, **case.arguments)
    beyond, speed = session.report.entries
    assert beyond["value"] == pytest.approx(9 - (8.5 - 0.7)) and beyond["verdict"] == "passed"
    assert speed["value"] == pytest.approx(12 / 9) and speed["verdict"] == "passed"
    times["ours"] = 9.4e-6
    session.small(case.bars, **case.arguments)
    assert session.report.entries[2]["verdict"] == "FAILED"
