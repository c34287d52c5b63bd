# SPDX-License-Identifier: Apache-2.0
"""Builds the site and checks its links; scripts/docs calls it, and says how."""

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
HTML = SITE / "html"
# Doxygen has one project for each header of a name: both have a device.h and a c_api.h.
HEADERS = {
    "core": [f"{module}/include/dlbridge" for module in ("core", "adapters/numpy", "adapters/torch", "python")],
    "cuda": ["cuda/include/dlbridge/cuda"],
}


class Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and (name == "id" or (name == "name" and tag == "a")):
                self.ids.add(value)
            elif value and name in ("href", "src") and tag in ("a", "img"):
                self.links.add(value)


def broken_links(folder: Path) -> list[str]:
    """Each link of a page to a file or an id that the site lacks."""
    pages = {path: Page(path) for path in sorted(folder.rglob("*.html"))}
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            found = target.exists() and (not url.fragment or target not in pages or url.fragment in pages[target].ids)
            if not found:
                broken.append(f"{path.relative_to(folder)}: {link}")
    return broken


def leave_out_private(path: Path) -> None:
    """Remove private members from a class: Doxygen writes them into XML whatever its settings say."""
    tree = ElementTree.parse(path)
    for parent in tree.iterfind("compounddef"):
        for section in parent.findall("sectiondef"):
            if section.get("kind", "").startswith("private"):
                parent.remove(section)
    tree.write(path)


def run_doxygen() -> str:
    """Write the XML of the headers; returns why not, or nothing."""
    shutil.rmtree(SITE / "doxygen", ignore_errors=True)
    if shutil.which("doxygen") is None:
        return "Doxygen is not installed (apt-get install doxygen)"
    settings = (ROOT / "docs" / "Doxyfile").read_text(encoding="utf-8")
    for name, folders in HEADERS.items():
        output = SITE / "doxygen" / name
        output.mkdir(parents=True)
        text = f"{settings}\nINPUT = {' '.join(folders)}\nOUTPUT_DIRECTORY = {output}\n"
        subprocess.run(["doxygen", "-"], input=text, cwd=ROOT, text=True, check=True)
        for path in output.rglob("class*.xml"):
            leave_out_private(path)
    os.environ["DLBRIDGE_DOXYGEN_XML"] = str(SITE / "doxygen")
    return ""


def sphinx(builder: str) -> str:
    """Run a builder of Sphinx; returns what is wrong, or nothing."""
    folders = [str(ROOT / "docs"), str(SITE / builder), "-d", str(SITE / "doctrees")]
    command = [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-E", "-W", "--keep-going", *folders]
    return "" if subprocess.run(command, check=False).returncode == 0 else "warnings of Sphinx, see above"


def main() -> int:
    """Returns 0 where everything is in order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--external", action="store_true", help="ask the servers that links name")
    parser.add_argument("--junit", type=Path, help="write a report")
    options = parser.parse_args()

    shutil.rmtree(HTML, ignore_errors=True)
    without_headers = run_doxygen()
    failed = {"html": sphinx("html")}
    failed["links"] = "\n".join(broken_links(HTML))
    if options.external:
        failed["external links"] = sphinx("linkcheck")

    report = ElementTree.Element("testsuite", name="site")
    for name, reason in [*failed.items(), ("reference of C and C++", "")]:
        case = ElementTree.SubElement(report, "testcase", classname="site", name=name)
        if reason:
            ElementTree.SubElement(case, "failure", message=reason)
            print(f"site: {name}: {reason}", file=sys.stderr)
    if without_headers:
        ElementTree.SubElement(case, "skipped", message=without_headers)
        print(f"site: without the reference of C and C++: {without_headers}", file=sys.stderr)
    if options.junit:
        ElementTree.ElementTree(report).write(options.junit)
    if not any(failed.values()):
        print(f"site: {len(list(HTML.rglob('*.html')))} pages, first {(HTML / 'index.html').relative_to(ROOT)}")
    return 1 if any(failed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
