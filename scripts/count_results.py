# SPDX-License-Identifier: Apache-2.0
"""Adds up the JUnit files of a test run: prints every skip with its reason, then "N passed, N failed, N skipped".

    python scripts/count_results.py FOLDER

FOLDER/*.xml are reports of pytest and CTest; reports of GoogleTest lie in folders below. CTest reports a whole suite of
GoogleTest as one case, which counts only if the suite wrote no report, or failed without saying so in its report.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def has_problem(case: ElementTree.Element) -> bool:
    """Whether the case failed or could not run."""
    return case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail"


def main(folder: Path) -> int:
    """Returns 1 if a case failed or none ran."""
    passed = failed = skipped = 0
    reports = {path: list(ElementTree.parse(path).iter("testcase")) for path in sorted(folder.rglob("*.xml"))}
    names = {path: path.relative_to(folder).parts[0].removesuffix(".xml") for path in reports}
    suite_failed: dict[str, bool] = {}  # by "ctest-RUN.SUITE", of the reports in gtest-RUN
    for path, cases in reports.items():
        if path.parent != folder:
            for case in cases:
                suite = names[path].replace("gtest", "ctest") + f".{case.get('classname')}"
                suite_failed[suite] = suite_failed.get(suite, False) or has_problem(case)
    for path, cases in reports.items():
        for case in cases:
            suite = f"{names[path]}.{case.get('name')}"
            if path.parent == folder and suite in suite_failed and has_problem(case) <= suite_failed[suite]:
                continue
            name = f"{case.get('classname')}.{case.get('name')}"
            skip = case.find("skipped")
            if has_problem(case):
                failed += 1
                print(f"FAILED  {names[path]}: {name}")
            elif skip is not None or case.get("status") in ("notrun", "disabled"):
                skipped += 1
                reason = skip.get("message", "") if skip is not None else case.get("status")
                print(f"skipped {names[path]}: {name}: {' '.join(str(reason).split())}")
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
