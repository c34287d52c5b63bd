# SPDX-License-Identifier: Apache-2.0
"""python -m dlbridge: every command with its output and its wrong arguments."""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from processes import fork_in_terminal

import dlbridge
from dlbridge import __main__ as command_line
from dlbridge import _doctor
from isolated import run_isolated

PACKAGE = Path(dlbridge.__file__).parent
WHERE = {"PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}


@pytest.fixture
def dlbridge_command(capsys, monkeypatch):
    """Runs the command line in this process: status, output, errors."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/dlbridge"])

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = command_line.main([*map(str, arguments)])
        except SystemExit as ending:
            status = ending.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def array_file(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12.0, dtype="f4").reshape(3, 4))
    return tmp_path / "a.npy"


def in_terminal(*arguments: str, **env: str) -> list[str]:
    """The lines that `python -m dlbridge` writes to a terminal of 80 columns."""
    child, terminal = fork_in_terminal()
    if child == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        clean = {
            name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "FORCE_COLOR")
        }
        os.execve(
            sys.executable, [sys.executable, "-m", "dlbridge", *arguments], clean | WHERE | {"TERM": "xterm"} | env
        )
    written = b""
    try:
        while block := os.read(terminal, 1 << 16):
            written += block
    except OSError:  # the terminal is closed
        pass
    os.waitpid(child, 0)
    os.close(terminal)
    return written.decode().splitlines()


def test_module_is_run_in_a_process():
    done = subprocess.run(
        [sys.executable, "-m", "dlbridge", "--version"], capture_output=True, text=True, env=os.environ | WHERE
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{dlbridge.__version__}\n", "")


def test_import_loads_no_command_line():
    run_isolated(
        """
        import sys, numpy
        before = set(sys.modules)
        import dlbridge
        loaded = set(sys.modules) - before
        assert not loaded & {"argparse", "json", "shutil", "rich", "dlbridge.__main__", "dlbridge._doctor"}, loaded
        """,
        prelude="",
    )


def test_no_arguments_print_help(dlbridge_command):
    status, output, errors = dlbridge_command()
    assert (status, errors) == (0, "") and "explain" in output and "--cmake-dir" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nonsense", r"argument COMMAND: invalid choice: 'nonsense' \(choose from "),
        ("--nonsense", r"unrecognized arguments: --nonsense"),
        ("--cmake", r"unrecognized arguments: --cmake"),
        ("--version info", r"--version prints one line; expected no command \(info\) beside it"),
        ("info extra", r"unrecognized arguments: extra"),
        ("doctor --jsn", r"unrecognized arguments: --jsn"),
        ("explain", r"the following arguments are required: FILE, --to"),
        ("explain FILE", r"the following arguments are required: --to"),
        ("explain FILE --to jax", r"argument --to: invalid choice: 'jax' \(choose from "),
        ("explain FILE --to numpy --copy maybe", r"argument --copy: invalid choice: 'maybe'"),
        ("explain FILE --to numpy --device warp", r"device is 'warp'; expected None, \"cpu\", "),
        ("explain FILE --to numpy --dtype float31", r"dtype is 'float31'; expected "),
        ("explain FILE --to numpy --member b", r"\S+/a.npy has no array 'b'$"),
        (
            "explain missing.npy --to numpy",
            r"missing.npy cannot be read: No such file or directory; expected a file of ",
        ),
        ("explain . --to numpy", r"\. cannot be read: Is a directory; expected "),
        ("completion", r"the following arguments are required: shell"),
        ("completion tcsh", r"argument shell: invalid choice: 'tcsh'"),
    ],
)
def test_wrong_arguments(dlbridge_command, array_file, arguments, said):
    words = [str(array_file) if word == "FILE" else word for word in arguments.split()]
    status, output, errors = dlbridge_command(*words)
    assert (status, output) == (2, "")
    assert re.match(rf"dlbridge( \w+)?: error: {said}", errors) and errors.count("\n") == 1


# ---- info ----


def test_info_prints_build_info(dlbridge_command):
    status, output, errors = dlbridge_command("info", "--json")
    facts = json.loads(output)
    assert (status, errors) == (0, "")
    assert dlbridge.build_info().items() <= facts.items() and facts["package"] == str(PACKAGE)
    status, output, _ = dlbridge_command("info")
    assert status == 0
    for name, value in facts.items():
        assert re.search(rf"^{name} +{re.escape(value or 'not installed')}$", output, re.M)


def test_info_names_a_wrong_tier(monkeypatch, dlbridge_command):
    monkeypatch.setenv("DLBRIDGE_TORCH_TIER", "fast")
    monkeypatch.setattr(dlbridge._adapters, "torch_tier", dlbridge._adapters.torch_tier.__wrapped__)
    status, output, errors = dlbridge_command("info")
    assert (status, output) == (2, "") and errors.startswith(
        "dlbridge: error: DLBRIDGE_TORCH_TIER is 'fast'; expected "
    )


def test_info_survives_a_broken_torch(monkeypatch, dlbridge_command):
    monkeypatch.setattr(dlbridge, "build_info", raises(OSError("libcudnn.so.9: cannot open\nshared object file")))
    status, output, errors = dlbridge_command("info")
    assert (status, output) == (1, "")
    assert errors == "dlbridge: error: libcudnn.so.9: cannot open shared object file\n"


# ---- doctor ----


def raises(error: Exception):
    def function(*arguments, **named):
        raise error

    return function


def finding(name: str) -> _doctor.Finding:
    (found,) = _doctor.CHECKS[name]()
    return found


def test_doctor_finds_no_problem(dlbridge_command):
    status, output, errors = dlbridge_command("doctor", "--json")
    report = json.loads(output)
    assert (status, errors, report["problems"]) == (0, "", 0)
    assert [found["name"] for found in report["findings"]] == list(_doctor.CHECKS)
    assert all(found["remedy"] for found in report["findings"] if found["state"] != "ok")
    status, output, _ = dlbridge_command("doctor")
    assert status == 0 and output.endswith("\n\nno problems\n")


def test_doctor_fails_for_a_problem(dlbridge_command, monkeypatch):
    monkeypatch.setitem(_doctor.CHECKS, "NumPy", raises(ValueError("one\n  two")))
    status, output, _ = dlbridge_command("doctor")
    assert status == 1 and output.endswith("\n\n1 problem\n")
    assert re.search(r"^problem +NumPy +one two$", output, re.M)
    status, output, _ = dlbridge_command("doctor", "--json")
    assert (status, json.loads(output)["problems"]) == (1, 1)


def record(folder: Path, version: str) -> None:
    """What pip notes of an installed dlbridge."""
    path = folder / f"dlbridge-{version}.dist-info"
    path.mkdir(parents=True)
    (path / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dlbridge\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("versions", "text"), [(["0.0.1"], "pip installed 0.0.1 in "), (["0.0.1", "0.0.2"], "installed: ")]
)
def test_doctor_names_other_installations(monkeypatch, tmp_path, versions, text):
    for version in versions:
        record(tmp_path / version, version)
    monkeypatch.setattr(sys, "path", [str(tmp_path / version) for version in versions])
    found = finding("dlbridge")
    assert found.state == "problem" and text in found.text and "pip uninstall dlbridge" in found.remedy
    assert all(str(tmp_path / version) in found.text for version in versions)


def test_doctor_names_missing_ml_dtypes(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert finding("ml_dtypes").remedy == "python -m pip install ml_dtypes"


def test_doctor_names_missing_torch(monkeypatch):
    monkeypatch.setattr(_doctor.importlib.util, "find_spec", lambda name: None)
    assert finding("torch").state == "note" and "pip install torch" in finding("torch").remedy


def test_doctor_names_a_broken_torch(monkeypatch):
    monkeypatch.setattr(_doctor.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch", None)
    found = finding("torch")
    assert found.state == "problem" and found.text.startswith("cannot be imported: ") and "reinstall" in found.remedy


@pytest.mark.parametrize(
    ("tier", "state", "remedy"),
    [
        (
            ("none", "dlbridge cannot reach torch 1 (not direct: too old): install torch 2.10"),
            "problem",
            "install torch 2.10",
        ),
        (("exchange", "not direct: torch is 2, built for 3: reinstall dlbridge"), "note", "reinstall dlbridge"),
        (("exchange", "not direct: torch is 9"), "note", _doctor.NEWER),
        (("exchange", "DLBRIDGE_TORCH_TIER asks for it"), "note", "unset DLBRIDGE_TORCH_TIER"),
    ],
)
def test_doctor_quotes_the_tier(monkeypatch, tier, state, remedy):
    pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(_doctor._adapters, "torch_tier", lambda: dlbridge._adapters.Tier(*tier))
    found = finding("torch")
    assert (found.state, found.remedy) == (state, remedy) and remedy not in found.text


@pytest.mark.parametrize("state", ["note", "problem"])
def test_doctor_without_driver(monkeypatch, state):
    monkeypatch.setattr(_doctor, "has_gpu", lambda: state == "problem")
    found = finding("CUDA")
    assert found.state == state and found.remedy.startswith("if this machine has a GPU: ") == (state == "note")
    assert found.text in dlbridge.build_info()["cuda"] and len(found.remedy) > 20


def test_doctor_copies_through_a_gpu(gpu):
    found = finding("CUDA")
    assert found.state == "ok" and found.text.endswith("; an array went to cuda:0 and came back")


# ---- explain ----


def test_explain_maps_a_file(dlbridge_command, array_file):
    status, output, errors = dlbridge_command("explain", array_file, "--to", "numpy")
    assert (status, errors) == (0, "")
    assert re.fullmatch(rf"share  {array_file} float32 \(3, 4\)  shares 48 bytes at 0x[0-9a-f]+\n", output)


@pytest.mark.parametrize(
    ("arguments", "status", "verdict", "bytes"),
    [
        ("--to torch", 0, "share", 0),
        ("--to torch --copy True", 0, "copy", 48),
        ("--to torch --read-only", 1, "refuse", 48),
        ("--to torch --read-only --copy None", 0, "copy", 48),
        ("--to torch --dtype float64", 0, "cast", 96),
        ("--to numpy --order C", 0, "share", 0),
        ("--to dlpack --device cpu", 0, "share", 0),
        ("--to dlpack --device cuda:0", 1, "refuse", 0),
    ],
)
def test_explain_passes_arguments_on(dlbridge_command, array_file, arguments, status, verdict, bytes):
    if "torch" in arguments:
        pytest.importorskip("torch", reason="torch is not installed")
    found, output, _ = dlbridge_command("explain", array_file, *arguments.split(), "--json")
    (plan,) = json.loads(output)
    assert (found, plan["verdict"], plan["bytes"]) == (status, verdict, bytes)
    assert plan["message"] and bool(plan["reasons"]) == (verdict == "refuse" or "read-only" in arguments)


def test_explain_reads_archives(dlbridge_command, tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.ones(3), fortran=np.ones((2, 3), order="F"), objects=np.array([{}], dtype=object))
    status, output, _ = dlbridge_command("explain", path, "--to", "dlpack", "--order", "C", "--json")
    verdicts = {plan["name"]: (plan["verdict"], plan["reasons"]) for plan in json.loads(output)}
    assert (status, verdicts["a"][0], verdicts["fortran"]) == (1, "share", ("copy", []))
    assert verdicts["objects"][0] == "refuse"
    status, output, _ = dlbridge_command("explain", path, "--to", "numpy", "--member", "a")
    assert status == 0 and re.match(r"share  a float64 \(3,\)  shares 24 bytes ", output) and output.count("\n") == 1


def test_explain_takes_objects_and_empty_arrays(dlbridge_command, tmp_path):
    """The file of the former holds a pickle, that of the latter no elements."""
    for array, expected in ((np.array([None] * 1000), "refuse"), (np.ones((0, 3)), "share")):
        np.save(tmp_path / "x.npy", array, allow_pickle=True)
        assert dlbridge_command("explain", tmp_path / "x.npy", "--to", "numpy")[1].startswith(expected)


def test_explain_reads_no_elements(dlbridge_command, tmp_path):
    path = tmp_path / "sparse.npy"
    np.lib.format.open_memmap(path, mode="w+", shape=(1 << 33,), dtype="f8").flush()
    status, output, _ = dlbridge_command("explain", path, "--to", "numpy", "--copy", "True")
    assert status == 0 and "68.7 GB" in output


def header(shape: str) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOF"),
        (b"\x93NUMPY\x09\x00", "its format version is (9, 0); expected 1.0 or 2.0"),
        (b"PK\x05\x06" + bytes(18), "is empty"),
        (header("(3,)"), "buffer is too small for requested array"),
        (header("(1 << 70,)"), "malformed node"),
        (header(f"({1 << 62}, {1 << 62})"), "array is too big"),
    ],
    ids=["empty", "version", "archive", "short", "expression", "big"],
)
def test_explain_refuses_broken_files(dlbridge_command, tmp_path, content, said):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    status, output, errors = dlbridge_command("explain", path, "--to", "numpy")
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"dlbridge: error: {path} ") and said.lower() in errors.lower()


# ---- for builds ----


@pytest.mark.parametrize("name", [name for name in command_line.FACTS if name != "version"])
def test_build_tree_has_no_development_files(dlbridge_command, monkeypatch, tmp_path, name):
    monkeypatch.setattr(dlbridge._paths, "__file__", str(tmp_path / "_paths.py"))
    status, output, errors = dlbridge_command(f"--{name}")
    assert (status, output) == (1, "") and errors.count("\n") == 1
    assert re.match(
        rf"dlbridge: error: {tmp_path}/\S+ is not there: this dlbridge was not installed; expected ", errors
    )


def test_facts_are_printed_in_the_given_order(dlbridge_command, monkeypatch, tmp_path):
    place = tmp_path / "a b"
    (place / "lib" / "cmake" / "dlbridge").mkdir(parents=True)
    (place / "include").mkdir()
    (place / "lib" / "libdlbridge.so.0.1").touch()
    monkeypatch.setattr(dlbridge._paths, "__file__", str(place / "_paths.py"))
    assert dlbridge.get_include() == str(place / "include")
    status, output, _ = dlbridge_command("--cflags", "--cmake-dir", "--libs", "--version")
    lines = [f"-I'{place}/include'", f"{place}/lib/cmake/dlbridge", f"-L'{place}/lib'", dlbridge.__version__]
    lines[2] += f" -l:libdlbridge.so.0.1 -Wl,-rpath,'{place}/lib'"
    assert (status, output.splitlines()) == (0, lines)


# ---- output in a terminal ----


@pytest.mark.parametrize("command", ["info", "doctor"])
def test_terminal_of_80_columns(command):
    lines = in_terminal(command, NO_COLOR="1")
    words = [word for line in lines for word in line.split()]
    assert len(lines) > 5 and "\x1b" not in "".join(lines)
    assert all(len(line) <= 80 or str(PACKAGE) in line for line in lines), lines
    assert "numpy" in " ".join(words).lower()


def test_rich_colours_a_terminal(array_file):
    pytest.importorskip("rich", reason="rich is not installed")
    arguments = ("explain", str(array_file), "--to", "numpy")
    assert "\x1b[32mshare" in "".join(in_terminal(*arguments))
    refused = (*arguments, "--device", "cuda:0")  # in bold
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "refuse" in (text := "".join(in_terminal(*refused, **env))) and "\x1b" not in text


def test_output_to_a_file_is_plain(array_file):
    command = [sys.executable, "-m", "dlbridge", "explain", str(array_file), "--to", "numpy"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | WHERE)
    assert "\x1b" not in done.stdout and done.stdout.count("\n") == 1
