# SPDX-License-Identifier: Apache-2.0
"""The rows of docs/libraries.md, with the real libraries: each call works, and shares or copies as the row says."""

from __future__ import annotations

import array
import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dlbridge
from isolated import run_isolated
from support import address, refusal

PAGE = Path(__file__).resolve().parents[2] / "docs/libraries.md"
ROWS = [
    [cell.strip().replace("`", "") for cell in line.strip("|\n").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| `")
]
VALUES = np.arange(12, dtype=np.float32)


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed: scripts/test interop installs it")


def mapped(folder: Path, mode: str) -> tuple[np.memmap, np.memmap]:
    np.save(folder / "file.npy", VALUES)
    x = np.load(folder / "file.npy", mmap_mode=mode)
    return x, x


def buffer(x: Any) -> tuple[Any, np.ndarray]:
    return x, np.frombuffer(x, np.uint8)


def arrow(make: Callable[[Any, np.ndarray], Any]) -> tuple[Any, np.ndarray]:
    values = VALUES.copy()
    return make(library("pyarrow"), values), values


def pandas_of(make: Callable[[Any, np.ndarray], Any]) -> tuple[Any, np.ndarray]:
    x = make(library("pandas"), VALUES.copy())
    return x, x.to_numpy()


def image() -> Any:
    return library("PIL.Image").fromarray(VALUES.astype(np.uint8).reshape(2, 6))


def read_image(folder: Path) -> tuple[Any, np.ndarray]:
    cv2 = library("cv2")
    cv2.imwrite(str(folder / "file.png"), VALUES.astype(np.uint8).reshape(2, 6))
    x = cv2.imread(str(folder / "file.png"))
    return x, x


def of_hdf5(folder: Path) -> Any:
    return library("h5py").File(folder / "file.h5", "w").create_dataset("t", data=VALUES)


def of_jax() -> tuple[Any, np.ndarray]:
    x = library("jax").numpy.arange(12, dtype="float32")
    return x, np.asarray(x)


def of_zarr() -> Any:
    group = library("zarr").group()
    group.create_array("t", data=VALUES)
    return group


def of_tensorflow(variable: bool) -> tuple[Any, np.ndarray]:
    tensorflow = library("tensorflow")
    x = tensorflow.Variable(VALUES) if variable else tensorflow.constant(VALUES)
    return x, np.from_dlpack(x.value() if variable else x)


def of_polars(frame: bool) -> tuple[Any, np.ndarray]:
    polars = library("polars")
    series = polars.Series("t", VALUES)
    return polars.DataFrame({"a": series, "b": series}) if frame else series, series.to_numpy()


def of_xarray(kind: str) -> tuple[Any, np.ndarray]:
    xarray = library("xarray")
    values = VALUES.copy()
    x = xarray.DataArray(values)
    return xarray.Dataset({"t": x}) if kind == "Dataset" else x, values


def of_tvm() -> tuple[Any, np.ndarray]:
    x = library("tvm_ffi").from_dlpack(VALUES.copy())
    return x, np.from_dlpack(x)


# What the first column of a row says -> (x, its memory as an array; None where it has none of its own).
SOURCES: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    'np.load(file, mmap_mode="r")': lambda folder: mapped(folder, "r"),
    'np.load(file, mmap_mode="r+")': lambda folder: mapped(folder, "r+"),
    'np.load(file, mmap_mode="c")': lambda folder: mapped(folder, "c"),
    "numpy.ndarray of ml_dtypes.bfloat16": lambda _: (x := VALUES.astype(library("ml_dtypes").bfloat16), x),
    "bytes": lambda _: buffer(VALUES.tobytes()),
    "bytearray": lambda _: buffer(bytearray(VALUES.tobytes())),
    'array.array("f")': lambda _: buffer(array.array("f", VALUES)),
    "pyarrow.Array of numbers, without nulls": lambda _: arrow(lambda pa, values: pa.array(values)),
    "pyarrow.Array with nulls": lambda _: arrow(lambda pa, _: pa.array([1.0, None])),
    "pyarrow.ChunkedArray": lambda _: arrow(lambda pa, values: pa.chunked_array([values, values])),
    "pyarrow.FixedSizeListArray": lambda _: arrow(
        lambda pa, values: pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    ),
    "pyarrow.Tensor over a writable array": lambda _: arrow(lambda pa, values: pa.Tensor.from_numpy(values)),
    "pyarrow.Buffer": lambda _: buffer(library("pyarrow").py_buffer(VALUES.tobytes())),
    "pandas.Series of numbers": lambda _: pandas_of(lambda pd, values: pd.Series(values)),
    "pandas.DataFrame of one dtype": lambda _: pandas_of(lambda pd, values: pd.DataFrame(values.reshape(4, 3))),
    "pandas.DataFrame of several dtypes": lambda _: pandas_of(lambda pd, values: pd.DataFrame({"a": values, "b": 1})),
    "pandas.Series backed by Arrow": lambda _: (
        library("pyarrow") and pandas_of(lambda pd, values: pd.Series(values, dtype="float32[pyarrow]"))
    ),
    "polars.Series of one chunk, without nulls": lambda _: of_polars(frame=False),
    "polars.DataFrame of several columns": lambda _: of_polars(frame=True),
    "PIL.Image.Image": lambda _: (image(), None),
    "cv2.imread(file)": read_image,
    "cv2.UMat": lambda _: (library("cv2").UMat(VALUES), None),
    "h5py.Dataset": lambda folder: (of_hdf5(folder), None),
    "zarr.Array": lambda _: (library("zarr").array(VALUES), None),
    "zarr.Group": lambda _: (of_zarr(), None),
    "xarray.DataArray in memory": lambda _: of_xarray("DataArray"),
    "xarray.Dataset": lambda _: of_xarray("Dataset"),
    "jax.Array": lambda _: of_jax(),
    "tensorflow.Tensor": lambda _: of_tensorflow(variable=False),
    "tensorflow.Variable": lambda _: of_tensorflow(variable=True),
    "tvm_ffi.Tensor": lambda _: of_tvm(),
}


def test_every_source_has_a_row() -> None:
    assert {row[0] for row in ROWS} == set(SOURCES)


def check_row(source: str, call: str, memory: str, folder: Path) -> None:
    x, own = SOURCES[source](folder)
    array = dlbridge.to_numpy(eval(call, {"dlbridge": dlbridge, "x": x, "name": "t"}))
    assert array.size > 1
    assert memory.startswith(("shared", "copied"))
    if own is not None:
        shared = own.size > 0 and address(own) <= address(array) < address(own) + own.nbytes
        assert shared == memory.startswith("shared")
    assert array.flags.writeable == ("read-only" not in memory and "first write" not in memory)


def check_advice(source: str, folder: Path) -> None:
    x, _ = SOURCES[source](folder)
    with pytest.raises(TypeError) as refused:
        dlbridge.to_torch(x)
    advised = re.search(r": pass (.+?)(?:, one of .+)?$", str(refused.value))
    assert advised, refused.value
    assert any(advised[1].removesuffix(")") in row[1] for row in ROWS if row[0] == source), advised[1]
    assert dlbridge.to_torch(eval(advised[1], {"x": x, "name": "t"}), copy=None).numel() > 1


def check(name: str, source: str, *arguments: Any) -> None:
    """Runs a check; with TensorFlow in a process of its own, which it and triton end if they are imported together."""
    mode = re.search(r'on_write="(\w+)"', str(arguments))
    if mode and mode[1] not in dlbridge.build_info()["on_write"]:
        pytest.skip(f"this torch has no on_write={mode[1]}")
    if not source.startswith("tensorflow"):
        globals()[name](source, *arguments)
        return
    if importlib.util.find_spec("tensorflow") is None:
        library("tensorflow")
    texts = ", ".join(f"Path({str(one)!r})" if isinstance(one, Path) else repr(one) for one in (source, *arguments))
    run_isolated(
        f"from pathlib import Path; sys.path.append({str(Path(__file__).parent)!r}); "
        f"import test_libraries; test_libraries.{name}({texts})"
    )


@pytest.mark.parametrize(("source", "call", "memory"), ROWS, ids=[f"{source}-{call}" for source, call, _ in ROWS])
def test_row(source: str, call: str, memory: str, tmp_path: Path) -> None:
    check("check_row", source, call, memory, tmp_path)


@pytest.mark.parametrize(
    "source",
    [
        "pyarrow.ChunkedArray",
        "pandas.Series of numbers",
        "pandas.DataFrame of several dtypes",
        "polars.DataFrame of several columns",
        "cv2.UMat",
        "h5py.Dataset",
        "zarr.Array",
        "zarr.Group",
        "xarray.DataArray in memory",
        "xarray.Dataset",
        "tensorflow.Variable",
    ],
)
def test_refused_objects_name_their_call(source: str, tmp_path: Path) -> None:
    check("check_advice", source, tmp_path)


def check_opaque(_: str) -> None:
    tensorflow = library("tensorflow")
    strings, variable = tensorflow.constant(["1", "2"]), tensorflow.Variable(1.0)
    variant = tensorflow.raw_ops.EmptyTensorList(element_shape=[1], max_num_elements=3, element_dtype="float32")
    for x in (strings, strings[:0], variable.handle, variant):
        for convert in (dlbridge.to_numpy, dlbridge.to_torch, dlbridge.from_dlpack):
            error = refusal(lambda: convert(x))  # noqa: B023
            assert (error.code, error.field) == ("unsupported_dtype", "dtype") and x.dtype.name in str(error)
    assert dlbridge.to_numpy(tensorflow.strings.to_number(strings)).tolist() == [1, 2]


def test_elements_that_are_no_numbers_are_refused() -> None:
    """TensorFlow's own __dlpack__ ends the process."""
    check("check_opaque", "tensorflow.Tensor")
