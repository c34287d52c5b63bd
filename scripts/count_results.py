"""Adds up the JUnit files of a test run: prints every skip with its reason, then "N passed, N failed, N skipped"."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def main(folder: Path) -> int:
    """Returns 1 where a case failed or none ran."""
    passed = failed = skipped = 0
    for report in sorted(folder.glob("*.xml")):
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname')}.{case.get('name')}"
            problem = next((child for child in case if child.tag in ("failure", "error")), None)
            skip = case.find("skipped")
            if problem is not None or case.get("status") == "fail":
                failed += 1
                print(f"FAILED  {report.stem}: {name}")
            elif skip is not None or case.get("status") in ("notrun", "disabled"):
                skipped += 1
                reason = skip.get("message", "") if skip is not None else case.get("status")
                print(f"skipped {report.stem}: {name}: {reason}")
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
