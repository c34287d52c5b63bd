# SPDX-License-Identifier: Apache-2.0
"""What scripts/count_results.py makes of the reports of CTest, GoogleTest and pytest."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / "scripts")]

import count_results  # noqa: E402

FAILURE = "<failure/>"


@pytest.fixture
def count(tmp_path, capsys):
    """Writes reports {path: [(suite, case, inner XML)]} and counts them; the exit status and the printed lines."""

    def count_reports(reports):
        for name, cases in reports.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            inner = "".join(f'<testcase classname="{s}" name="{c}">{more}</testcase>' for s, c, more in cases)
            path.write_text(f"<testsuites>{inner}</testsuites>")
        return count_results.main(tmp_path), capsys.readouterr().out.splitlines()

    return count_reports


def test_suites_count_by_their_cases(count):
    skip = '<skipped message="no GPU"/>'
    reports = {
        "ctest-release.xml": [("Plan", "Plan", ""), ("Headers.copy", "Headers.copy", "")],
        "gtest-release/core_tests/Plan/core_tests.xml": [("Plan", "Shares", ""), ("Plan", "Copies", skip)],
        "pytest-python.xml": [("test_copies", "test_cast", "")],
    }
    assert count(reports) == (0, ["skipped gtest-release: Plan.Copies: no GPU", "3 passed, 0 failed, 1 skipped"])


def test_failed_case_counts_once(count):
    reports = {
        "ctest-asan.xml": [("Plan", "Plan", FAILURE)],
        "gtest-asan/core_tests/Plan/core_tests.xml": [("Plan", "Shares", FAILURE), ("Plan", "Copies", "")],
    }
    assert count(reports) == (1, ["FAILED  gtest-asan: Plan.Shares", "1 passed, 1 failed, 0 skipped"])


@pytest.mark.parametrize("other_run", [False, True])
def test_crash_after_the_report_counts(count, other_run):
    reports = {
        "ctest-asan.xml": [("Plan", "Plan", FAILURE)],
        "gtest-asan/core_tests/Plan/core_tests.xml": [("Plan", "Shares", "")],
    }
    if other_run:
        reports["gtest-release/core_tests/Plan/core_tests.xml"] = [("Plan", "Shares", FAILURE)]
    status, lines = count(reports)
    assert status == 1
    assert "FAILED  ctest-asan: Plan.Plan" in lines


def test_nothing_run_fails(count):
    assert count({}) == (1, ["0 passed, 0 failed, 0 skipped"])
