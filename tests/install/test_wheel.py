# SPDX-License-Identifier: Apache-2.0
"""The wheel of scripts/wheel: what is in it, and that the module of another torch is never used."""

import email
import re
import sys
import zipfile
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).resolve().parents[2]
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
WHEELS = sorted(
    (
        wheel
        for folder in ("wheels", "matrix/wheels")
        for wheel in (ROOT / "build" / folder).glob(f"dlbridge-*-{TAG}-*.whl")
    ),
    key=lambda wheel: wheel.stat().st_mtime,
)
pytestmark = pytest.mark.skipif(not WHEELS, reason=f"no wheel for {TAG} in build/wheels: run scripts/wheel")

# torch says that it is another one.
PRETEND = """
import sys
sys.path.insert(0, sys.argv[1])
import dlbridge, numpy as np, torch
torch.__version__ = sys.argv[2]
tier, reason = dlbridge.build_info()["torch_tier"], dlbridge.build_info()["torch_tier_reason"]
a = np.arange(6.0)
t = dlbridge.to_torch(a)
assert t.data_ptr() == a.ctypes.data and t.sum().item() == 15
print(tier, reason)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(WHEELS[-1]) as archive:
        archive.extractall(folder)
    return folder


def test_size():
    assert WHEELS[-1].stat().st_size <= 12 * 2**20
    assert "manylinux" in WHEELS[-1].name


def test_metadata_has_no_upper_bounds(unpacked):
    (metadata,) = unpacked.glob("dlbridge-*.dist-info/METADATA")
    required = email.message_from_string(metadata.read_text()).get_all("Requires-Dist", [])
    assert [line for line in required if re.match(r"(numpy|torch)\b.*[<!]", line)] == []


def test_nothing_is_bundled(unpacked):
    libraries = {path.name for path in unpacked.rglob("*.so*")}
    ours = re.compile(r"_(core|numpy|cuda|torch_exchange|torch_\d+_\d+)\.cpython-|libdlbridge(_numpy|_cuda)?\.so")
    assert [name for name in libraries if not ours.match(name)] == []


def test_torch_modules_name_libraries_without_a_folder(unpacked):
    modules = [path for path in (unpacked / "dlbridge").glob("_torch_[0-9]*.so")]
    assert modules
    for module in modules:
        dynamic = run("readelf", "-d", module)
        assert {"libc10.so", "libtorch_cpu.so", "libtorch_python.so"} <= set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
        assert re.findall(r"RUNPATH.*\[(.*)\]", dynamic) == ["$ORIGIN/lib"]
        assert run("nm", "-D", "--defined-only", module).split()[-1].startswith("PyInit__torch_")


def test_modules_of_another_torch_are_not_used(unpacked):
    """Where torch claims a version that it is not, the symbols do not fit."""
    import torch

    present = ".".join(torch.__version__.split(".")[:2])
    assert run(sys.executable, "-c", PRETEND, unpacked, f"{present}.9+forged").startswith("direct")
    for minor in ("2.7", "2.10"):
        said = run(sys.executable, "-c", PRETEND, unpacked, f"{minor}.0")
        assert f"adapter for torch {minor} cannot be loaded into torch {minor}.0" in said and "undefined symbol" in said
