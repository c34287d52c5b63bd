# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/reference/differences.md: every cell is run in a process of its own and compared.

`python tests/python/documents/test_differences.py` prints what differs, to write the document anew for other versions.
"""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided
from pages import page, section, tables
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import dlbridge
from isolated import HELPERS, run_isolated
from support import address, direct_tier

DOCUMENT = page("docs/reference/differences.md")
MEASURED_WITH = {"torch": "2.15.0", "NumPy": "2.4.6", "tier": "direct"}
HERE = {"torch": torch.__version__.split("+")[0], "NumPy": np.__version__, "tier": dlbridge.build_info()["torch_tier"]}
INTO_TORCH, INTO_NUMPY = "NumPy to torch", "torch to NumPy"
OF_TENSOR, OF_ARRAY = "After an export, to the tensor", "After an export, to the array"
TITLES = (INTO_TORCH, INTO_NUMPY, OF_TENSOR, OF_ARRAY)
MILLIONS = 1 << 23  # floats in a memory map of their own: reading them after they were freed ends the process


def names() -> dict[str, Any]:
    """What the code in the tables uses."""
    modules = {"np": np, "torch": torch, "ml_dtypes": ml_dtypes, "dlbridge": dlbridge}
    tools = {"FakeTensorMode": FakeTensorMode, "ForkingPickler": ForkingPickler, "as_strided": as_strided}
    return modules | tools | {"N": MILLIONS}


def table(title: str) -> list[dict[str, str]]:
    """The rows of the table under a title: a situation, code, and what each conversion does."""
    (rows,) = tables(section(DOCUMENT, title))
    return rows


def code_in(cell: str) -> str:
    """The code between the backticks of a cell."""
    assert cell[0] == cell[-1] == "`", cell
    return cell[1:-1]


# ---- what a conversion does ----


def values(x: Any) -> Any:
    """The elements as Python has them. None stands for a masked one, and for those of a fake tensor."""
    if isinstance(x, FakeTensor):
        return None
    if isinstance(x, torch.Tensor):
        if torch._is_functional_tensor(x):
            x = torch._from_functional_tensor(x)
        x = x.detach().resolve_conj().resolve_neg()
        return (x.float() if x.dtype.itemsize < 4 and x.is_floating_point() else x).tolist()
    return (x.astype(np.float32) if x.dtype.kind == "V" and x.dtype.itemsize < 4 else x).tolist()


def add_one(x: Any) -> None:
    x += 1


def is_lazy(x: Any) -> bool:
    """Whether x is a tensor whose storage is copy-on-write."""
    return type(x) is torch.Tensor and x.layout is torch.strided and torch._C._is_cow_tensor(x)


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What `call` returns, and how it raised or warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            code = getattr(error, "code", "")
            return None, f"refuses: `{code}`" if code else f"raises {type(error).__name__}"
    return result, "warns, " if caught else ""


def conversion(make: str, convert: str) -> str:
    """What `convert` does with the x that `make` makes."""
    names_here = names()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, twin = (eval(make, names_here) for _ in range(2))
    lazily = is_lazy(x)
    result, words = attempt(lambda: eval(convert, names_here | {"x": x}))
    if result is None:
        return words
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if values(result) != values(twin):
            return words + "wrong values"
        if len(result) == 0:
            return words + "empty result"
        if address(result) != address(x):
            return words + "copies"
        if lazily and not is_lazy(x):
            return words + "shares, after a silent copy"
        return words + "shares" + what_a_write_does(x, twin, result)


def what_a_write_does(x: Any, twin: Any, result: Any) -> str:
    """How sharing differs from plain sharing. `twin` is another x; NumPy writes are what is right."""
    if isinstance(result, np.ndarray) and not result.flags.writeable:
        return ", read-only"
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        return ", writable"
    if isinstance(result, torch.Tensor) and result.data_ptr() % max(result.dtype.itemsize, 1):
        return ", misaligned"
    if result.dtype in (bool, torch.bool) or "float8" in str(result.dtype):
        return ""
    try:
        add_one(result)
    except RuntimeError:  # torch does not write where it sees an overlap
        return ""
    right = values(result)
    if isinstance(twin, np.ndarray):
        add_one(twin)
        right = values(twin)
    return "" if values(x) == right else ", writes go wrong"


# ---- what happens afterwards ----


def after_tensor(action: str, convert: str) -> str:
    """What an array over a tensor x of N ones is worth after `action`."""
    return afterwards(torch.ones(MILLIONS), action, convert)


def after_array(action: str, convert: str) -> str:
    """What a tensor over an array x of N ones is worth after `action`."""
    return afterwards(np.ones(MILLIONS, np.float32), action, convert)


MEASURES = dict(zip(TITLES, (conversion, conversion, after_tensor, after_array), strict=True))


def afterwards(x: Any, action: str, convert: str) -> str:
    """What the result of `convert` is worth after `action` was done to x, N ones that nothing else holds."""
    namespace = names() | {"x": x}
    del x
    result = eval(convert, namespace)
    _, words = attempt(lambda: exec(action, namespace))
    if words.startswith("r"):
        return "raises " + words.removeprefix("raises ")
    total = float(result.sum())  # ends the process where the memory is gone
    if total != MILLIONS and "add_" not in action:
        return "wrong values"
    if total == 2 * MILLIONS:
        return "shares"
    if "x" not in namespace:
        return "keeps its values"
    result[0] = 5
    same = namespace["x"].shape and float(namespace["x"].reshape(-1)[0]) == 5
    return "shares" if same else "keeps its values"


# ---- running the cells ----


def in_a_fork(measure: Callable[[str, str], str], *arguments: str) -> str:
    """The answer of a child process; "crashes" where it ended by a signal."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            text = measure(*arguments)
        except BaseException as error:
            text = f"the test failed: {error!r}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return "dangles" if measure is not conversion and name in ("SIGSEGV", "SIGBUS") else f"crashes ({name})"
    return text


def measure_all() -> dict[str, str]:
    """Every cell of the document as it is here; the key is `title/situation/column`."""
    import faulthandler

    faulthandler.disable()  # crashes are what is looked for
    torch.set_num_threads(1)  # threads do not survive a fork
    found = {}
    for title, measure in MEASURES.items():
        for row in table(title):
            situation, code, *_ = row.values()
            for column in list(row)[2:]:
                found[f"{title}/{situation}/{column}"] = in_a_fork(measure, code_in(code), code_in(column))
    return found


def expected_cells() -> dict[str, str]:
    """Every cell of the document."""
    return {
        f"{title}/{next(iter(row.values()))}/{column}": row[column]
        for title in TITLES
        for row in table(title)
        for column in list(row)[2:]
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, str]:
    """All cells, measured once, away from this process."""
    code = f"import json, sys\nsys.path[:0] = {[str(Path(__file__).parent), HELPERS]!r}\n"
    output = run_isolated(code + "import test_differences\nprint(json.dumps(test_differences.measure_all()))")
    return json.loads(output.splitlines()[-1])


def test_document_names_its_versions() -> None:
    for name in ("torch", "NumPy"):
        assert f"{name} {MEASURED_WITH[name]}" in DOCUMENT


@direct_tier
@pytest.mark.skipif(HERE != MEASURED_WITH, reason=f"measured with {MEASURED_WITH}, this is {HERE}")
@pytest.mark.parametrize("cell", expected_cells())
def test_cell_says_what_happens(cell: str, measured: dict[str, str]) -> None:
    assert measured[cell] == expected_cells()[cell]


def test_situations_differ() -> None:
    for title in TITLES:
        situations = [next(iter(row.values())) for row in table(title)]
        assert len(set(situations)) == len(situations)


if __name__ == "__main__":
    here = measure_all()
    for key, word in expected_cells().items():
        if here[key] != word:
            print(f"{key}: {here[key]} (the document says: {word})")
