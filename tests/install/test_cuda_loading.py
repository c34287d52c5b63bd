"""The CUDA module in processes of every kind: without a driver, and beside the CUDA runtime that torch brings.

It contains a runtime of its own, of which nothing shows; the driver is looked for when something is asked for that
needs it. DLBRIDGE_BUILD_DIR names another build tree than build/release.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DLBRIDGE_BUILD_DIR", ROOT / "build" / "release"))
LIBRARY = BUILD / "lib" / "libdlbridge_cuda.so"

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} was not built: there is no CUDA toolkit")

# What the process has loaded, and what the module says of it, through a library that calls it from C.
PROBE = """
#include <dlbridge/cuda/staging.h>

extern "C" int usable() { return dlbridge::cuda::availability().usable; }
extern "C" int runtime_version() { return dlbridge::cuda::availability().runtime_version; }
extern "C" int driver_version() { return dlbridge::cuda::availability().driver_version; }
extern "C" int says_why_not() { return !dlbridge::cuda::availability().message.empty(); }
"""
PRELUDE = """
import ctypes, sys
library, probe = sys.argv[1:3]
built_with = int(sys.argv[3])

def loaded(name):
    with open("/proc/self/maps") as maps:
        return {line.split()[-1] for line in maps if name in line}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    source = folder / "probe.cpp"
    source.write_text(PROBE)
    includes = [f"-I{folder}" for folder in (ROOT / "core/include", ROOT / "cuda/include", BUILD / "dlpack-include")]
    command = ["g++", "-std=c++20", "-shared", "-fPIC", *includes, source, "-o", folder / "probe.so"]
    command += [f"-L{LIBRARY.parent}", f"-Wl,-rpath,{LIBRARY.parent}", "-ldlbridge_cuda", "-ldlbridge"]
    subprocess.run([str(part) for part in command], check=True)
    return folder / "probe.so"


def built_with() -> int:
    """The CUDA whose runtime the module contains, as CUDA counts: 13000 is 13.0."""
    described = (BUILD / "package-files" / "development" / "dlbridge-cuda.pc").read_text()
    major, minor = map(int, re.search(r"^cuda_version=(\d+)\.(\d+)$", described, re.MULTILINE).groups())
    return 1000 * major + 10 * minor


def run(code: str, probe: Path) -> None:
    arguments = [str(LIBRARY), str(probe), str(built_with())]
    command = [sys.executable, "-X", "faulthandler", "-c", PRELUDE + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"


def test_loads_without_looking_for_a_driver_or_another_runtime(probe):
    run(
        """
ctypes.CDLL(library)
assert loaded("libdlbridge_cuda") and not loaded("libcudart") and not loaded("libcuda.so"), "loading it loads nothing"
""",
        probe,
    )


def test_says_what_stands_between_it_and_a_gpu(probe):
    run(
        """
module = ctypes.CDLL(probe)
assert module.runtime_version() == built_with
assert module.usable() or module.says_why_not()
assert module.usable() <= bool(loaded("libcuda.so")), "only a driver makes it usable"
assert module.driver_version() or not module.usable()
""",
        probe,
    )


@pytest.mark.parametrize("order", ["torch first", "torch second"])
def test_lives_beside_the_runtime_of_torch(probe, order):
    torch = pytest.importorskip("torch")
    if torch.version.cuda is None:
        pytest.skip("this torch brings no CUDA runtime")
    load_module = "module = ctypes.CDLL(probe); before = module.runtime_version()\n"
    code = "import torch\n" + load_module if order == "torch first" else load_module + "import torch\n"
    run(
        code
        + """
available = torch.cuda.is_available()
(theirs,) = {path for path in loaded("libcudart.so")}
version = ctypes.c_int()
assert ctypes.CDLL(theirs).cudaRuntimeGetVersion(ctypes.byref(version)) == 0
major, minor = map(int, torch.version.cuda.split("."))
assert version.value == 1000 * major + 10 * minor, "theirs answers for itself"
assert module.runtime_version() == before == built_with, "and so does ours"
assert module.usable() >= available == torch.cuda.is_available(), "where torch finds a GPU, so do we"
assert torch.ones(3).sum().item() == 3
""",
        probe,
    )
