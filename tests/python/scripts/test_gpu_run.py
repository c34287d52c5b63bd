# SPDX-License-Identifier: Apache-2.0
"""What scripts/gpu makes of times, machines and results. No GPU is needed."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from pages import ROOT

sys.path[:0] = [str(ROOT / "benchmarks" / "cuda"), str(ROOT / "scripts")]

import gpu_build  # noqa: E402
import gpu_calls  # noqa: E402
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
        path = tmp_path / "bars.json"
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
        limits = "Max locked memory         8388608              8388608              bytes\n"
        assert gpu_fingerprint.memory(meminfo, "max\n", limits) == {
            "memory": "128.0 GiB", "memory.max": "max", "locked memory, most": "8192 KiB"
        }  # fmt: skip
        found = gpu_fingerprint.memory(meminfo, "2147483648")
        assert (found["memory.max"], found["locked memory, most"]) == ("2.0 GiB", "unlimited")

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
        assert {"CPU", "memory", "kernel", "Python", "numpy"} <= facts.keys()

    def test_sentence_names_versions_and_limits(self):
        facts = {"GPU": "H200", "ECC": "on", "memory": "12.0 GiB", "memory.max": "max", "torch": "2.11.0"}
        found = gpu_fingerprint.sentence(facts, "")
        assert found == "GPU H200; memory 12.0 GiB; memory.max max; torch 2.11.0"
        assert gpu_fingerprint.sentence(facts, "no CUDA driver").startswith("no CUDA driver; GPU")

    def test_hanging_driver_is_named(self, monkeypatch):
        monkeypatch.setattr(gpu_fingerprint, "run", lambda *command, timeout: "")
        assert gpu_fingerprint.capability() == ("", "the CUDA driver did not answer in 30 s")


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
        document.set_bars("others", [self.entry("p")])
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
        document.step("python", "failed", 3, "")
        assert document.failed()

    def test_tables(self, tmp_path):
        document = gpu_report.Document(tmp_path)
        document.set_fingerprint({"GPU": "a | b"})
        document.step("tests", "done", 3.4, "12 passed")
        document.set_found("a machine")
        assert "Nothing was measured." in (tmp_path / "results.md").read_text()
        document.answer("held: cudaMalloc", "kernel", "waits")
        document.case("tests", "A.b", "hung", "printed nothing for 10 s")
        skipped = turns.not_measured(turns.Bar("x", "y", "at most", 64, None, "MiB"), "skipped", "no room")
        document.set_bars("bars", [self.entry("a", high=None), skipped])
        text = (tmp_path / "results.md").read_text()
        assert text.startswith("a machine\n")
        assert "| held: cudaMalloc | kernel | waits |" in text
        assert "| tests | A.b | hung | printed nothing for 10 s |" in text
        assert "| GPU | a \\| b |" in text
        assert "| tests | done | 3 | 12 passed |" in text
        assert "1 passed, 1 skipped" in text
        assert "Nothing was measured." not in text
        assert (
            "| a | raw / ours | 0.98 x | 0.98 to unknown | at least 0.97 |  | passed | ours: 1000.0 / 1000.0 |  |"
            in text
        )
        assert "| x | y |  |  | at most 64 |  | skipped |  | no room |" in text


def program(folder, name, *lines):
    """A shell script."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in ("#!/bin/sh", *lines)))
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that stands for a prepared one, and for the one where it is built."""
    monkeypatch.setattr(gpu_build, "folder", tmp_path)
    monkeypatch.setattr(gpu_build, "BUILD", tmp_path / "build")
    return tmp_path


def run_of(folder, seconds=60.0, steps=tuple(gpu_run.STEPS)):
    options = Namespace(steps=list(steps), seed=1, rounds=15, only="")
    return gpu_run.Run(folder, gpu_report.Document(folder), options, time.monotonic() + seconds, "90")


def performed(run, name, step):
    """What results.json says of a step."""
    gpu_run.perform(run, name, step)
    (found,) = json.loads((run.out / "results.json").read_text())["steps"]
    return found["state"], found["note"]


class TestPlan:
    def test_seconds_sum_up(self):
        assert sum(gpu_run.PLAN.values()) == 560
        assert list(gpu_run.PLAN) == list(gpu_run.STEPS)

    def test_each_step_gets_its_seconds(self):
        left = 560.0
        for name, planned in gpu_run.PLAN.items():
            assert gpu_run.share(list(gpu_run.STEPS), name, left) == pytest.approx(planned)
            left -= planned

    def test_shares_follow_what_is_left(self):
        chosen = ["bars", "python"]
        bars, python = gpu_run.PLAN["bars"], gpu_run.PLAN["python"]
        assert gpu_run.share(chosen, "bars", (bars + python) / 2) == pytest.approx(bars / 2)
        assert gpu_run.share(chosen, "bars", 2 * (bars + python)) == pytest.approx(2 * bars)
        assert gpu_run.share(chosen, "python", 30) == pytest.approx(30)

    def test_steps_without_time_are_skipped(self, folder):
        state, note = performed(
            run_of(folder, 20, ["bars"]), "bars", lambda *_: pytest.fail("there was no time for it")
        )
        assert state == "skipped" and f"20 s left of {gpu_run.PLAN['bars']}" in note


class TestCalls:
    def test_slow_calls_are_killed(self, tmp_path):
        lines = []
        command = ["sh", "-c", "echo started; sleep 60 & wait"]
        assert gpu_calls.call(command, tmp_path / "log", 1, lines.append) == gpu_calls.LATE
        assert lines == ["started"]
        assert "started" in (tmp_path / "log").read_text()

    def test_killed_python_says_where_it_hangs(self, tmp_path):
        hangs = "def waits():\n    print('waiting')\n    time.sleep(60)\n"
        command = [sys.executable, "-c", f"import time\n{hangs}waits()"]
        assert gpu_calls.call(command, tmp_path / "log", 30, silence=0.5, start=20) == gpu_calls.LATE
        assert "in waits" in (tmp_path / "log").read_text()

    def test_call_returns_status(self, tmp_path):
        assert gpu_calls.call(["sh", "-c", 'exit "$CODE"'], tmp_path / "log", 30, CODE="7") == 7

    def cases(self, tmp_path, *lines, names=("A.a", "A.b", "A.c", "A.d"), seconds=60):
        """What run_cases makes of a program that gets names and prints as GoogleTest does."""
        made = program(tmp_path, "suite", 'for name in "$@"; do', 'echo "[ RUN      ] $name"', *lines, "done")
        shown = []
        found = gpu_calls.run_cases(
            names, lambda left: [str(made), *left], gpu_calls.GoogleTest(), tmp_path / "log", seconds, shown.append, 0.5
        )
        return found, shown

    OK = 'echo "[       OK ] $name (0 ms)"'

    def test_hanging_case_costs_its_limit(self, tmp_path):
        found, shown = self.cases(tmp_path, '[ "$name" = A.b ] && sleep 60', self.OK)
        assert found == {"A.a": "passed", "A.b": "hung", "A.c": "passed", "A.d": "passed"}
        assert ("A.b", "hung", "printed nothing for 0.5 s") in shown
        assert (tmp_path / "log").read_text().count("$ ") == 2

    def test_crashing_cases_end_nothing_else(self, tmp_path):
        found, shown = self.cases(tmp_path, 'case "$name" in A.a|A.c) kill -SEGV $$;; esac', self.OK)
        assert found == {"A.a": "crashed", "A.b": "passed", "A.c": "crashed", "A.d": "passed"}
        assert ("A.a", "crashed", "the program ended with -11") in shown

    def test_failed_case_says_why(self, tmp_path):
        failed = 'echo "x.cpp:3: Failure"; echo "  2 is not 3"; echo "[  FAILED  ] $name, where GetParam() = 1 (2 ms)"'
        found, shown = self.cases(tmp_path, failed, names=["A.a"])
        assert shown == [("A.a", "failed", "x.cpp:3: Failure 2 is not 3")]

    def test_program_that_does_not_start_ends_the_suite(self, tmp_path):
        with pytest.raises(gpu_calls.StepFailed, match="suite ended twice with 127 before its first case"):
            self.cases(tmp_path, "exit 127")

    def test_cases_without_time_are_missing(self, tmp_path):
        found, _ = self.cases(tmp_path, '[ "$name" = A.c ] && while :; do echo; sleep 0.1; done', self.OK, seconds=2)
        assert found == {"A.a": "passed", "A.b": "passed"}

    def test_outcomes_of_dlbridge_testing(self):
        outcome = gpu_calls.testing_outcome
        assert outcome("passed torch elements.out[dense-float32]") == ("elements.out[dense-float32]", "passed", "")
        assert outcome("FAILED torch order.batch: AssertionError: 1 is not 2") == (
            "order.batch", "failed", "AssertionError: 1 is not 2"
        )  # fmt: skip
        assert outcome("skipped jax order.x[a] no such stream") == ("order.x[a]", "skipped", "no such stream")
        assert outcome("framework | elements | order") is None

    def test_listed_cases_of_googletest(self):
        listed = "Running main()\nA/Suite.\n  One/0  # GetParam() = 3\n  Two/1\nB.\n  Three\n"
        assert gpu_calls.GoogleTest.names(listed) == ["A/Suite.One/0", "A/Suite.Two/1", "B.Three"]


class TestBuild:
    def prepare(self, folder, monkeypatch, *pythons):
        """What prepare() ends with, and the commands that it ran, with a cmake that makes what it is asked for."""
        cmake = (
            f'echo "$@" >> {folder}/ran',
            'case "$1" in',
            '--install) mkdir -p "$6/dlbridge/lib"; touch "$6/dlbridge/_core.so";;',
            f'--build) for name in {" ".join(gpu_build.PROGRAMS)}; do cp /bin/true "$2/$name"; done;;',
            '*) mkdir -p "$4";;',
            "esac",
        )
        path = f"{program(folder / 'tools', 'cmake', *cmake).parent}:{os.environ['PATH']}"
        monkeypatch.setattr(gpu_build, "environment", lambda: {"PATH": path})
        monkeypatch.setenv("PATH", path)
        monkeypatch.setenv("LD_LIBRARY_PATH", "")
        status = gpu_build.prepare(folder / "prepared", list(pythons))
        return status, (folder / "ran").read_text().splitlines() if (folder / "ran").exists() else []

    def test_prepared_folder_is_used(self, folder, monkeypatch, capsys):
        monkeypatch.setattr(gpu_build, "abi", lambda python=sys.executable: f"abi-{Path(python).name}")
        status, ran = self.prepare(folder, monkeypatch, "/bin/3.11", "/bin/3.12")
        assert status == 0 and "MiB" in capsys.readouterr().out
        (first,), (second,) = ([line for line in ran if f"abi-{minor} -G" in line] for minor in ("3.11", "3.12"))
        assert "-DDLBRIDGE_BENCHMARKS=ON" in first and "-DDLBRIDGE_BENCHMARKS=OFF" in second  # programs are built once
        assert [gpu_build.PROBE in line for line in ran if line.startswith("--build")] == [True, False]

        assert gpu_build.use(folder / "none") == {}
        monkeypatch.setenv("LD_LIBRARY_PATH", "/old")
        prepared = folder / "prepared"
        assert gpu_build.use(prepared)["packages"] == "abi-3.11, abi-3.12"
        libraries = [f"{prepared}/abi-{minor}/dlbridge/lib" for minor in ("3.11", "3.12")]
        assert os.environ["LD_LIBRARY_PATH"].split(":") == [*libraries, "/old"]
        assert gpu_build.program(gpu_build.PROBE).parent == prepared
        monkeypatch.setattr(gpu_build, "abi", lambda: "abi-3.12")
        monkeypatch.setenv("PYTHONPATH", "/elsewhere")
        assert gpu_run.package_path() == {"PYTHONPATH": f"{prepared}/abi-3.12:/elsewhere"}
        monkeypatch.setattr(gpu_build, "abi", lambda: "abi-3.13")
        with pytest.raises(gpu_build.StepSkipped, match=r"no package was prepared for this Python, abi-3\.13"):
            gpu_build.package_folder()

    def test_what_cannot_be_prepared_is_named(self, folder, monkeypatch, capsys):
        assert self.prepare(folder, monkeypatch, "/no/python3.12") == (1, [])
        assert capsys.readouterr().out == "there is no /no/python3.12\n"
        program(folder / "tools", "cmake", "echo a reason; exit 7")
        assert gpu_build.prepare(folder / "prepared", [sys.executable]) == 1
        assert re.match(r"\$ cmake .*\na reason\ncmake -S \. ended with 7: see", capsys.readouterr().out)

    def test_folder_that_cannot_be_carried_is_an_error(self, folder, monkeypatch):
        monkeypatch.setattr(gpu_build, "MOST_BYTES", 1000)
        assert self.prepare(folder, monkeypatch, sys.executable)[0] == 1


class TestSteps:
    def test_step_without_program_is_skipped(self, folder):
        for name in ("probe", "tests", "timings", "interop", "bars", "python", "process"):
            run = run_of(folder, steps=[name])
            assert performed(run, name, gpu_run.STEPS[name])[0] == "skipped", name

    def test_results_are_there_after_every_step(self, folder):
        run = run_of(folder, 600)

        def failing(*_):
            raise gpu_run.StepFailed("a reason")

        for number, (step, state) in enumerate(
            ((lambda *_: "all well", "done"), (failing, "failed"), (lambda *_: 1 / 0, "failed"))
        ):
            gpu_run.perform(run, "tests", step)
            steps = json.loads((folder / "results.json").read_text())["steps"]
            assert len(steps) == number + 1 and steps[-1]["state"] == state
            assert f"| tests | {state} |" in (folder / "results.md").read_text()
        assert steps[1]["note"] == "a reason" and "ZeroDivisionError" in steps[2]["note"]
        assert run.document.failed()

    def test_contract_suite(self, folder, monkeypatch):
        monkeypatch.setattr(gpu_run, "held_tests", lambda: {"StagingOrder.HeldStreamDelaysNoOther"})
        program(
            folder, gpu_build.TESTS,
            'case "$1" in',
            '--gtest_list_tests) echo "StagingOrder."; echo "  HeldStreamDelaysNoOther"; echo "  Other";;',
            '*) echo "$1 $CUDA_DEVICE_MAX_CONNECTIONS"; for name in StagingOrder.HeldStreamDelaysNoOther '
            'StagingOrder.Other; do case "$1" in *$name*) echo "[       OK ] $name (1 ms)";; esac; done;;', "esac",
        )  # fmt: skip
        assert performed(run_of(folder, 600), "tests", gpu_run.tests) == ("done", "2 passed")
        assert performed(run_of(folder, 600), "held-tests", gpu_run.tests_held) == ("done", "1 passed")
        lines = (folder / "tests.log").read_text().splitlines()
        assert "--gtest_filter=StagingOrder.HeldStreamDelaysNoOther:StagingOrder.Other 32" in lines
        assert "--gtest_filter=StagingOrder.HeldStreamDelaysNoOther " in lines

    def package(self, folder, *lines):
        """A package whose suite has two cases."""
        package = folder / gpu_build.abi() / "dlbridge"
        (package / "testing").mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "testing" / "__init__.py").touch()
        (package / "testing" / "cases_order.py").write_text("def late(bench):\n    with bench.held(1):\n        pass\n")
        text = "import os, re, sys, time\nnames = ['elements.out[a]', 'memory.full', 'order.late', 'process.forks']\n"
        text += "if '--list' in sys.argv:\n    sys.exit(print('\\n'.join(names)))\n"
        text += "only, framework = sys.argv[-1], sys.argv[-3]\n"
        text += "for name in filter(lambda name: re.search(only, name), names):\n"
        (package / "testing" / "__main__.py").write_text(text + "".join(f"    {line}\n" for line in lines))

    def test_interop_has_three_parts(self, folder):
        self.package(folder, "print('passed', framework, name, os.environ.get('CUDA_DEVICE_MAX_CONNECTIONS'))")
        for name, passed in (("interop", 8), ("held-interop", 4), ("process", 1)):
            assert performed(run_of(folder, 600), name, gpu_run.STEPS[name]) == ("done", f"{passed} passed")
        log = (folder / "interop.log").read_text()
        assert "passed jax elements.out[a] 32" in log and "passed jax order.late None" in log
        assert "passed torch process.forks" in log and "passed cupy process.forks" not in log
        assert log.index("passed jax memory.full") < log.index("passed torch elements.out[a]")  # what there is most of

    def test_interop_names_failures(self, folder):
        self.package(folder, "print('FAILED', framework, name + ': no luck')", "sys.exit(1)")
        state, note = performed(run_of(folder, 600), "process", gpu_run.process)
        assert (state, note) == ("failed", "1 failed")
        assert "| process torch | process.forks | failed | no luck |" in (folder / "results.md").read_text()

    def test_answers_are_kept_where_a_case_hangs(self, folder, monkeypatch):
        answer = '{"case": "time: a", "fact": "x", "value": "1 ns"}'
        ended = '{"case": "%s", "ended": ""}\\n{no JSON}\\n'
        program(
            folder, gpu_build.PROBE,
            '[ "$1" = --list ] && printf "versions\\ntime: a\\ntime: b\\n" && exit',
            f"[ \"$1\" = 'time: a' ] && echo '{answer}' && sleep 60",
            f"for name; do printf '{ended}' \"$name\"; done",
        )  # fmt: skip
        ask = gpu_run.ask
        monkeypatch.setattr(gpu_run, "ask", lambda *arguments, **more: ask(*arguments, **{**more, "case_seconds": 0.5}))
        assert performed(run_of(folder, 600), "timings", gpu_run.timings) == ("failed", "1 hung, 1 passed")
        text = (folder / "results.md").read_text()
        assert "| time: a | x | 1 ns |" in text and "| probe | time: a | hung |" in text

    def test_figures_arrive_line_by_line(self, folder):
        run = run_of(folder)
        seen = []
        run.document.set_bars = lambda source, entries: seen.append([entry["name"] for entry in entries])
        measures = folder / "measures.py"
        measures.write_text(
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path\n"
            "from turns import Bar, Report, outcome\n"
            "report = Report(Path(sys.argv[sys.argv.index('--json') + 1]), {})\n"
            "for name in 'ab': report.add(outcome(Bar(name, '', 'at least', 1), [2.0], {}, 1))\n"
        )
        command = [sys.executable, str(measures), str(ROOT / "benchmarks" / "cuda")]
        assert gpu_run.measure(run, "fake", command, 30, "") == 0
        assert len(seen) == 3  # after each of two lines, and at the end
        assert seen[0][:1] == ["a"] and seen[-1] == ["a", "b"]
        assert not (folder / "fake.json").exists()

    def test_groups_of_bars(self, folder):
        made = str(program(folder, "bars", 'echo "$6"', '[ "$6" = ^b ] && exit 3', "exit 1"))
        run = run_of(folder)
        assert gpu_run.in_groups(run, "bars", [made], 60, ["^a"]) == ""  # missed bars stand in the table
        with pytest.raises(gpu_run.StepFailed, match=r"^\^b ended with 3$"):
            gpu_run.in_groups(run, "bars", [made], 60, ["^a", "^b"])
        assert (folder / "bars.log").read_text().split("\n")[1::2] == ["^a", "^(?!a)", "^a", "^b", "^(?!a|b)"]

    def test_groups_name_cases(self):
        names = subprocess.run(
            [*gpu_run.python_command(), "--list"], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        for group in gpu_run.PYTHON_GROUPS:
            assert any(re.search(group, name) for name in names), group

    def test_sources_say_what_holds_a_stream(self, tmp_path, monkeypatch):
        assert gpu_run.held_tests()
        folder = tmp_path / "tests" / "contract"
        folder.mkdir(parents=True)
        (folder / "a_test.cpp").write_text("TEST_F(A, One) {\n  b.hold(s);\n}\nTEST_P(A, Two) {\n  a();\n}\n")
        monkeypatch.setattr(gpu_run, "ROOT", tmp_path)
        assert gpu_run.held_tests() == {"A.One"}


class TestProbe:
    def test_script_answers_as_the_program_does(self):
        def run(*arguments):
            done = subprocess.run(
                [*gpu_run.PROBE_PY, *arguments], capture_output=True, text=True, check=False,
                env={**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "-1"},
            )  # fmt: skip
            return done.returncode, done.stdout.splitlines()

        assert "first stage" in run("--list")[1]
        assert run("nothing")[0] == 2
        status, lines = run("first stage")
        assert status == 0 and json.loads(lines[-1])["case"] == "first stage" and "ended" in json.loads(lines[-1])


class TestCommand:
    def run(self, tmp_path, *arguments):
        command = [str(ROOT / "scripts" / "gpu"), *arguments]
        environment = {**os.environ, "DLBRIDGE_PYTHON": sys.executable}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((), "outdir"), (("out", "--steps", "probe,fly"), "no step is called fly; expected some of probe, tests")],
    )
    def test_wrong_arguments(self, arguments, message, tmp_path):
        done = self.run(tmp_path, *arguments)
        assert done.returncode == 2
        assert message in done.stderr

    def test_nothing_prepared(self, tmp_path):
        done = self.run(tmp_path, "out", "--prepared", "none")
        assert done.returncode == 1 and "call scripts/gpu --prepare first" in done.stdout

    @pytest.mark.skipif(not gpu_fingerprint.capability()[1], reason="this machine has a GPU")
    def test_dry_run(self, tmp_path):
        program(tmp_path / "carried", gpu_build.PROBE, 'printf "versions\\ntime: a\\n"')
        facts = {"packages": "cpython-39", "commit": "abc"}
        (tmp_path / "carried" / "prepared.json").write_text(json.dumps(facts))
        done = self.run(tmp_path, "out", "--prepared", "carried", "--steps", "timings")
        assert done.returncode == 3, done.stdout + done.stderr
        assert re.match("no .*; packages cpython-39; commit abc$", done.stdout.splitlines()[0])
        assert "  time: a\n" in done.stdout and f"1 cases would run in {gpu_run.PLAN['timings']} s" in done.stdout
        assert "1 cases would run" in (tmp_path / "out" / "results.md").read_text()
