# SPDX-License-Identifier: Apache-2.0
"""python -m dlbridge.testing: all cases on the simulated GPU and of host memory, reports, and that cases can fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated_gpu

from dlbridge.testing import LAYOUTS, Unsupported, driver, report
from dlbridge.testing.choice import TOPICS, UnknownName, all_cases, chosen_cases, make_provider
from dlbridge.testing.frameworks import FRAMEWORKS
from dlbridge.testing.runner import Outcome, Runner
from isolated import HELPERS

needs_simulator = pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))
SMALL = r"elements.to_numpy\[(dense|offset)-float32\]"


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([HELPERS, *(entry for entry in sys.path if entry)])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def suite(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs it as its users do."""
    return python("-m", "dlbridge.testing", "gpu", *arguments)


# ---- on the simulated GPU


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any], ElementTree.Element]:
    """One run of everything, and its two reports."""
    folder = tmp_path_factory.mktemp("suite")
    simulated = ("--provider", "simulated_provider:SimulatedProvider")
    done = suite(*simulated, "--json", folder / "a.json", "--junit", folder / "a.xml")
    return done, json.loads((folder / "a.json").read_text()), ElementTree.parse(folder / "a.xml").getroot()


@needs_simulator
def test_every_case_passes(whole):
    done, document, _ = whole
    failed = [f"{case['name']}: {case['message']}" for case in document["cases"] if case["state"] == "failed"]
    assert failed == [] and done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@needs_simulator
def test_skips_name_missing_features(whole):
    _, document, _ = whole
    skipped = {case["name"].split("[")[0] for case in document["cases"] if case["state"] == "skipped"}
    assert skipped == {"elements.to_framework"}


@needs_simulator
@pytest.mark.parametrize("provider", ["EagerProvider", "RandomProvider"])
def test_cases_pass_on_other_schedulers(provider, tmp_path):
    done = suite(
        *("--provider", f"simulated_provider:{provider}", "--only", "^(order|asyncio|threads|memory|refusals)"),
        *("--json", tmp_path / "a.json"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "a.json").read_text())["passed"] > 100


# ---- reports


@needs_simulator
def test_json_report(whole):
    _, document, _ = whole
    assert [case["name"] for case in document["cases"]] == [case.name for case in all_cases()]
    for state in ("passed", "failed", "skipped"):
        counted = sum(case["state"] == state for case in document["cases"])
        assert document[state] == document["frameworks"]["simulator"][state] == counted
    assert document["frameworks"]["simulator"]["reason"] is None
    assert document["dlbridge"]["version"] and document["python"] and document["machine"]
    assert all(case["message"] for case in document["cases"] if case["state"] == "skipped")


@needs_simulator
def test_junit_report(whole):
    _, document, root = whole
    (found,) = root
    assert (found.tag, found.get("name")) == ("testsuite", "simulator")
    assert int(found.get("tests")) == len(document["cases"]) == len(found)
    assert int(found.get("failures")) == document["failed"]
    assert int(found.get("skipped")) == document["skipped"] == len(found.findall("testcase/skipped"))
    first = found[0]
    assert f"{first.get('classname').split('.')[1]}.{first.get('name')}" == document["cases"][0]["name"]


@needs_simulator
def test_output_ends_with_table(whole):
    done, document, _ = whole
    lines = done.stdout.rstrip().splitlines()
    assert lines[-1] == f"{document['passed']} passed, {document['failed']} failed, {document['skipped']} skipped"
    assert [cell.strip() for cell in lines[-5].split("|")] == ["framework", *TOPICS, "passed", "failed", "skipped"]
    assert lines[-3].split("|")[0].strip() == "simulator"
    assert re.search(
        r"^skipped \d+ of simulator: dlbridge has no call of its own.*\(elements.to_framework\)$", done.stdout, re.M
    )


def test_reports_show_failures():
    outcomes = [
        Outcome("mine", "order", "order.a[1]", "passed", 0.5),
        Outcome("mine", "order", "order.b", "failed", 0.25, "AssertionError: 1 \x1b of 2", "Traceback <&>"),
        Outcome("other", "memory", "memory.c", "skipped", 0.0, "no room"),
    ]
    root = ElementTree.fromstring(report.to_junit(outcomes))
    assert [suite.get("failures") for suite in root] == ["1", "0"]
    failure = root.find("testsuite/testcase/failure")
    assert (failure.get("message"), failure.text) == ("AssertionError: 1 ? of 2", "Traceback <&>")
    assert json.loads(report.to_json(outcomes, {}))["frameworks"]["mine"]["failed"] == 1
    lines = report.table(outcomes)
    assert lines[0].split() == ["framework", "|", "order", "|", "memory", "|", "passed", "|", "failed", "|", "skipped"]
    assert "1 FAILED" in lines[2] and lines[3].split("|")[2].strip() == "-"
    assert report.summary(outcomes) == "1 passed, 1 failed, 1 skipped"
    assert report.skips(outcomes) == ["skipped 1 of other: no room (memory.c)"]


# ---- what it ends with


def test_names_are_listed_and_unique():
    done = suite("--list", "--only", "^order")
    assert done.returncode == 0
    listed = done.stdout.split()
    assert listed == [case.name for case in all_cases() if case.topic == "order"]
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names)) > 1000
    assert {case.topic for case in all_cases()} == set(TOPICS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "nonsense"), "no case is called like 'nonsense'"),
        (("--frameworks", "tensorflow"), "no framework is called 'tensorflow'; expected one of dlbridge, cuda, torch"),
        (("--frameworks", ""), "no framework was named"),
        (("--provider", "nowhere:Class"), "nowhere:Class cannot be had: No module named 'nowhere'"),
        (("--provider", "wrong_providers:NoProvider"), "expected a subclass of dlbridge.testing.Provider"),
        (("--fly",), "unrecognized arguments: --fly"),
    ],
)
def test_wrong_arguments_end_with_2(arguments, message):
    done = suite(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_nothing_to_run_ends_with_3(tmp_path):
    done = suite("--provider", "wrong_providers:NoGpu", "--only", "^refusals", "--json", tmp_path / "a.json")
    assert done.returncode == 3
    assert "nothing: there is no such GPU\n" in done.stdout and "nothing could be run" in done.stdout
    assert re.search(r"^0 passed, 0 failed, 13 skipped$", done.stdout, re.M)
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["frameworks"]["nothing"]["reason"] == "there is no such GPU"


@pytest.mark.skipif(
    driver.why_not() is None, reason="this machine has a GPU: `python -m dlbridge.testing gpu` tests it"
)
def test_frameworks_name_missing_gpu():
    done = suite("--only", "^refusals")
    assert done.returncode == 3, done.stdout + done.stderr
    for name in FRAMEWORKS:
        assert re.search(rf"^{name}: .*(no CUDA driver|no GPU|not installed|sees no GPU)", done.stdout, re.M), name
    assert re.search(rf"^0 passed, 0 failed, {13 * len(FRAMEWORKS)} skipped$", done.stdout, re.M)


@needs_simulator
def test_time_limit_skips_cases():
    done = suite("--provider", "simulated_provider:SimulatedProvider", "--only", SMALL, "--seconds", "0")
    assert done.returncode == 3
    assert "skipped 2 of simulator: the time was up" in done.stdout


def test_suite_needs_no_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'cupy', 'jax', 'numba', 'pytest'): sys.modules[name] = None\n"
        "import dlbridge.testing.__main__ as suite, dlbridge.testing.child\n"
        "sys.exit(suite.main(['gpu', '--list', '--only', 'fork']))\n"
    )
    done = python("-c", code)
    assert (done.returncode, done.stdout.split()) == (0, ["process.in_its_own[forks]"]), done.stderr


# ---- that cases can fail


FOUND_BY = {  # mistake -> a case that has to find it
    "IgnoresStream": "order.producer_first[dense-object]",
    "IgnoresOffset": "elements.to_numpy[offset-float32]",
    "WritesEarly": "order.snapshot[dense]",
    "NeverWrites": "order.consumer_after[dense]",
    "ReadsOtherBits": "elements.from_dlpack[dense-uint8]",
    "NeverWaits": "order.producer_first[large-object]",
    "BreaksCaptures": "order.capture[dense]",
    "Complains": "elements.to_numpy[dense-float32]",
    "FailsToOpen": "provider.open",
    "FailsToClose": "provider.close",
}


@needs_simulator
@pytest.mark.parametrize("mistake", FOUND_BY)
def test_mistakes_are_found(mistake, tmp_path):
    found_by = FOUND_BY[mistake]
    only = f"^{re.escape(found_by)}$" if not found_by.startswith("provider") else SMALL
    done = suite("--provider", f"wrong_providers:{mistake}", "--only", only, "--json", tmp_path / "a.json")
    failed = [
        case["name"] for case in json.loads((tmp_path / "a.json").read_text())["cases"] if case["state"] == "failed"
    ]
    assert (done.returncode, failed) == (1, [found_by]), done.stdout[-2000:] + done.stderr[-2000:]
    assert f"FAILED {make_provider(f'wrong_providers:{mistake}').name} {found_by}: " in done.stdout


@needs_simulator
def test_no_mistake_no_failure():
    only = "|".join(f"^{re.escape(name)}$" for name in FOUND_BY.values() if not name.startswith("provider"))
    done = suite("--provider", "wrong_providers:Unreported", "--only", only, "--verbose")
    assert done.returncode == 0, done.stdout[-2000:]
    assert done.stdout.startswith("opened "), done.stdout[:200]


HOST_MISTAKES = {  # case -> a mistake that it has to find
    "exchange.export[offset-float32]": "IgnoresOffset",
    "exchange.export_shares[dense]": "ExportsCopies",
    "exchange.export_device": "NamesGpu",
    "exchange.take[dense-uint8]": "ReadsOtherBits",
    "exchange.take_shares": "TakesCopies",
    "exchange.writes_show[dense]": "ExportsCopies",
    "flags.writable": "ExportsReadOnly",
    "flags.read_only": "HidesReadOnly",
    "flags.read_only_taken": "WritesReadOnly",
    "flags.export_copy[True]": "IgnoresCopy",
    "flags.export_copy[False]": "AlwaysCopies",
    "lifetime.array_first": "FreesEarly",
    "lifetime.exports_are_dropped[True]": "LeaksExports",
    "lifetime.exports_on_another_thread": "ZeroesExports",
    "lifetime.taken_memory[True]": "KeepsTaken",
    "refusals.other_device": "IgnoresDevice",
    "refusals.newer_version": "RefusesNewer",
    "refusals.refused_memory[float8_e3m4]": "KeepsRefused",
}


def host_states(spec: str, only: str = "") -> dict[str, str]:
    """The states of the cases of the suite cpu, run in this process."""
    runner = Runner(60, lambda outcome: None)
    runner.run(make_provider(spec, "cpu"), spec, chosen_cases(only, "cpu"))
    return {outcome.name: outcome.state for outcome in runner.outcomes}


@pytest.mark.parametrize("case", HOST_MISTAKES)
def test_host_mistakes_are_found(case):
    only = f"^{re.escape(case)}$"
    assert host_states(f"host_providers:{HOST_MISTAKES[case]}", only) == {case: "failed"}
    assert host_states("host_providers:Right", only) == {case: "passed"}


def test_every_host_case_can_fail():
    assert {case.split("[")[0] for case in HOST_MISTAKES} == {
        f"{case.topic}.{case.function}" for case in all_cases("cpu")
    }


def test_host_frameworks_pass():
    done = python("-m", "dlbridge.testing", "cpu", "--only", r"float32|bfloat16|bool|^(flags|lifetime|refusals)")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    header, _, *rows = done.stdout.split("\n\n")[1].splitlines()
    assert [cell.strip() for cell in header.split("|")][:5] == [
        *("framework", "exchange", "flags", "lifetime", "refusals"),
    ]
    assert [row.split("|")[0].strip() for row in rows] == ["numpy", "torch", "jax"]


def test_suites_refuse_providers_of_each_other():
    for suite_name, spec in (("gpu", "host_providers:Right"), ("cpu", "wrong_providers:NoGpu")):
        done = python("-m", "dlbridge.testing", suite_name, "--provider", spec)
        assert done.returncode == 2 and f"for the suite {suite_name}" in done.stderr, done.stderr


HANGING = """
import sys
from dlbridge.testing.choice import chosen_cases, make_provider
from dlbridge.testing.runner import Runner
import os
runner = Runner(60, print, case_seconds=1)
cases = chosen_cases(r"elements.from_dlpack\\[(dense|offset)-float32\\]")
runner.run(make_provider("wrong_providers:Hangs"), "", cases)
states = [(outcome.state, outcome.message) for outcome in runner.outcomes]
assert [state for state, _ in states] == ["failed", "skipped"], states
assert "did not end in 1 s; it hangs here:" in states[0][1] and "in read" in states[0][1], states
assert states[1][1] == "an earlier case hangs" and runner.hanging
print("seen", flush=True)
os._exit(0)
"""


@needs_simulator
def test_hanging_cases_name_their_place():
    done = python("-c", HANGING)
    assert done.returncode == 0 and "seen" in done.stdout, done.stdout + done.stderr


# ---- its parts


def test_layouts_match_numpy():
    for layout in LAYOUTS.values():
        buffer = np.arange(layout.size, dtype=np.int32)
        view = layout.of(buffer)
        assert view.shape == layout.shape
        places = {int(place) for place in view.reshape(-1)}
        assert layout.overlapping == (len(places) < view.size), layout.name
        assert layout.row_major == (view.tobytes() == buffer.tobytes() and view.size == buffer.size), layout.name
        assert view.size == 0 or np.shares_memory(view, buffer)
    assert LAYOUTS["backwards"].of(np.arange(40))[0] == 39


class FakeDriver:
    """Stands for libcuda: notes the calls, and gives host memory as pinned memory."""

    def __init__(self, **answers: int) -> None:
        self.calls: list[str] = []
        self.answers = answers
        self.memory: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == "cuMemHostAlloc":
                self.memory.append(np.zeros(arguments[1].value, np.uint8))
                arguments[0]._obj.value = self.memory[-1].ctypes.data
            if name == "cuStreamCreate":
                arguments[0]._obj.value = 0x500
            return self.answers.get(name, 0)

        return call


def test_driver_holds_streams():
    library = FakeDriver()
    one = driver.Driver(library=library)
    hold = one.hold(one.new_stream())
    assert library.memory[0].view(np.uint32)[0] == 0 and "cuStreamWaitValue32_v2" in library.calls
    hold.release()
    hold.release()
    assert library.memory[0].view(np.uint32)[0] == 1
    assert library.calls.count("cuCtxPushCurrent_v2") == library.calls.count("cuCtxPopCurrent_v2") > 0


def test_nothing_is_pinned_or_freed_while_a_stream_is_held():
    library = FakeDriver()
    one = driver.Driver(library=library)
    before = len(library.calls)
    hold, other = one.hold(one.new_stream()), one.hold(one.new_stream())
    first, second = one.pinned(100), one.pinned(100)
    one.free(0x700)
    hold.release()
    one.free(0x701)
    assert not {"cuMemHostAlloc", "cuMemFree_v2", "cuCtxSynchronize"} & set(library.calls[before:])
    other.release()
    first[:], second[:] = 1, 2
    hold.release()
    assert np.all(first == 1) and np.all(second == 2)
    one.free(0x702)
    assert library.calls.count("cuMemFree_v2") == 3


def test_pinned_memory_is_used_again_after_the_device():
    library = FakeDriver()
    one = driver.Driver(library=library)
    size = library.memory[0].size // 2
    first, second, third = (one.pinned(size) for _ in range(3))
    assert np.shares_memory(first, third) and not np.shares_memory(first, second)
    assert library.calls.count("cuCtxSynchronize") == 1 == library.calls.count("cuMemHostAlloc")
    hold = one.hold(0)
    assert not np.shares_memory(one.pinned(size), first)
    hold.release()


def test_holds_expire():
    word = np.zeros(1, np.uint32)
    held = driver.DriverHold(word, seconds=0.01)
    held._timer.join(5)
    assert word[0] == 1


def test_unsupported_holds_are_skips():
    with pytest.raises(Unsupported, match="cuStreamWaitValue32_v2 answers 801"):
        driver.Driver(library=FakeDriver(cuStreamWaitValue32_v2=801)).hold(0)


def test_failed_captures_raise():
    library = FakeDriver(cuStreamEndCapture=901)
    with (
        pytest.raises(driver.DriverError, match="cuStreamEndCapture answers 901"),
        driver.Driver(library=library).capture(7),
    ):
        pass
    assert library.calls.count("cuCtxPushCurrent_v2") == library.calls.count("cuCtxPopCurrent_v2")


def test_shipped_frameworks_construct():
    for name in FRAMEWORKS:
        made = make_provider(name)
        assert made.name == name and made.device == "cuda:0"
    with pytest.raises(UnknownName):
        make_provider("nothing of the kind")


def test_unsupported_cases_are_skips():
    shown: list[Outcome] = []
    runner = Runner(60, shown.append)
    runner._add(make_provider("torch"), all_cases()[0], Unsupported("not this one"), 0.1)
    assert [(outcome.state, outcome.message) for outcome in runner.outcomes] == [("skipped", "not this one")]
    assert shown == runner.outcomes
