# SPDX-License-Identifier: Apache-2.0
"""The checks of scripts/lint.py that are our own: layers and licence lines, on small trees."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "scripts")]

import layers  # noqa: E402
import lint  # noqa: E402

LAYERS = """
python/src:  # a comment
  modules
  convert
  tensor/buffer.* sources
  tensor
  support
"""


@pytest.fixture
def check(tmp_path):
    """Writes the files {path: text} and checks their layers."""

    def check_files(files):
        for name, text in {"scripts/layers.txt": LAYERS, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return layers.check(tmp_path, ("python",))

    return check_files


class TestLayers:
    def test_downward_includes_pass(self, check):
        files = {
            "python/src/modules/core.cpp": '#include <vector>\n\n#include "convert/convert.h"\n',
            "python/src/convert/convert.h": '#include "support/errors.h"\n',
            "python/src/support/errors.h": '#include "reference.h"\n',
            "python/src/support/reference.h": "",
        }
        assert check(files) == []

    def test_upward_include(self, check):
        files = {
            "python/src/support/errors.cpp": '// what\n#include "convert/convert.h"\n',
            "python/src/convert/convert.h": "",
        }
        assert check(files) == [
            "python/src/support/errors.cpp:2: support must not include convert: python/src/convert/convert.h"
        ]

    def test_longest_name_counts(self, check):
        buffer = '#include "tensor/value.h"\n'
        assert check({"python/src/tensor/buffer.cpp": buffer, "python/src/tensor/value.h": ""}) == []
        value = '#include "tensor/buffer.h"\n'
        [message] = check({"python/src/tensor/value.cpp": value, "python/src/tensor/buffer.h": ""})
        assert "tensor must not include tensor/buffer.*" in message

    def test_names_of_one_line_stay_apart(self, check):
        files = {"python/src/sources/capsule.cpp": '#include "tensor/buffer.h"\n', "python/src/tensor/buffer.h": ""}
        [message] = check(files)
        assert "sources must not include tensor/buffer.*" in message

    def test_unplaced_file(self, check):
        assert check({"python/src/loose.cpp": ""}) == [
            "python/src/loose.cpp:1: fits no layer of python/src in scripts/layers.txt"
        ]

    def test_two_files_include_each_other(self, check):
        files = {"python/src/support/a.h": '#include "b.h"\n', "python/src/support/b.h": '#include "support/a.h"\n'}
        assert check(files) == [
            "python/src/support/b.h:1: files include each other: "
            "python/src/support/a.h -> python/src/support/b.h -> python/src/support/a.h"
        ]

    def test_longer_cycle(self, check):
        files = {f"python/src/support/{a}.h": f'#include "{b}.h"\n' for a, b in ("ab", "bc", "ca")}
        [message] = check(files)
        assert message.count(" -> ") == 3


class TestLicences:
    def test_line_is_added_once_and_first(self, tmp_path):
        files = {
            "core/src/plan.cpp": "// Plans.\n",
            "scripts/setup": "#!/usr/bin/env bash\n# Sets up.\n",
            "python/dlbridge/__init__.py": '"""Exchange."""\n',
            "CMakeLists.txt": "project(dlbridge)\n",
        }
        for name, text in {**files, "requirements.txt": "numpy\n", "LICENSE": "Apache\n"}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        messages = lint.licences(tmp_path, fix=False)
        assert sorted(message.split(":")[0] for message in messages) == sorted(files)
        assert lint.licences(tmp_path, fix=True) == lint.licences(tmp_path, fix=True) == []
        line = "SPDX-License-Identifier: Apache-2.0\n"
        assert (tmp_path / "core/src/plan.cpp").read_text() == f"// {line}// Plans.\n"
        assert (tmp_path / "scripts/setup").read_text() == f"#!/usr/bin/env bash\n# {line}# Sets up.\n"
        assert (tmp_path / "python/dlbridge/__init__.py").read_text() == f'# {line}"""Exchange."""\n'
        assert (tmp_path / "requirements.txt").read_text() == "numpy\n"
