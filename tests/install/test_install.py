"""`pip install .` as a user runs it: into an environment with torch and into one without.

Each builds under build isolation, so it needs the package registry and a minute or two.
"""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

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


def run(*command: str | Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # which may name a build
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, env=clean)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(900)
def test_pip_install_into_an_environment_without_torch(tmp_path):
    environment = tmp_path / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ROOT)
    where = run(python, "-c", USE_WITHOUT_TORCH)
    assert where.startswith(str(environment))
    assert not list(Path(where.strip()).parent.glob("_torch*.so")), "nothing of torch may be in there"


@pytest.mark.timeout(900)
def test_wheel_for_an_environment_with_torch(tmp_path):
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("dlbridge-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        links = [entry.filename for entry in archive.infolist() if entry.external_attr >> 28 == 0o12]
    assert not links, "wheels carry no symbolic links"
    for needed in (
        "dlbridge/py.typed",
        "dlbridge/_core.pyi",
        "dlbridge/include/dlbridge/plan.h",
        "dlbridge/lib/cmake/dlbridge/dlbridge-config.cmake",
        "dlbridge/lib/pkgconfig/dlbridge.pc",
    ):
        assert needed in names
    assert any(name.startswith("dlbridge/lib/libdlbridge.so.") for name in names)
    installed = tmp_path / "installed"
    run(*pip, "install", "--no-deps", "--target", installed, wheel)
    run(sys.executable, "-c", USE_WITH_TORCH, installed)
    dynamic = run("readelf", "-d", next((installed / "dlbridge").glob("_torch*.so")))
    assert "$ORIGIN/lib" in dynamic and str(ROOT) not in dynamic, "found beside itself, not in a build folder"
