# SPDX-License-Identifier: Apache-2.0
"""C++ projects against an installed dlbridge: the examples, built with find_package and pkg-config, and run.

Two installations are made from the build tree: the prefix of `cmake --install`, moved away after it was written, and
the folder that a wheel unpacks to. DLBRIDGE_BUILD_DIR names another build tree than build/release.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nanobind
import pytest
import simulated_gpu
import torch
from build_tree import BUILD
from pages import ROOT, blocks, page
from processes import attempt, run

from isolated import HELPERS

EXAMPLES = ROOT / "examples" / "cpp"
C_EXAMPLE = ROOT / "examples" / "c"
GUIDE = page("docs/cpp.md") + page("docs/embedding.md")
TORCH_DIR = Path(torch.__file__).parent
PLATLIB = sysconfig.get_path("platlib")
LIBPYTHON = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))


def components() -> list[str]:
    """Those of the build tree, in the order in which it lists them."""
    cache = BUILD / "CMakeCache.txt"
    found = re.search(r"^DLBRIDGE_COMPONENTS:.*=(.*)$", cache.read_text() if cache.exists() else "", re.MULTILINE)
    return found[1].split(";") if found else []


COMPONENTS = components()

pytestmark = [
    pytest.mark.skipif(not (BUILD / "CMakeCache.txt").exists(), reason=f"no build tree in {BUILD}: run scripts/setup"),
    pytest.mark.timeout(600),
]
needs_libpython = pytest.mark.skipif(
    LIBPYTHON.suffix != ".so" or not LIBPYTHON.exists(), reason="this Python has no shared library to embed"
)
needs_cuda = pytest.mark.skipif("cuda" not in COMPONENTS, reason="built without the CUDA module")
needs_toolkit = pytest.mark.skipif(
    "cuda" not in COMPONENTS or not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()),
    reason="CMake's own search finds no CUDA toolkit: no nvcc in PATH, none in /usr/local/cuda",
)
needs_pkg_config = pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")


class Installed:
    """One installation: where its parts are."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.lib = top / "lib"
        self.cmake = self.lib / "cmake" / "dlbridge"
        self.pkg_config = self.lib / "pkgconfig"
        self.include = top / "include"

    def configure(self, source: Path, build: Path, *definitions: str) -> subprocess.CompletedProcess[str]:
        return attempt(
            *("cmake", "-G", "Ninja", "-S", source, "-B", build, f"-Ddlbridge_DIR={self.cmake}"),
            f"-DPython_EXECUTABLE={sys.executable}",
            *definitions,
        )

    def build(self, source: Path, build: Path, *definitions: str) -> Path:
        done = self.configure(source, build, *definitions)
        assert done.returncode == 0, done.stderr
        run("cmake", "--build", build)
        return build

    def compile(
        self, package: str, source: Path, program: Path, *, compiler: str = "g++ -std=c++20", path: str = ""
    ) -> dict[str, str]:
        """By the flags of pkg-config; returns the environment that the program runs in. `path`: further folders."""
        env = {"PKG_CONFIG_PATH": f"{self.pkg_config}:{path}"}
        flags = run("pkg-config", "--cflags", "--libs", *package.split(), env=env).strip()
        run("sh", "-c", f"{compiler} '{source}' {flags} -o '{program}'")
        return {"LD_LIBRARY_PATH": str(self.lib)}

    def libraries(self) -> list[Path]:
        return [path for path in sorted(self.lib.glob("*.so*")) if not path.is_symlink()]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Installed:
    """`cmake --install` as a C++ user calls it; then the prefix is moved."""
    written = tmp_path_factory.mktemp("written") / "prefix"
    run("cmake", "--install", BUILD, "--prefix", written)
    moved = tmp_path_factory.mktemp("moved") / "a place with spaces"
    shutil.move(written, moved)
    return Installed(moved)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Installed:
    """What a wheel unpacks to."""
    site = tmp_path_factory.mktemp("site")
    run("cmake", "--install", BUILD, "--component", "python", "--prefix", site)
    return Installed(site / "dlbridge")


@pytest.fixture(params=["prefix", "wheel"])
def installed(request) -> Installed:
    return request.getfixturevalue(request.param)


# ---- what is installed ----


def test_development_component_is_default(prefix, tmp_path):
    run("cmake", "--install", BUILD, "--component", "development", "--prefix", tmp_path / "prefix")

    def names(top: Path) -> set[Path]:
        return {path.relative_to(top) for path in top.rglob("*")}

    assert names(tmp_path / "prefix") == names(prefix.top)
    assert Path("lib/libdlbridge.so") in names(prefix.top)


def test_headers_are_installed(installed):
    for name in ("managed_tensor.h", "numpy.h", "torch.h", "python.h", "nanobind.h", "pybind11.h"):
        assert (installed.include / "dlbridge" / name).is_file()
    assert (installed.include / "dlpack" / "dlpack.h").is_file()
    assert "Apache License" in (installed.include / "dlpack" / "LICENSE").read_text()


def test_wheel_has_no_links(wheel):
    assert not [path for path in wheel.top.rglob("*") if path.is_symlink()]
    names = ["dlbridge", *sorted(f"dlbridge_{component}" for component in COMPONENTS if component != "core")]
    assert [path.name for path in wheel.libraries()] == [f"lib{name}.so.0.1" for name in names]
    code = "import sys; sys.path.insert(0, sys.argv[1]); import dlbridge; print(dlbridge.cmake_dir())"
    assert run(sys.executable, "-c", code, wheel.top.parent).strip() == str(wheel.cmake)


def test_no_build_paths_leak(installed):
    for path in installed.top.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for folder in (ROOT, BUILD, TORCH_DIR):
                assert str(folder).encode() not in content, f"{path} names {folder}"


def dynamic(library: Path, kind: str) -> list[str]:
    return re.findall(rf"\({kind}\).*\[(.*)\]", run("readelf", "-d", "-W", library))


def symbols(library: Path, which: str) -> set[str]:
    """`which` as nm calls it: --defined-only or --undefined-only."""
    return {line.split()[-1] for line in run("nm", "-D", "--without-symbol-versions", which, library).splitlines()}


def test_core_needs_no_framework(installed):
    core = installed.lib / "libdlbridge.so.0.1"
    assert set(dynamic(core, "NEEDED")) <= {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6"}
    foreign = re.compile(r"^_?Py|c10|N2at|torch|nanobind|cuda")
    seen = symbols(core, "--undefined-only") | symbols(core, "--defined-only")
    assert [name for name in seen if foreign.search(name)] == []


def test_only_own_symbols_are_exported(installed):
    own = re.compile(r"^(_ZNK?8dlbridge|_ZT[ISV]N8dlbridge|dlb_)")
    for library in installed.libraries():
        exported = symbols(library, "--defined-only")
        assert [name for name in exported if not own.search(name)] == [], library.name
    core = symbols(installed.lib / "libdlbridge.so.0.1", "--defined-only")
    assert {"_ZTIN8dlbridge5ErrorE", "_ZTVN8dlbridge5ErrorE"} <= core, "Error is caught across libraries"


@needs_cuda
def test_cuda_module_loads_without_driver(installed):
    library = installed.lib / "libdlbridge_cuda.so.0.1"
    assert set(dynamic(library, "NEEDED")) <= {
        *("libdlbridge.so.0.1", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"),
        *("libdl.so.2", "librt.so.1", "libpthread.so.0"),  # of a C library older than 2.34
    }
    foreign = re.compile(r"^(cuda|cu[A-Z]|__cuda)|^_?Py|c10|N2at")
    assert [name for name in symbols(library, "--undefined-only") if foreign.search(name)] == []
    load = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); print(open('/proc/self/maps').read())"
    loaded = run(sys.executable, "-c", load, library)
    assert "libdlbridge_cuda" in loaded and "libcudart" not in loaded and "libcuda.so" not in loaded


USE_WITHOUT_DRIVER = """
#include <cstdio>
#include <dlbridge/cuda/staging.h>

int main() {
  const auto found = dlbridge::cuda::availability();
  std::printf("%d %d %s\\n", found.usable, found.device_count, found.message.c_str());
  return found.usable || !found.message.empty() ? 0 : 1;
}
"""


@needs_cuda
def test_cuda_links_without_toolkit(installed, tmp_path):
    (tmp_path / "main.cpp").write_text(USE_WITHOUT_DRIVER)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(use LANGUAGES CXX)\n"
        "find_package(dlbridge REQUIRED COMPONENTS cuda)\n"
        "add_executable(use main.cpp)\ntarget_link_libraries(use PRIVATE dlbridge::cuda)\n"
    )
    program = installed.build(tmp_path, tmp_path / "build") / "use"
    run(program)
    loaded = run("ldd", program)
    assert "not found" not in loaded and "libcuda" not in loaded
    assert str(installed.lib / "libdlbridge_cuda.so.0.1") in loaded


@needs_cuda
@needs_pkg_config
def test_cuda_links_by_pkg_config(installed, tmp_path):
    source = tmp_path / "main.cpp"
    source.write_text(USE_WITHOUT_DRIVER)
    env = {"PKG_CONFIG_PATH": str(installed.pkg_config)}
    assert re.fullmatch(r"\d+\.\d+", run("pkg-config", "--variable=cuda_version", "dlbridge-cuda", env=env).strip())
    run(tmp_path / "use", env=installed.compile("dlbridge-cuda", source, tmp_path / "use"))


def test_runpath_is_origin(installed):
    for library in installed.libraries():
        assert dynamic(library, "RUNPATH") == ["$ORIGIN"]
        assert dynamic(library, "SONAME") == [library.name]


# ---- the examples ----


def test_libtorch_example_runs(prefix, tmp_path):
    program = prefix.build(EXAMPLES / "libtorch", tmp_path / "build") / "share_tensor"
    said = run(program)
    assert said.count(": yes") == 4 and ": no" not in said
    loaded = run("ldd", program)
    assert "not found" not in loaded and "libpython" not in loaded
    assert str(prefix.lib / "libdlbridge.so.0.1") in loaded


def test_core_example_runs(installed, tmp_path):
    said = run(installed.build(EXAMPLES / "core", tmp_path / "build") / "pictures")
    assert f"```text\n{said}```" in GUIDE, "the guide shows what it prints"


WHY_NO_GPU = """
import sys
sys.path.insert(0, sys.argv[1])
import dlbridge
try:
    dlbridge.pool_stats()
except dlbridge.ExchangeError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def why_no_gpu(wheel) -> str:
    """What the CUDA module says is missing on this machine; empty where a GPU can be used."""
    return run(sys.executable, "-c", WHY_NO_GPU, wheel.top.parent).strip()


@needs_toolkit
@pytest.mark.parametrize(
    ("source", "program", "last_line"),
    [(EXAMPLES / "staging", "recorder", "mask: 0.5"), (C_EXAMPLE / "stage", "stage", "sum: 6")],
    ids=["cpp", "c"],
)
def test_staging_examples_run(wheel, tmp_path, why_no_gpu, source, program, last_line):
    built = wheel.build(source, tmp_path / "build") / program
    said = re.sub(r" \(\w+\)$", "", run(built).splitlines()[-1])  # in C the code comes behind the words
    assert said == (why_no_gpu or last_line)
    loaded = run("ldd", built)
    assert "not found" not in loaded and str(wheel.lib / "libdlbridge_cuda.so.0.1") in loaded


GPU_ENGINE = EXAMPLES / "gpu_engine"
# Runs on the simulated GPU.
DRAW = """
import sys
sys.path[:0] = sys.argv[1:4]
import gc
import numpy as np, dlbridge, gpu_engine
from simulated_gpu import simulated_gpu

with simulated_gpu() as gpu:
    engine = gpu_engine.Engine(20, 30)
    engine.draw(7)
    seen = dlbridge.to_numpy(engine.picture(), device="cpu")
    assert seen.shape == (20, 30) and seen.dtype == np.uint8
    assert (seen[:10] == 7).all() and (seen[10:] == 248).all(), seen

    frames = []
    for value in range(10, 20):
        engine.draw(value)
        frames.append(engine.frame())
    arrays = [frame.pixels().numpy() for frame in frames]
    assert [int(array[0, 0]) for array in arrays] == list(range(10, 20))
    assert frames[0].done() and arrays[0].flags.writeable

    picture = engine.picture()
    del engine  # the picture keeps what it needs
    gc.collect()
    assert dlbridge.to_numpy(picture, device="cpu")[0, 0] == 19
    assert picture.__dlpack_device__() == (2, 0)
    try:
        dlbridge.to_numpy(picture)
    except dlbridge.ExchangeError as error:
        assert error.code == "device_not_named", error
    else:
        raise AssertionError
    del picture, arrays, frames, seen
print("drawn")
"""


@pytest.mark.parametrize("draws_with", ["dlbridge", pytest.param("cudart", marks=needs_toolkit)])
@needs_cuda
def test_gpu_engine_example_runs(wheel, tmp_path, why_no_gpu, draws_with):
    runtime = "ON" if draws_with == "cudart" else "OFF"
    definitions = ("-DCMAKE_BUILD_TYPE=Release", f"-DENGINE_USES_CUDA_RUNTIME={runtime}")
    build = wheel.build(GPU_ENGINE, tmp_path / "build", *definitions)
    said = run(sys.executable, GPU_ENGINE / "demo.py", build, env={"PYTHONPATH": str(wheel.top.parent)})
    frames = "ten frames, each as it was when it was asked for: " + str(list(range(10, 20)))
    expected = f"No usable GPU, so there is nothing to draw on: {why_no_gpu}" if why_no_gpu else frames
    assert said.splitlines()[-1] == expected
    if draws_with == "dlbridge" and simulated_gpu.why_not() is None:
        env = {"PYTHONPATH": str(wheel.top.parent)}
        drawn = run(sys.executable, "-X", "faulthandler", "-c", DRAW, wheel.top.parent, build, HELPERS, env=env)
        assert drawn == "drawn\n"
    (module,) = build.glob("gpu_engine.*.so")
    assert str(wheel.lib / "libdlbridge_cuda.so.0.1") in run("ldd", module)


def check_engine(program: Path, env: dict[str, str] | None = None) -> None:
    said = run(program, sys.base_prefix, PLATLIB, env=env)
    assert said.count(": yes") == 5 and ": no" not in said


@needs_libpython
def test_engine_example_runs(wheel, tmp_path):
    check_engine(wheel.build(EXAMPLES / "engine", tmp_path / "build") / "engine")


USE_EXTENSION = """
import sys
sys.path[:0] = sys.argv[1:]
import dlbridge, matrices, numpy as np, torch

x = np.arange(12, dtype=np.float32).reshape(3, 4)
for source in (x, torch.from_numpy(x), dlbridge.from_dlpack(x), x.__dlpack__(max_version=(1, 3))):
    line = matrices.diagonal(source)
    assert type(line) is dlbridge.Tensor and line.data_ptr == x.ctypes.data
    assert line.numpy().tolist() == [0, 5, 10]
matrices.scale(x[1], 10)
assert line.torch().tolist() == [0, 50, 10], "one memory"
sums = matrices.row_sums(x)
assert type(sums) is np.ndarray and sums.tolist() == x.sum(1).tolist()
assert torch.equal(matrices.row_sums(torch.from_numpy(x)), torch.from_numpy(sums))

for wrong, code in ((x[0], "shape_mismatch"), (x.astype(np.int32), "unsupported_dtype")):
    try:
        matrices.row_sums(wrong)
    except dlbridge.ExchangeError as error:
        assert error.code == code, error
    else:
        raise AssertionError(code)

del line, source
before = sys.getrefcount(x)
line = matrices.diagonal(x)
assert sys.getrefcount(x) == before + 1, "the result holds the array"
del line
assert sys.getrefcount(x) == before, "and gives it back once"
with open("/proc/self/maps") as maps:
    assert len({line.split()[-1] for line in maps if "libdlbridge.so" in line}) == 1, "one core in the process"
"""


def test_extension_example_runs(wheel, tmp_path):
    build = wheel.build(EXAMPLES / "extension", tmp_path / "build", "-DCMAKE_BUILD_TYPE=Release")
    run(sys.executable, "-c", USE_EXTENSION, build, wheel.top.parent)


@needs_pkg_config
@needs_libpython
def test_engine_example_by_pkg_config(prefix, tmp_path):
    package = f"dlbridge-numpy python-{sys.version_info.major}.{sys.version_info.minor}-embed"
    source, program = EXAMPLES / "engine" / "engine.cpp", tmp_path / "engine"
    prefix.compile(package, source, program, path=str(LIBPYTHON.parent / "pkgconfig"))
    check_engine(program, {"LD_LIBRARY_PATH": f"{prefix.lib}:{LIBPYTHON.parent}"})


@needs_pkg_config
def test_pkg_config_names_torch(wheel, tmp_path):
    env = {"PKG_CONFIG_PATH": str(wheel.pkg_config)}
    assert run("pkg-config", "--variable=torch_version", "dlbridge-torch", env=env).strip() == torch.__version__
    ask = ("pkg-config", f"--define-variable=torch_dir={TORCH_DIR}")
    flags = run(*ask, "--cflags", "dlbridge-torch", env=env).strip()
    source = tmp_path / "only_headers.cpp"
    source.write_text("#include <dlbridge/torch.h>\n")
    run("sh", "-c", f"g++ -std=c++20 -fsyntax-only -Wall -Werror {source} {flags}")
    libraries = run(*ask, "--libs", "dlbridge-torch", env=env).split()
    assert f"-L{TORCH_DIR}/lib" in libraries and "-ltorch_cpu" in libraries


def check_c_example(program: Path, env: dict[str, str] | None = None) -> None:
    said = run(program, env=env).split("\n", 1)[1]  # the first line has the versions
    assert f"```text\n{said}```" in (ROOT / "docs" / "c.md").read_text(), "the guide shows what it prints"


def test_c_example_runs(installed, tmp_path):
    check_c_example(installed.build(C_EXAMPLE, tmp_path / "build") / "exchange")


@needs_pkg_config
def test_c_example_by_pkg_config(installed, tmp_path):
    source, program = C_EXAMPLE / "exchange.c", tmp_path / "exchange"
    check_c_example(program, installed.compile("dlbridge", source, program, compiler="gcc -std=c11 -Wall -Werror"))


# ---- what find_package refuses ----

ASK = """
cmake_minimum_required(VERSION 3.25)
project(ask LANGUAGES CXX)
find_package(dlbridge {arguments})
message(STATUS "found=${{dlbridge_FOUND}} version=${{dlbridge_VERSION}}")
foreach(component core numpy torch cuda)
  message(STATUS "${{component}}=${{dlbridge_${{component}}_FOUND}} ${{dlbridge_${{component}}_NOT_FOUND_MESSAGE}}")
endforeach()
"""


@pytest.fixture
def ask(tmp_path):
    """Configures a project that asks for dlbridge; returns all that CMake said, on one line."""

    def asked(where: Installed, arguments: str, *definitions: str, expect: bool) -> str:
        (tmp_path / "CMakeLists.txt").write_text(ASK.format(arguments=arguments))
        shutil.rmtree(tmp_path / "build", ignore_errors=True)
        done = where.configure(tmp_path, tmp_path / "build", *definitions)
        assert (done.returncode == 0) == expect, done.stdout + done.stderr
        return re.sub(r"\s+", " ", done.stdout + done.stderr)

    return asked


@pytest.fixture
def edited(prefix, tmp_path):
    """A copy of the installation with one word of its CMake files replaced."""

    def copy(file: str, old: str, new: str) -> Installed:
        top = tmp_path / "edited"
        shutil.copytree(prefix.top, top, symlinks=True)
        path = Installed(top).cmake / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return Installed(top)

    return copy


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ("0.1 REQUIRED COMPONENTS core numpy torch", ["core", "numpy", "torch"]),
        ("REQUIRED", ["core"]),
        pytest.param("0.1 REQUIRED COMPONENTS cuda", ["core", "cuda"], marks=needs_cuda),
    ],
    ids=["torch", "core", "cuda"],
)
def test_finds_components(installed, ask, arguments, found):
    said = ask(installed, arguments, expect=True)
    assert "found=1 version=0.1.0" in said
    assert [name for name in ("core", "numpy", "torch", "cuda") if f"{name}=TRUE" in said] == found


def test_refuses_another_minor_version(prefix, ask):
    for other in ("0.0", "0.2", "1.0"):
        assert f'requested version "{other}"' in ask(prefix, f"{other} REQUIRED", expect=False)


def test_refuses_another_torch(edited, ask):
    where = edited("dlbridge-torch.cmake", torch.__version__, "2.14.1+cpu")
    said = ask(where, "REQUIRED COMPONENTS torch", expect=False)
    assert f"component torch: found torch {torch.__version__} ({TORCH_DIR}), expected torch 2.14.1+cpu" in said
    said = ask(where, "COMPONENTS core OPTIONAL_COMPONENTS torch", expect=True)
    assert "found=1" in said and "torch=FALSE component torch: found torch" in said, "what is optional may be missing"


def test_refuses_another_python(edited, ask):
    where = edited(
        "dlbridge-numpy.cmake", f'PYTHON "{sys.version_info.major}.{sys.version_info.minor}"', 'PYTHON "3.9"'
    )
    said = ask(where, "REQUIRED COMPONENTS numpy", expect=False)
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"component numpy: found Python {found} ({sys.executable}), expected Python 3.9" in said


def test_names_places_without_torch(prefix, ask, tmp_path):
    said = ask(prefix, "REQUIRED COMPONENTS torch", f"-DDLBRIDGE_TORCH_DIR={tmp_path}", expect=False)
    assert f"found no torch (in {tmp_path}), expected torch {torch.__version__}: pass -DDLBRIDGE_TORCH_DIR=" in said


def test_missing_components_are_named(edited, ask):
    where = edited("dlbridge-config.cmake", f'"{";".join(COMPONENTS)}"', '"core;numpy"')
    config = where.cmake / "dlbridge-config.cmake"
    text = re.sub(r'torch_off ".*"', 'torch_off "there was no torch"', config.read_text())
    config.write_text(re.sub(r'cuda_off ".*"', 'cuda_off "DLBRIDGE_CUDA was OFF"', text))
    said = ask(where, "REQUIRED COMPONENTS torch", expect=False)
    assert "component torch: it was not built (there was no torch)" in said
    said = ask(where, "REQUIRED COMPONENTS cuda", expect=False)
    assert "component cuda: it was not built (DLBRIDGE_CUDA was OFF)" in said
    said = ask(where, "REQUIRED COMPONENTS metal", expect=False)
    assert "component metal: there is no such component (there are core, numpy, torch and cuda)" in said


# ---- the guide ----


SNIPPETS = blocks(GUIDE, "cpp")
SNIPPET_FLAGS = f"-std=c++20 -fsyntax-only -Wall -Wextra -Werror -I{GPU_ENGINE} -I{EXAMPLES / 'staging'}"


def test_guide_quotes_examples():
    """Each snippet is a file of the examples, or functions of one with the includes that they need."""
    assert len(SNIPPETS) >= 6
    files = [path.read_text() for path in EXAMPLES.rglob("*") if path.is_file()]
    for block in [*SNIPPETS, *blocks(GUIDE, "cmake")]:
        includes = [line for line in block.splitlines() if line.startswith("#include")]
        rest = re.sub(r"^#include.*\n", "", block, flags=re.MULTILINE)
        parts = [*includes, *(part for part in re.split(r"\n\n+(?=\S)", rest.strip()) if part)]
        assert any(all(part in text for part in parts) for text in files), f"in no file of examples/cpp:\n{block}"
    for folder in EXAMPLES.iterdir():
        listing = (folder / "CMakeLists.txt").read_text()
        assert listing.split("\n\n", 1)[1] in GUIDE, f"{folder.name} is not in the guide"


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_guide_snippets_compile(prefix, tmp_path, number):
    """As they stand, against the installed headers."""
    source = tmp_path / "snippet.cpp"
    source.write_text(SNIPPETS[number])
    folders = [sysconfig.get_path("include"), nanobind.include_dir()]
    if "dlbridge/torch.h" in SNIPPETS[number]:
        folders += [TORCH_DIR / "include", TORCH_DIR / "include" / "torch" / "csrc" / "api" / "include"]
    flags = [*SNIPPET_FLAGS.split(), f"-I{prefix.include}", *(f"-isystem{folder}" for folder in folders)]
    run("g++", *flags, "-Wno-unused-function", source)
