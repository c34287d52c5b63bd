# SPDX-License-Identifier: Apache-2.0
"""`pip install` of the sdist as a user runs it: into an environment with torch; into one without torch, without CUDA.

Each builds under build isolation, so it needs the package registry and some minutes. Wheels are kept in build/wheels
for as long as nothing changes that they are made of.
"""

import functools
import hashlib
import re
import shlex
import shutil
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest
from cpp_project import build_by_command_line
from processes import has_terminals, run

ROOT = Path(__file__).resolve().parents[2]
PIP_OPTIONS = ("-m", "pip", "--quiet", "--disable-pip-version-check")
COMPONENTS = ("core", "adapters", "cuda", "python")

USE_WITHOUT_TORCH = """
import numpy as np, dlbridge
a = np.arange(6.0).reshape(2, 3)
t = dlbridge.from_dlpack(a)
assert t.data_ptr == a.ctypes.data and dlbridge.to_numpy(t).ctypes.data == a.ctypes.data
try:
    dlbridge.to_torch(a)
except dlbridge.ExchangeError as error:
    assert error.code == "adapter_unavailable", error
else:
    raise AssertionError
said = dlbridge.build_info()["cuda"]
assert said.startswith(("for CUDA ", "dlbridge was built without it")), said
print(dlbridge.__file__)
"""

USE_WITH_TORCH = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, dlbridge, torch
assert dlbridge.__file__.startswith(sys.argv[1]), dlbridge.__file__
assert dlbridge.build_info()["torch_tier"] == "direct", dlbridge.build_info()
a = np.arange(6.0)
assert dlbridge.to_torch(a).data_ptr() == a.ctypes.data
"""

# torch's CUDA runtime, and the CUDA module, which calls the driver, in one process.
BESIDE_TORCH = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import numpy as np

def loaded(name):
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if name in line}

def reason():
    # What stands between dlbridge and a GPU here; empty where nothing does.
    try:
        handle = dlbridge.stage(np.ones(3), device="cuda:0", to="dlpack").result()
    except dlbridge.ExchangeError as error:
        assert error.code in ("no_driver", "driver_too_old", "no_device"), error
        return str(error)
    assert dlbridge.to_numpy(handle, device="cpu").tolist() == [1, 1, 1]
    return ""

if sys.argv[2] == "torch first":
    import torch
import dlbridge
assert dlbridge.__file__.startswith(sys.argv[1]), dlbridge.__file__
assert not loaded("libdlbridge_cuda"), "loaded when it is needed"
before = reason()
assert all(path.startswith(sys.argv[1]) for path in loaded("libdlbridge_cuda"))
assert ("torch" in sys.modules) == (sys.argv[2] == "torch first"), "staging imports no torch"
import torch

def torch_works():
    usable = torch.cuda.is_available()
    assert not usable or torch.ones(3, device="cuda").sum().item() == 3
    return usable and torch.ones(3).sum().item() == 3

usable = torch_works()
said = dlbridge.build_info()["cuda"]
why = said.split(", ", 1)[1]
assert said.startswith("for CUDA ") and (why in before if before else "driver for CUDA" in said), (said, before)
assert not (usable and before), "where torch finds a GPU, so do we"
if torch.version.cuda is not None:
    (theirs,) = loaded("libcudart.so")
    version = ctypes.c_int()
    assert ctypes.CDLL(theirs).cudaRuntimeGetVersion(ctypes.byref(version)) == 0
    major, minor = map(int, torch.version.cuda.split("."))
    assert version.value == 1000 * major + 10 * minor, "theirs answers for itself"
assert reason() == before and torch_works() == usable
a = np.arange(6.0)
assert dlbridge.to_torch(a).data_ptr() == a.ctypes.data
"""
pytestmark = pytest.mark.timeout(900)


@functools.cache
def made_of() -> str:
    """Everything that a wheel depends on: what goes into it, the compilers, this Python and its torch."""
    digest = hashlib.sha256(sys.version.encode())
    for name in ("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "cmake", *COMPONENTS):
        for path in [ROOT / name] if (ROOT / name).is_file() else sorted((ROOT / name).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    digest.update(run("c++", "--version").encode())
    digest.update(run(sys.executable, "-m", "pip", "freeze").encode())
    return digest.hexdigest()[:16]


def wheel_by(python: str | Path, kind: str, *options: str) -> Path:
    """The wheel that `pip wheel` makes of the sdist in an environment, beside terminal.txt, what a terminal showed,
    where there are terminals. The one that is kept, where it would be the same."""
    kept = ROOT / "build" / "wheels" / kind
    folder = kept / made_of()
    if not list(folder.glob("dlbridge-*.whl")):
        with tempfile.TemporaryDirectory() as fresh:
            pip = (python, *PIP_OPTIONS, "wheel", "--no-deps", *options, "-w", fresh, sdist(Path(fresh)))
            if has_terminals():
                run("script", "-qec", shlex.join(map(str, pip)), f"{fresh}/terminal.txt")
            else:
                run(*pip)
            shutil.rmtree(kept, ignore_errors=True)  # of earlier sources
            folder.mkdir(parents=True, exist_ok=True)
            for made in (*Path(fresh).glob("*.whl"), *Path(fresh).glob("terminal.txt")):
                shutil.move(made, folder)
    (built,) = folder.glob("dlbridge-*.whl")
    return built


def sdist(folder: Path) -> Path:
    """The sdist, as the build backend makes it."""
    code = "import os, sys, scikit_build_core.build as backend; os.chdir(sys.argv[1]); backend.build_sdist(sys.argv[2])"
    run(sys.executable, "-c", code, ROOT, folder)
    (archive,) = folder.glob("dlbridge-*.tar.gz")
    return archive


def test_sdist_has_one_version(tmp_path):
    (version,) = re.findall(r"project\(dlbridge VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())
    archive = sdist(tmp_path)
    assert archive.name == f"dlbridge-{version}.tar.gz"
    with tarfile.open(archive) as files:
        names = {name.split("/", 1)[1] for name in files.getnames()}
    for file in (
        "CMakeLists.txt",
        "cmake/find_torch.py",
        "cuda/src/kernels/pack_kernels.ptx",
        "LICENSE",
        "scripts/setup",
    ):
        assert file in names
    assert not [name for name in names if name.startswith((".venv", "build/"))]


def test_pip_install_without_torch(tmp_path):
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    built = wheel_by(python, "without-torch", "--config-settings=cmake.define.DLBRIDGE_CUDA=OFF")
    if has_terminals():
        said = (built.parent / "terminal.txt").read_text()
        assert "torch  off: no torch that" in said and "install torch, then dlbridge again" in said, said
        assert "cuda   off: DLBRIDGE_CUDA is OFF" in said, said
    run(python, *PIP_OPTIONS, "install", built)
    where = run(python, "-c", USE_WITHOUT_TORCH)
    assert where.startswith(str(environment))
    assert not list(Path(where.strip()).parent.glob("_torch_2*.so")), "the direct adapter needs torch"
    command = environment / "bin" / "dlbridge"
    assert "no problems" in run(command, "doctor")
    build_by_command_line(str(command), tmp_path / "program")


@pytest.fixture(scope="module")
def wheel() -> Path:
    """For the torch of this environment."""
    return wheel_by(sys.executable, "with-torch")


def test_build_says_what_it_has(wheel):
    import torch

    if not has_terminals():
        pytest.skip("this machine makes no pseudo-terminal, and pip shows what a build says in a terminal alone")
    said = (wheel.parent / "terminal.txt").read_text()
    assert f"torch  on: torch {torch.__version__} in {Path(torch.__file__).parent}" in said, said


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The folder that the wheel was installed into."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, *PIP_OPTIONS, "install", "--no-deps", "--target", folder, wheel)
    return folder


@pytest.fixture(scope="module")
def entries(wheel) -> list[zipfile.ZipInfo]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.infolist()


CONTENTS = {
    "core": "py.typed _core.pyi testing/__main__.py include/dlbridge/plan.h",
    "lib": "lib/libdlbridge.so. lib/pkgconfig/dlbridge.pc lib/cmake/dlbridge/dlbridge-config.cmake",
    "cuda": "_cuda. lib/libdlbridge_cuda.so. include/dlbridge/cuda/staging.h lib/pkgconfig/dlbridge-cuda.pc",
}


@pytest.mark.parametrize("part", ["core", "lib", "cuda"])
def test_wheel_contents(entries, part):
    names = [entry.filename for entry in entries]
    for file in CONTENTS[part].split():
        assert any(name.startswith(f"dlbridge/{file}") for name in names), file
    assert not [name for name in names if "libcudart" in name or "dlbridge_sim" in name]
    assert not [entry.filename for entry in entries if entry.external_attr >> 28 == 0o12], "wheels carry no links"


def test_wheel_with_torch(installed):
    run(sys.executable, "-c", USE_WITH_TORCH, installed)
    dynamic = run("readelf", "-d", next((installed / "dlbridge").glob("_torch_2*.so")))
    assert "$ORIGIN/lib" in dynamic and str(ROOT) not in dynamic, "found beside itself, not in a build folder"


@pytest.mark.parametrize("order", ["torch first", "torch second"])
def test_cuda_module_beside_torch(installed, order):
    run(sys.executable, "-X", "faulthandler", "-c", BESIDE_TORCH, installed, order)
    dynamic = run("readelf", "-d", next((installed / "dlbridge").glob("_cuda*.so")))
    assert "$ORIGIN/lib" in dynamic and "libcuda" not in dynamic, "found beside itself; the driver is no part of it"
