# SPDX-License-Identifier: Apache-2.0
"""What a message can name for an object that is no producer, and arrays of scalars.

Types are asked by `type(x)`: what `x.__class__` says may be code of the object. Nothing of the object is called.
"""

import dataclasses
import itertools
import re
import sys
from typing import Any

import numpy

_EXPECTED = "expected a numpy.ndarray, a torch.Tensor, a dlbridge.Tensor, a DLPack capsule or an object with __dlpack__"
# The call that gives an array, by package and a method of the class.
_ARRAY_CALLS = {
    ("scipy", "toarray"): "x.toarray(), a dense copy, or x.data, the elements that are stored",
    ("polars", "collect"): "x.collect().to_numpy()",
    ("cv2", "get"): "x.get()",
    ("h5py", "__array__"): "x[()]",
    ("zarr", "__array__"): "x[()]",
    ("zarr", "array_keys"): "x[name][()], one of its arrays",
    ("xarray", "to_dataarray"): "x[name].to_numpy(), one of its variables",
    ("tensorflow", "value"): "x.value()",
    ("", "to_numpy"): "x.to_numpy()",
    ("", "__array__"): "numpy.asarray(x)",
}
# A copy of an array on a GPU by its own package: on the host, on the GPU.
_OWN_COPIES = {
    "torch": ("x.cpu()", "x.clone()"),
    "cupy": ("x.get()", "x.copy()"),
    "jax": ("jax.device_get(x)", "jax.numpy.copy(x)"),
    "jaxlib": ("jax.device_get(x)", "jax.numpy.copy(x)"),
    "numba": ("x.copy_to_host()", ""),
    "tensorflow": ("x.cpu()", "tensorflow.identity(x)"),
}
# Elements of TensorFlow that are no plain memory, and what to pass in their place.
_OPAQUE = {
    "string": "pass tensorflow.strings.to_number(x)",
    "resource": "pass the value of the variable, such as variable.value()",
    "variant": "expected a tensor of numbers",
}
_SAMPLE = 1000  # longer sequences are not looked through


def _is_a(x: Any, kinds: type | tuple[type, ...]) -> bool:
    return issubclass(type(x), kinds)


def _is_scalar(x: Any) -> bool:
    """Returns True for numbers of Python and scalars of NumPy that are no producers."""
    return _is_a(x, (bool, int, float, complex, numpy.generic)) and getattr(type(x), "__dlpack__", None) is None


def array_of_scalar(x: Any) -> Any:
    """A new 0-d array that holds the scalar `x`; None where `x` is no scalar of a dtype that DLPack may have."""
    array = numpy.array(x) if _is_scalar(x) else None
    if array is None or array.dtype.kind not in "biufcV" or array.dtype.char == "V":
        return None
    return array


def no_producer(x: Any) -> str:
    """The message for an object that no conversion can start from."""
    if _is_a(x, type):
        return f"x is the class {_name_of(x)}; {_EXPECTED}"
    return f"x is {_name_of(type(x))}; {_advice(x)}"


def opaque_elements(x: Any) -> str:
    """The message for a tensor of TensorFlow whose elements are objects of its own; "" for others."""
    name = getattr(getattr(x, "dtype", None), "name", None)
    return f"dtype is {name}, which DLPack does not have: {_OPAQUE[name]}" if name in _OPAQUE else ""


def refused_out(message: str) -> str:
    """The message about an array that cannot be written, said of out=."""
    found = at_path(re.split("[:;]", message)[0], "out")
    return f"{found}: pass a plain, writable array such as numpy.empty(x.shape, dtype)"


def own_copy(x: Any, to_host: bool) -> str:
    """The call with which the package of `x` copies it; "" where that is unknown."""
    return _OWN_COPIES.get(_package(x), ("", ""))[not to_host]


def at_path(message: str, path: str) -> str:
    """The message about `x`, said of the leaf of a container that lies at `path`."""
    said = re.sub(r"\bx\b", lambda _: path, message)
    return said if path in said else f"{path}: {said}"


def is_record(kind: type) -> bool:
    """Whether a dataclass has public fields alone. Private ones are the state of another kind of object: zarr.Group."""
    return not any(name.startswith("_") for name in field_names(kind))


def field_names(kind: type) -> list[str]:
    """The names of a dataclass's fields; ClassVar and InitVar are none."""
    return [field.name for field in dataclasses.fields(kind)]


def _name_of(kind: type) -> str:
    """The name of a class in the first of its packages that exports it, such as polars.Series."""
    name, module = str(type.__dict__["__qualname__"].__get__(kind)), _module_of(kind)
    if module in ("", "builtins"):
        return name
    for package in itertools.accumulate(module.split("."), "{}.{}".format):
        if getattr(sys.modules.get(package), "__dict__", {}).get(name) is kind:
            return f"{package}.{name}"
    return f"{module}.{name}"


def _advice(x: Any) -> str:
    if _is_scalar(x):
        array = array_of_scalar(x)
        if array is None:
            return f"a scalar of this kind has no element type in DLPack; {_EXPECTED}"
        dtype = {"g": ', "float64"', "G": ', "complex128"'}.get(array.dtype.char, "")
        return f"a scalar has no memory to share: pass numpy.asarray(x{dtype}), a new array of it"
    if _is_a(x, (set, frozenset, range)):
        return f"{_EXPECTED}: pass numpy.asarray(list(x))"
    if _is_a(x, (list, tuple)) and _holds_numbers(x):
        return f"{_EXPECTED}: pass numpy.asarray(x)"
    if _package(x) == "jax" and type(x).__name__ == "PRNGKeyArray":
        return f"{_EXPECTED}: pass jax.random.key_data(x)"
    methods = {method for base in type(x).__mro__ for method in base.__dict__}
    for (package, method), call in _ARRAY_CALLS.items():
        if package in ("", _package(x)) and method in methods:
            return f"{_EXPECTED}: pass {call}"
    return _EXPECTED


def _package(x: Any) -> str:
    """The top package of the class, such as "pandas"; "" where it has none."""
    return _module_of(type(x)).partition(".")[0]


def _module_of(kind: type) -> str:
    """The module of a class, also of one that C defines; "" where that is no text."""
    module = type.__dict__["__module__"].__get__(kind)
    return module if isinstance(module, str) else ""


def _holds_numbers(x: Any) -> bool:
    """Whether `x` is a list or tuple of numbers, or of such lists of one length."""
    items = list.__iter__(x) if _is_a(x, list) else tuple.__iter__(x)
    numbers, lengths = 0, set()
    for count, item in enumerate(items):
        if count == _SAMPLE:
            return False
        if _is_scalar(item):
            numbers += 1
        elif _is_a(item, (list, tuple)) and all(_is_scalar(inner) for inner in item[:_SAMPLE]):
            lengths.add(len(item))
        else:
            return False
    return (numbers > 0) != bool(lengths) and len(lengths) <= 1
