# SPDX-License-Identifier: Apache-2.0
"""Settings of the site, which scripts/docs builds. The pages are plain Markdown too: their links are those of files."""

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# The folder with Doxygen's XML of the public headers; "" builds the site without the reference of C and C++.
DOXYGEN_PROJECTS = ("core", "cuda")
DOXYGEN_XML = os.environ.get("DLBRIDGE_DOXYGEN_XML", "")

project = "dlbridge"
author = "The dlbridge authors"
project_copyright = "The dlbridge authors, Apache License 2.0"
release = re.search(r"project\(dlbridge VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
nitpicky = False
default_role = "code"  # docstrings put code between single backticks

myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline", "fieldlist"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures of the extension modules have no annotations; those are in the stub

if DOXYGEN_XML:
    extensions.append("breathe")
    breathe_projects = {name: f"{DOXYGEN_XML}/{name}/xml" for name in DOXYGEN_PROJECTS}
    breathe_default_project = "core"
    breathe_domain_by_extension = {"h": "cpp"}
    breathe_domain_by_file_pattern = {"*c_api.h": "c"}
    # Each header opens the namespace again; unnamed enums of C count from 0 in each project.
    suppress_warnings = ["duplicate_declaration.cpp", "duplicate_declaration.c"]

highlight_language = "text"  # of a block that names none
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"dlbridge {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Pages of the site that stand for files outside docs/.
STANDS_FOR = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
PAGE_NAME = re.compile(r"\[[\w./-]+\.md\]\(")  # a link's text that is a file name: the title of the page replaces it
CONTENTS = re.compile(
    r"(?:^- \[[^\]\n]+\]\(#[^)\n]+\)\n){2,}\n", re.M
)  # a list of a page's sections: the site has its own
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")


def site_links(app, docname: str, content: list[str], folder: Path | None = None) -> None:
    """Point links that leave docs/ to the page that stands for the file; a folder keeps its name, without a link."""
    folder = folder or (HERE / docname).parent
    page = (HERE / docname).parent

    def link(found: re.Match) -> str:
        target = (folder / found[1]).resolve()
        anchor = found[2] or ""
        if target.parent == ROOT and target.name in STANDS_FOR:
            target = HERE / STANDS_FOR[target.name]
        elif target.is_dir() or (target.suffix == ".md" and HERE not in target.parents):
            return "]{.file}"  # no page of the site: a name without a link
        return f"]({os.path.relpath(target, page)}{anchor})"

    content[0] = LINK.sub(link, PAGE_NAME.sub("[](", CONTENTS.sub("", content[0], count=1)))
    if docname in ("api/cpp", "api/c"):
        content[0] += (
            "".join(header_sections(docname)) if DOXYGEN_XML else "\nDoxygen was not there when this site was built.\n"
        )


def header_sections(docname: str) -> Iterator[str]:
    """A section for each public header of C++, or of C."""
    for name in DOXYGEN_PROJECTS:
        index = ElementTree.parse(f"{DOXYGEN_XML}/{name}/xml/index.xml")
        for header in sorted(file.findtext("name", "") for file in index.iterfind("compound[@kind='file']")):
            if header not in ("dlpack.h", "export.h") and (header == "c_api.h") == (docname == "api/c"):
                path = f"dlbridge/{'cuda/' if name == 'cuda' else ''}{header}"
                yield f"\n## {path}\n\n```{{doxygenfile}} {header}\n:project: {name}\n```\n"


def site_links_of_include(app, relative_path: Path, parent: str, content: list[str]) -> None:
    site_links(app, parent, content, folder=(HERE / relative_path).resolve().parent)


def setup(app) -> None:
    app.connect("source-read", site_links)
    app.connect("include-read", site_links_of_include)
