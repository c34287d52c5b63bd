"""Adds up the JUnit files of a test run: prints every skip with its reason, then "N passed, N failed, N skipped".

A CTest report has a GoogleTest program as one case, which counts only where the program's own report does not tell.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def has_problem(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail"


def main(folder: Path) -> int:
    """Returns 1 where a case failed or none ran."""
    passed = failed = skipped = 0
    reports = {path: list(ElementTree.parse(path).iter("testcase")) for path in sorted(folder.rglob("*.xml"))}
    programs: dict[str, bool] = {}  # which may have a report for each half
    for path, cases in reports.items():
        if path.parent != folder:
            programs[path.stem] = programs.get(path.stem, False) or any(map(has_problem, cases))
    for path, cases in reports.items():
        report = path.relative_to(folder).parts[0].removesuffix(".xml")
        for case in cases:
            name = f"{case.get('classname')}.{case.get('name')}"
            program = str(case.get("name")).split(".")[0]
            if path.parent == folder and program in programs and has_problem(case) <= programs[program]:
                continue
            skip = case.find("skipped")
            if has_problem(case):
                failed += 1
                print(f"FAILED  {report}: {name}")
            elif skip is not None or case.get("status") in ("notrun", "disabled"):
                skipped += 1
                reason = skip.get("message", "") if skip is not None else case.get("status")
                print(f"skipped {report}: {name}: {reason}")
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
