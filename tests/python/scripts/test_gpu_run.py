# SPDX-License-Identifier: Apache-2.0
"""What scripts/gpu makes of times, machines and results. No GPU is needed."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from pages import ROOT

sys.path[:0] = [str(ROOT / "benchmarks" / "cuda"), str(ROOT / "scripts")]

import gpu_fingerprint  # noqa: E402
import gpu_report  # noqa: E402
import gpu_run  # noqa: E402
import turns  # noqa: E402

AT_LEAST = turns.Bar("speed", "raw / ours", "at least", 0.97, 0.99)
AT_MOST = turns.Bar("cost", "ours / raw", "at most", 1.05)


class TestTurns:
    def test_quantiles_interpolate(self):
        assert turns.median([3.0, 1.0, 2.0]) == 2
        assert turns.median([4.0, 1.0, 3.0, 2.0]) == 2.5
        assert turns.quantile([50, 10, 40, 20, 30], 0.99) == pytest.approx(49.6)
        assert turns.quantile([1, 2], 1) == 2

    def test_quantiles_refuse_nothing(self):
        with pytest.raises(ValueError, match="no values"):
            turns.median([])
        with pytest.raises(ValueError, match="between 0 and 1"):
            turns.quantile([1.0], 1.5)

    def test_interval_holds_median(self):
        generator = random.Random(7)
        held = 0
        for seed in range(200):
            values = [generator.lognormvariate(0, 0.3) for _ in range(15)]
            middle, low, high = turns.bootstrap_median(values, seed, 400)
            assert low <= middle <= high
            held += low <= 1 <= high
        assert 180 <= held <= 199

    def test_contenders_take_turns(self):
        ran: list[str] = []

        def contender(name):
            return lambda: ran.append(name) or float(len(ran))

        names = ("a", "b", "c")
        seconds = turns.interleave({name: contender(name) for name in names}, 3, 40, random.Random(1))
        rounds = [ran[begin : begin + 3] for begin in range(0, len(ran), 3)]
        assert len(rounds) == 43
        assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
        assert len({tuple(one) for one in rounds}) == 6
        for name in names:
            assert [math.ceil(turn / 3) for turn in seconds[name]] == list(range(4, 44))

    def test_bars_judge_whole_interval(self):
        assert turns.judge(AT_LEAST, 0.97, 1.2) == "passed"
        assert turns.judge(AT_LEAST, 0.969, 1.2) == "FAILED"
        assert turns.judge(AT_MOST, 0.5, 1.05) == "passed"
        assert turns.judge(AT_MOST, 0.5, 1.051) == "FAILED"
        assert turns.judge(turns.Bar("shown", "", "at least", None), 0.1, 0.1) == "no bar"

    def test_medians_of_blocks(self):
        samples = [1.0] * 500 + [3.0] * 500 + [9.0] * 499
        assert turns.medians_of_blocks(samples) == [1, 3]

    def test_report_is_always_whole(self, tmp_path, capsys):
        path = tmp_path / "peers.json"
        report = turns.Report(path, {"seed": "7"})
        assert json.loads(path.read_text()) == {"seed": "7", "bars": []}
        report.add(turns.outcome(AT_LEAST, [0.98, 0.98], {"ours": [0.5, 0.25]}, 1))
        report.add(turns.outcome(AT_MOST, [1.0], {"ours": [2e-6] * 5000}, 1))
        assert not report.any_failed()
        report.add(turns.not_measured(AT_LEAST, "BROKEN", "wrong content"))
        assert report.any_failed()
        first, second, third = json.loads(path.read_text())["bars"]
        assert (first["value"], first["verdict"], first["series"][0]["seconds"]) == (0.98, "passed", [0.5, 0.25])
        assert second["series"] == [{"name": "ours", "count": 5000, "p50": 2e-6, "p99": 2e-6}]
        assert third["note"] == "wrong content" and "value" not in third
        assert capsys.readouterr().out.splitlines() == [
            "speed: 0.98 x [0.98, 0.98], at least 0.97 (goal 0.99): passed",
            "cost: 1 x [1, 1], at most 1.05: passed",
            "speed: BROKEN: wrong content",
        ]


class TestBars:
    """bars.py, with a program that writes what report.h promises."""

    BAR = {"name": "d2h", "figure": "raw / ours", "unit": "x", "sense": "at least", "target": 0.97, "goal": None}

    def run(self, tmp_path, *lines, status=0):
        program = tmp_path / "program"
        text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\necho $* >&2\nexit {status}\n")
        program.chmod(0o755)
        script = ROOT / "benchmarks" / "cuda" / "bars.py"
        command = [sys.executable, str(script), str(program), "--json", str(tmp_path / "bars.json"), "--rounds", "15"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_speed_cost_and_values(self, tmp_path):
        def series(ours, baseline):
            return [{"name": "ours", "seconds": ours}, {"name": "raw", "seconds": baseline}]

        done = self.run(
            tmp_path,
            {"facts": {"seed": "7", "device": "H200"}},
            {**self.BAR, "note": "", "ratio": "speed", "series": series([0.5, 0.5], [1.0, 1.0])},
            {**self.BAR, "note": "", "ratio": "cost", "series": series([1.0] * 1000, [2.0] * 500 + [4.0] * 500)},
            {**self.BAR, "note": "one run", "values": [3.0]},
            {**self.BAR, "note": "no room", "verdict": "skipped"},
        )
        written = json.loads((tmp_path / "bars.json").read_text())
        assert (written["seed"], written["device"]) == ("7", "H200")
        assert [entry.get("values") for entry in written["bars"]] == [[2, 2], [0.5, 0.25], [3], None]
        assert [entry["verdict"] for entry in written["bars"]] == ["passed", "FAILED", "passed", "skipped"]
        assert done.returncode == 1  # a bar was missed
        assert done.stderr == "--rounds 15\n"

    def test_other_output_and_status_pass_through(self, tmp_path):
        done = self.run(tmp_path, "small/4B: small d2h, 4 B (p50)", status=3)
        assert (done.stdout, done.returncode) == ("small/4B: small d2h, 4 B (p50)\n", 3)
        assert not (tmp_path / "bars.json").exists()


class TestFingerprint:
    def test_cpu(self):
        text = "processor\t: 0\nmodel name\t: Some CPU\nphysical id\t: 0\nflags\t\t: fpu hypervisor\n"
        text += "\nprocessor\t: 1\nmodel name\t: Some CPU\nphysical id\t: 1\n"
        assert gpu_fingerprint.cpu(text) == {"CPU": "Some CPU", "processors": "2", "sockets": "2", "hypervisor": "yes"}
        assert gpu_fingerprint.cpu("")["sockets"] == "1"

    def test_memory(self):
        meminfo = "MemFree: 1 kB\nMemTotal:       134217728 kB\n"
        assert gpu_fingerprint.memory(meminfo, "max\n") == {"memory": "128.0 GiB"}
        assert gpu_fingerprint.memory(meminfo, "2147483648")["memory of the control group"] == "2.0 GiB"

    def fake_smi(self, tmp_path, monkeypatch, script):
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])

    def test_nvidia_smi_runs_once(self, tmp_path, monkeypatch):
        self.fake_smi(tmp_path, monkeypatch, f"echo x >> {tmp_path}/asked\necho '5, 5, 16, 16'\n")
        assert gpu_fingerprint.link()["PCIe width, now"] == "16"
        assert (tmp_path / "asked").read_text() == "x\n"

    def test_unknown_nvidia_smi_query(self, tmp_path, monkeypatch):
        script = 'case "$1" in *,*|*width.max) exit 2;; *) echo 5;; esac\n'
        self.fake_smi(tmp_path, monkeypatch, script)
        answers = gpu_fingerprint.link()
        assert answers["PCIe generation, now"] == "5"
        assert answers["PCIe width, most"] == "unknown"

    def test_missing_driver_is_named(self):
        assert gpu_fingerprint.capability("libno-such-driver.so") == ("", "no CUDA driver")

    def test_fingerprint_is_text(self):
        facts = gpu_fingerprint.fingerprint(with_gpu=False)
        assert all(isinstance(fact, str) and fact for fact in facts.values())
        assert {"CPU", "memory", "kernel", "Python", "numpy", "nvcc"} <= facts.keys()


class TestDocument:
    def entry(self, name, verdict="passed", **more):
        return {
            **turns.outcome(turns.Bar(name, "raw / ours", "at least", 0.97), [0.98], {"ours": [1e-3]}, 1),
            "verdict": verdict,
            **more,
        }

    def test_bars_replace_older_ones(self, tmp_path):
        document = gpu_report.Document(tmp_path)
        document.set_bars("bars", [self.entry("a")])
        document.set_bars("peers", [self.entry("p")])
        document.set_bars("bars", [self.entry("a"), self.entry("b")])
        content = json.loads((tmp_path / "results.json").read_text())
        assert sorted(entry["name"] for entry in content["bars"]) == ["a", "b", "p"]

    def test_failure_is_remembered(self, tmp_path):
        document = gpu_report.Document(tmp_path)
        document.step("tests", "done", 3, "")
        document.set_bars("bars", [self.entry("a"), self.entry("n", "no bar"), self.entry("s", "skipped")])
        assert not document.failed()
        for verdict in ("FAILED", "BROKEN"):
            document.set_bars("bars", [self.entry("a", verdict)])
            assert document.failed()
        document.set_bars("bars", [])
        document.step("peers", "failed", 3, "")
        assert document.failed()

    def test_tables(self, tmp_path):
        document = gpu_report.Document(tmp_path)
        document.set_fingerprint({"GPU": "a | b"})
        document.step("tests", "done", 3.4, "12 passed")
        assert "Nothing was measured." in (tmp_path / "results.md").read_text()
        skipped = turns.not_measured(turns.Bar("x", "y", "at most", 64, None, "MiB"), "skipped", "no room")
        document.set_bars("bars", [self.entry("a", high=None), skipped])
        text = (tmp_path / "results.md").read_text()
        assert "| GPU | a \\| b |" in text
        assert "| tests | done | 3 | 12 passed |" in text
        assert "1 passed, 1 skipped" in text
        assert "Nothing was measured." not in text
        assert (
            "| a | raw / ours | 0.98 x | 0.98 to unknown | at least 0.97 |  | passed | ours: 1000.0 / 1000.0 |  |"
            in text
        )
        assert "| x | y |  |  | at most 64 |  | skipped |  | no room |" in text


class TestRun:
    def run(self, tmp_path, seconds=60.0, steps=gpu_run.STEPS):
        options = Namespace(steps=list(steps), seed=1, rounds=15, only="")
        return gpu_run.Run(tmp_path, gpu_report.Document(tmp_path), options, time.monotonic() + seconds, "90", "")

    def step(self, tmp_path, name, function, seconds=60.0):
        """What the document says of a step, and whether that is a failure."""
        run = self.run(tmp_path, seconds)
        gpu_run.perform(run, name, function)
        (step,) = run.document.content["steps"]
        return step["state"], step["note"], run.document.failed()

    def test_first_recent_dlpack_header_wins(self, tmp_path, monkeypatch):
        monkeypatch.delenv("DLPACK_INCLUDE_DIR", raising=False)
        headers = []
        for minor in (1, 3, 4):
            header = tmp_path / f"{minor}.h"
            header.write_text(f"#define DLPACK_MAJOR_VERSION 1\n#define DLPACK_MINOR_VERSION {minor}\n")
            headers.append(header)
        folder = gpu_run.dlpack_folder(tmp_path, headers)
        assert (folder / "dlpack" / "dlpack.h").read_text() == headers[1].read_text()
        with pytest.raises(gpu_run.StepFailed, match=r"1.h is 1.1.*DLPACK_INCLUDE_DIR"):
            gpu_run.dlpack_folder(tmp_path, headers[:1])
        with pytest.raises(gpu_run.StepFailed, match="none at all"):
            gpu_run.dlpack_folder(tmp_path, [])
        monkeypatch.setenv("DLPACK_INCLUDE_DIR", "/given")
        assert gpu_run.dlpack_folder(tmp_path, []) == Path("/given")

    def test_packages_are_searched(self, tmp_path):
        for place in ("torch/include/ATen", "tvm_ffi/include/dlpack"):
            (tmp_path / place).mkdir(parents=True)
            (tmp_path / place / "dlpack.h").write_text("")
        found = gpu_run.header_candidates([tmp_path])
        assert [path.parts[-2] for path in found] == ["dlpack", "ATen"]
        assert gpu_run.header_version(found[0]) == (0, 0)

    def test_slow_calls_are_killed(self, tmp_path):
        lines = []
        command = ["sh", "-c", "echo started; sleep 60 & wait"]
        assert gpu_run.call(command, tmp_path / "log", 1, lines.append) == 124
        assert lines == ["started"]
        assert "started" in (tmp_path / "log").read_text()

    def test_call_returns_status(self, tmp_path):
        assert gpu_run.call(["sh", "-c", 'exit "$CODE"'], tmp_path / "log", 30, CODE="7") == 7

    def test_steps_without_time_are_skipped(self, tmp_path, capsys):
        state, note, failed = self.step(tmp_path, "bars", lambda _: pytest.fail("there was no time for it"), 5)
        assert (state, failed) == ("skipped", False) and "30 s needed" in note

    def test_failed_steps_are_listed(self, tmp_path, capsys):
        def failing(_):
            raise gpu_run.StepFailed("ctest ended with 8")

        assert self.step(tmp_path, "tests", failing) == ("failed", "ctest ended with 8", True)

    def test_time_is_reserved(self, tmp_path):
        assert gpu_run.reserved(self.run(tmp_path), "bars") == gpu_run.RESERVED_SECONDS["bars"]
        assert gpu_run.reserved(self.run(tmp_path, steps=("build", "bars")), "bars") == 0
        assert (
            gpu_run.reserved(self.run(tmp_path, steps=("tests", "bars")), "tests") == gpu_run.RESERVED_SECONDS["tests"]
        )

    def test_figures_arrive_line_by_line(self, tmp_path, capsys):
        run = self.run(tmp_path)
        seen = []
        run.document.set_bars = lambda source, entries: seen.append([entry["name"] for entry in entries])
        program = tmp_path / "measures.py"
        program.write_text(
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from turns import Bar, Report, outcome\n"
            "report = Report(Path(sys.argv[sys.argv.index('--json') + 1]), {})\n"
            "for name in 'ab': report.add(outcome(Bar(name, '', 'at least', 1), [2.0], {}, 1))\n"
        )
        status = gpu_run.measure(run, "fake", [sys.executable, str(program), str(ROOT / "benchmarks" / "cuda")], 30)
        assert status == 0
        assert len(seen) == 3  # after each of two lines, and at the end
        assert seen[0][:1] == ["a"] and seen[-1] == ["a", "b"]
        assert not (tmp_path / "fake.json").exists()

    def test_missed_bars_fail_no_step(self):
        gpu_run.judged(1, "bars")
        with pytest.raises(gpu_run.StepFailed, match="ended with 124"):
            gpu_run.judged(124, "bars")

    def test_every_step_has_its_times(self):
        assert set(gpu_run.STEPS) == set(gpu_run.LEAST_SECONDS) == set(gpu_run.RESERVED_SECONDS)
        assert gpu_run.RESERVED_SECONDS[gpu_run.STEPS[-1]] == 0

    def test_given_package_is_used(self, tmp_path, monkeypatch):
        monkeypatch.setenv("DLBRIDGE_PACKAGE", str(tmp_path))
        with pytest.raises(gpu_run.StepFailed, match="holds no built dlbridge"):
            gpu_run.package_folder()
        (tmp_path / "dlbridge").mkdir()
        (tmp_path / "dlbridge" / "_core.cpython.so").touch()
        assert gpu_run.package_folder() == tmp_path
        assert gpu_run.python_parts() == ["-DDLBRIDGE_NUMPY=OFF", "-DDLBRIDGE_PYTHON=OFF"]
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        assert gpu_run.package_path() == {"PYTHONPATH": f"{tmp_path}:/elsewhere"}

    def test_step_without_package_is_skipped(self, tmp_path, monkeypatch):
        monkeypatch.delenv("DLBRIDGE_PACKAGE", raising=False)
        monkeypatch.setattr(gpu_run, "BUILD", tmp_path / "none")
        state, note, failed = self.step(tmp_path, "interop", gpu_run.interop)
        assert (state, failed) == ("skipped", False) and "DLBRIDGE_PACKAGE" in note

    @pytest.mark.parametrize(("status", "state"), [(0, "done"), (1, "failed"), (3, "failed")])
    def test_suite_status_ends_step(self, status, state, tmp_path, monkeypatch):
        """With a package whose suite says how it ended."""
        package = tmp_path / "dlbridge"
        (package / "testing").mkdir(parents=True)
        (package / "_core.so").touch()
        (package / "__init__.py").touch()
        (package / "testing" / "__init__.py").touch()
        (package / "testing" / "__main__.py").write_text(
            f"import sys\nprint(sys.argv[1:3])\nprint('2 passed, 0 failed, 1 skipped')\nsys.exit({status})\n"
        )
        monkeypatch.setenv("DLBRIDGE_PACKAGE", str(tmp_path))
        found, note, _ = self.step(tmp_path, "interop", gpu_run.interop, 300)
        assert found == state and note.startswith("2 passed, 0 failed, 1 skipped")
        assert "['gpu', '--seconds']" in (tmp_path / "interop.log").read_text()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((), "outdir"), (("out", "--steps", "build,fly"), "no step is called fly; expected some of build, tests")],
    )
    def test_wrong_arguments(self, arguments, message, tmp_path):
        done = subprocess.run(
            [str(ROOT / "scripts" / "gpu"), *arguments],
            cwd=tmp_path,
            env={**os.environ, "DLBRIDGE_PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert message in done.stderr
