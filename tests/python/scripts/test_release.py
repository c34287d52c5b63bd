# SPDX-License-Identifier: Apache-2.0
"""scripts/release on trees that lack one thing each."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parents[3] / "scripts")]

import release  # noqa: E402

WHEEL = "dlbridge-1.2.3-{0}-{0}-manylinux_2_28_x86_64.whl"


def git(top, *arguments):
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")
    subprocess.run(["git", *identity, *arguments], cwd=top, check=True, capture_output=True)


def write_wheel(top, name, *extra):
    with zipfile.ZipFile(top / "build" / "wheels" / name, "w") as archive:
        for file in ("dlbridge/__init__.py", "dlbridge/_torch_2_15.so", *extra):
            archive.writestr(file, "")


@pytest.fixture
def tree(tmp_path):
    """A tree from which 1.2.3 can be released."""
    (tmp_path / "CMakeLists.txt").write_text("project(dlbridge VERSION 1.2.3 LANGUAGES CXX)\n")
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.2.3\n")
    recipe = tmp_path / "packaging" / "conda" / "recipe.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text('context:\n  version: "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-01-31\n\n## [1.2.2] - 2025-01-31\n")
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "build" / "wheels").mkdir(parents=True)
    for python in release.PYTHONS:
        write_wheel(tmp_path, WHEEL.format(python))
    (tmp_path / "build" / "wheels" / "dlbridge-1.2.3.tar.gz").touch()
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "all")
    return tmp_path


@pytest.fixture
def missing(tree, capsys):
    """Runs the checklist: the exit status, and what is missing."""

    def run(*arguments):
        status = release.main(["--dry-run", "--quick", *arguments], tree)
        said = capsys.readouterr().out
        return status, [line[9:] for line in said.splitlines() if line.startswith("missing  ")]

    return run


def test_complete_tree(missing, tree, capsys):
    assert missing() == (0, [])
    assert release.main(["--dry-run", "--quick"], tree) == 0
    said = capsys.readouterr().out
    assert "1 torch adapters" in said and said.endswith("for the channel\n") and "git tag -a v1.2.3" in said


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        ("CITATION.cff", "1.2.3", "1.2.2", "version 1.2.3: CITATION.cff has 1.2.2"),
        ("packaging/conda/recipe.yaml", "version", "v", "version 1.2.3: packaging/conda/recipe.yaml has none"),
        ("CHANGELOG.md", "2026-01-31", "Unreleased", "CHANGELOG.md: the newest entry is [1.2.3] - Unreleased"),
        ("CHANGELOG.md", "2026-01-31", "2999-01-31", "CHANGELOG.md: the newest entry is [1.2.3] - 2999-01-31"),
        ("CHANGELOG.md", "1.2.3", "1.3.0", "CHANGELOG.md: the newest entry is [1.3.0] - 2026-01-31"),
    ],
)
def test_wrong_text(missing, tree, file, old, new, text):
    path = tree / file
    path.write_text(path.read_text().replace(old, new))
    git(tree, "commit", "-qam", "changed")
    assert missing() == (1, [text])


def test_state_of_git(missing, tree):
    (tree / "new").touch()
    git(tree, "tag", "v1.2.3")
    assert missing() == (1, ["git: 1 files changed or new", "git: the tag v1.2.3 exists already"])


def test_missing_files(missing, tree):
    for file in (tree / "build" / "wheels").glob("*cp31[0-2]-*"):
        file.unlink()
    (tree / "build" / "wheels" / "dlbridge-1.2.3.tar.gz").rename(tree / "build" / "wheels" / "dlbridge-1.2.2.tar.gz")
    status, said = missing()
    assert status == 1 and [line.split(":")[0] for line in said] == [
        *(f"wheel for cp{version}" for version in (310, 311, 312)),
        "sdist",
    ]


@pytest.mark.parametrize(
    ("name", "extra", "text"),
    [
        (WHEEL.format("cp310"), ["dlbridge.libs/libc10-1234.so"], "bundles dlbridge.libs/libc10-1234.so"),
        (WHEEL.format("cp310"), ["dlbridge.libs/libcudart.so.13"], "bundles dlbridge.libs/libcudart.so.13"),
        ("dlbridge-1.2.3-cp310-cp310-linux_x86_64.whl", [], "no manylinux tag"),
    ],
)
def test_wrong_wheel(missing, tree, name, extra, text):
    (tree / "build" / "wheels" / WHEEL.format("cp310")).unlink()
    write_wheel(tree, name, *extra)
    assert missing() == (1, [f"{name}: {text}"])


def test_large_wheel(missing, tree, monkeypatch):
    monkeypatch.setattr(release, "MOST_BYTES", 10)
    status, said = missing()
    assert status == 1 and len(said) == len(release.PYTHONS) and all(", more than 0" in line for line in said)


@pytest.mark.parametrize(
    ("said", "passes"), [('following platform tag:\n"manylinux_2_28_x86_64".', True), ("x", False)]
)
def test_audit(missing, tree, said, passes):
    tool = tree / "build" / "wheel-tools" / "cp311" / "bin" / "auditwheel"
    tool.parent.mkdir(parents=True)
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    tool.chmod(0o755)
    assert missing() == ((0, []) if passes else (1, ["auditwheel: x"] * len(release.PYTHONS)))


def test_documents_are_checked(tree, monkeypatch, capsys):
    monkeypatch.setattr(release, "attempt", lambda top, *command: ("lint" not in str(command), "all\ndone"))
    found = list(release.check_documents(tree))
    assert [in_order for in_order, _ in found] == [True, True, False, True]
    assert found[2][1] == "scripts/lint.py: done" and found[3][1] == "pytest tests/python/documents: done"


def test_nothing_is_published(capsys):
    with pytest.raises(SystemExit) as ending:
        release.main([])
    assert ending.value.code == 2 and "expected --dry-run" in capsys.readouterr().err


def test_this_tree_has_one_version():
    assert list(release.check_version(release.ROOT))[0][0]
