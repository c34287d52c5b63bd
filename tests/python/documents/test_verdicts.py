# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/reference/verdicts.md, cell by cell, in plain code and inside torch's modes.

For a cell explain() must say the verdict, the first reason and the bytes; the conversion must share at the source's
address, copy elsewhere with the same bytes, cast to the same values or refuse with the code and change nothing.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import capsules
import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted, name_of
from dtypes import DTYPES, numpy_dtype
from pages import page, section, tables
from refusals import without_gpu
from torch._subclasses.fake_tensor import FakeTensorMode

import dlbridge
import support
from isolated import run_isolated
from support import address, f4, raw, read_only, refusal, writeback_array

TARGETS = {convert.__name__: (name, convert) for name, convert in support.TARGETS.items()}
NUMPY_1 = np.lib.NumpyVersion(np.__version__) < "2.0.0"

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::DeprecationWarning",  # of dtypes on trial
    "ignore:Temporary data has not been written back:RuntimeWarning",  # of the case "writeback"
)  # fmt: skip


# ---- the document ----


@cache
def verdicts(title: str) -> list[dict[str, str]]:
    """The rows of a section."""
    (rows,) = tables(section(page("docs/reference/verdicts.md"), title))
    return rows


@dataclass
class Cell:
    """What a table says of one source and one target."""

    kind: str  # share, copy, cast, never or kind
    code: str = ""
    read_only: bool = False
    bytes: int | None = None  # of the copy, where it is not the row's

    @staticmethod
    def read(text: str) -> Cell:
        if text in ("share", "share, read-only"):
            return Cell("share", read_only=text != "share")
        matched = re.fullmatch(r"(copy|cast|never|kind): ([a-z0-9_]+)( \d+)?", text)
        assert matched, f"{text!r} is no cell"
        return Cell(matched[1], matched[2], bytes=int(matched[3]) if matched[3] else None)


@dataclass
class Source:
    """A source, and what its elements are: the same object, or a plain one that holds the same."""

    x: Any
    like: Any = None
    address: int | None = None  # None: cannot be asked without changing the source
    shape: tuple[int, ...] | None = None
    keep: Any = None

    def __post_init__(self) -> None:
        if self.like is None:
            self.like = self.x
        if self.address is None and self.like is self.x and isinstance(self.x, np.ndarray | torch.Tensor):
            self.address = address(self.x)
        if self.shape is None and not getattr(self.x, "is_nested", False):  # a nested tensor has none
            self.shape = tuple(self.x.shape)


@dataclass
class Case:
    """One row: a source, and what each function makes of it."""

    name: str
    make: Callable[[], Source]
    bytes: int | None
    cast: str  # a dtype's name, or the code of a refusal
    cast_bytes: int | None
    cells: dict[str, Cell]
    lacking: str = ""  # why it cannot be made here

    @property
    def can_be_cast(self) -> bool:
        return self.cast != "unsupported_dtype"


@dataclass
class Request:
    """One row of the requests' table."""

    text: str
    keywords: dict[str, str]
    targets: list[str]
    outcomes: dict[str, str]  # by kind of cell


def number(text: str) -> int | None:
    return None if text == "–" else int(text)


def read_requests() -> list[Request]:
    requests = []
    for row in verdicts("Requests"):
        keywords = {} if row["request"] == "nothing" else dict(word.split("=") for word in row["request"].split())
        outcomes = {kind: row[kind] for kind in ("share", "copy", "cast", "never", "kind")}
        requests.append(Request(row["request"], keywords, row["functions"].split(), outcomes))
    return requests


REQUESTS = read_requests()


# ---- sources ----


def source(code: str, has_memory: bool) -> Source:
    """What the column "source" says. Without memory there are no plain elements to compare with."""
    made = eval(code, vars(support) | vars(capsules) | globals())
    return made if isinstance(made, Source) else Source(made, like=None if has_memory else ())


def handle(x: Any) -> Source:
    """The same as a dlbridge.Tensor."""
    return Source(dlbridge.from_dlpack(x), x, address(x))


def capsule(like: Callable[[Crafted], Any] | None = None, **fields: Any) -> Source:
    """A capsule of `fields`, and what it holds: 2 x 3 float32 unless told otherwise."""
    made = Crafted(**fields)
    steps = [4 * stride for stride in made.strides]
    content = like(made) if like else np.ndarray(made.shape, np.float32, made.memory, made.byte_offset, steps)
    return Source(made.capsule(), content, made.address() + made.byte_offset, made.shape, made)


def nibbles(code: int, bits: int, like: Any = None, **more: Any) -> Source:
    """A capsule of six elements of a type below a byte."""
    memory = (ctypes.c_uint8 * 16)(1, 0, 2, 3, 1, 2, 1, 3, 2)
    dtype = np.dtype(like or np.uint8)
    packed = not more.get("flags") and more.get("lanes", 1) == 1
    held = (6 * bits + 7) // 8 if packed else 6
    return capsule(
        lambda source: np.frombuffer(source.memory, np.uint8)[:held].view(dtype),
        code=code, bits=bits, shape=(6,), strides=(1,), memory=memory, **more,
    )  # fmt: skip


def windows(writeable: bool) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(np.arange(10.0), 4, writeable=writeable)


def misaligned_complex() -> np.ndarray:
    memory = np.zeros(6 * 16 + 128, np.uint8)
    start = -memory.__array_interface__["data"][0] % 64 + 8
    array = memory[start : start + 96].view(np.complex128)
    array[...] = np.arange(6) * (1 - 2j)
    return array


def field_of(record: str, name: str) -> np.ndarray:
    array = np.zeros(4, record)
    array[name] = [1, 2, 3, 4]
    return array[name]


def padded_float4(columns: int = 4) -> np.ndarray:
    return np.arange(1, 1 + 2 * columns, dtype=np.uint8).reshape(2, columns).view(ml_dtypes.float4_e2m1fn)


def float4_pairs() -> torch.Tensor:
    return torch.tensor([[0x21, 0x43], [0x65, 0x87], [0xA9, 0xCB]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


def conjugated() -> torch.Tensor:
    return torch.tensor([1 + 2j, 3 - 4j]).conj()


def zero() -> Source:
    return Source(torch._efficientzerotensor((2, 3)), torch.zeros(2, 3))


def copy_on_write() -> Source:
    kept = f4()
    return Source(torch._lazy_clone(kept), f4(), keep=kept)


def writeback() -> Source:
    iterator, operand = writeback_array()
    return Source(operand, keep=iterator)


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(3)


def batched() -> torch.Tensor:
    seen: list[torch.Tensor] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    torch.vmap(function)(torch.ones(2, 3))
    return seen[0]


def inference() -> torch.Tensor:
    with torch.inference_mode():
        return torch.arange(6.0).reshape(2, 3)


def short_storage() -> torch.Tensor:
    tensor = torch.zeros(3)
    tensor.numpy()  # from here on torch refuses to resize it, after it has changed the shape
    with pytest.raises(RuntimeError):
        tensor.resize_(100)
    return tensor


NO_NUMBERS: dict[str, Callable[[], Any]] = {
    "object": lambda: np.array([None] * 6),
    "void": lambda: np.zeros(6, "V8"),
    "str": lambda: np.array(["ab"] * 6),
    "bytes": lambda: np.array([b"ab"] * 6),
    "datetime64": lambda: np.zeros(6, "M8[s]"),
    "timedelta64": lambda: np.zeros(6, "m8[s]"),
}


def torch_dtype(name: str) -> Any:
    return getattr(torch, name.removeprefix("torch."))


def six(name: str, owner: str) -> Any:
    """Six elements of a dtype."""
    if owner == "numpy":
        return NO_NUMBERS[name]() if name in NO_NUMBERS else np.arange(1, 7).astype(numpy_dtype(name))
    dtype = torch_dtype(name)
    if name.startswith("torch.q"):
        return torch._empty_affine_quantized(6, scale=1.0, zero_point=0, dtype=dtype)
    return torch.empty(6, dtype=dtype) if name.startswith("torch.") else torch.arange(1, 7).to(dtype)


def is_there(name: str, owner: str) -> bool:
    if owner == "torch":
        return hasattr(torch, name.removeprefix("torch."))
    return hasattr(ml_dtypes, name.removeprefix("ml_dtypes.")) or name in np.sctypeDict


def dtype_cases() -> Iterator[Case]:
    for row in verdicts("Dtypes"):
        item = number(row["item"])
        cast_item = np.dtype(row["cast"]).itemsize
        cells = {target: Cell.read(row[target]) for target in TARGETS}
        for name, owner in itertools.product(row["dtypes"].split(), row["as"].split()):
            like = () if item is None else None
            make = partial(lambda name, owner, like: Source(six(name, owner), like), name, owner, like)
            lacking = "" if is_there(name, owner) else f"the installed {owner} has no {name}"
            case = Case(f"{owner}-{name}", make, item and 6 * item, row["cast"], 6 * cast_item, cells, lacking)
            yield case
            if cells["from_dlpack"].kind == "share":
                passed_on = {
                    target: replace(cell, kind="never") if cell.kind == "cast" else cell
                    for target, cell in cells.items()
                }
                make = partial(lambda name, owner: handle(six(name, owner)), name, owner)
                yield replace(case, name=f"handle-{owner}-{name}", make=make, cells=passed_on)


LACKED_BY_NUMPY_1 = {"string_dtype", "max_rank_64", "rank_65", "rank_65_handle"}


def other_cases() -> Iterator[Case]:
    for title in ("Layouts and flags", "Special tensors and arrays", "Foreign descriptors"):
        for row in verdicts(title):
            cast, _, cast_bytes = row["cast"].partition(" ")
            name = row["case"].strip("`")
            cells = {target: Cell.read(row[target]) for target in TARGETS}
            lacking = "NumPy 1 has none" if NUMPY_1 and name in LACKED_BY_NUMPY_1 else ""
            make = partial(source, re.match(r"`(.*?)`", row["source"])[1], has_memory=row["bytes"] != "–")
            yield Case(name, make, number(row["bytes"]), cast, number(cast_bytes or "–"), cells, lacking)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CASES = {case.name: case for case in [*other_cases(), *dtype_cases()]}


# ---- what must come of a cell and a request ----


@dataclass
class Expected:
    """What explain() must say, and the conversion do."""

    verdict: str
    code: str = ""
    bytes: int | None = None  # None: says nothing


def expect(case: Case, cell: Cell, request: Request) -> Expected | None:
    """None: cannot be asked."""
    said = request.outcomes[cell.kind]
    names_other = "other" in request.keywords.values()
    names_own = "own" in request.keywords.values()
    if said == "–" or ((names_own or "out" in request.keywords) and not case.can_be_cast):
        return None
    copy_bytes = case.bytes if cell.bytes is None else cell.bytes
    if said == "share":
        return Expected("share", bytes=0)
    if said == "copy":
        return Expected("copy", cell.code if cell.kind == "copy" and "out" not in request.keywords else "", copy_bytes)
    if not case.can_be_cast and names_other and said in ("cast", "code") and cell.kind != "kind":
        return Expected("refuse", case.cast, 0)
    if said == "cast":
        return Expected("cast", bytes=case.cast_bytes)
    if said == "code":
        return Expected("refuse", cell.code, copy_bytes if cell.kind == "copy" else 0)
    if said == "no_driver":
        said = without_gpu()
    if said == "copy_forbidden":
        return Expected("refuse", said, case.cast_bytes if names_other else None)
    return Expected("refuse", said, 0)


def native(like: Any) -> Any:
    return np.array(like, like.dtype.newbyteorder("=")) if isinstance(like, np.ndarray) else like


def name_of_dtype(like: Any) -> str:
    return str(native(like).dtype).removeprefix("torch.")


def halves(elements: bytes) -> bytes:
    """Two float4 in a byte, the first one in the low bits."""
    return bytes(low | high << 4 for low, high in zip(elements[::2], elements[1::2], strict=True))


def whole(pairs: bytes) -> bytes:
    return bytes(half for pair in pairs for half in (pair & 15, pair >> 4))


def cast_by_its_own_framework(like: Any, dtype: str) -> bytes:
    if isinstance(like, torch.Tensor):
        return raw(like.detach().to(getattr(torch, dtype)))
    return raw(np.array(native(like)).astype(dtype))


def bytes_of(x: Any) -> bytes:
    """A result's elements in row-major order; a handle's are read from its memory."""
    if not isinstance(x, dlbridge.Tensor):
        return raw(x)
    count = int(np.prod(x.shape))
    itemsize = x.nbytes // max(count, 1)
    if itemsize * count != x.nbytes:  # packed below a byte, in row-major order
        return ctypes.string_at(x.data_ptr, x.nbytes)
    return b"".join(
        ctypes.string_at(x.data_ptr + itemsize * int(np.dot(index, x.strides)), itemsize)
        for index in np.ndindex(*x.shape)
    )


@dataclass
class Check:
    """One cell under one request: made ready outside of a mode, run inside of it, and finished outside again."""

    case: Case
    target: str
    request: Request
    expected: Expected
    source: Source = field(init=False)
    keywords: dict[str, Any] = field(init=False)
    elements: bytes = field(init=False)
    before: Any = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.case.make()
        self.before = self._state()
        like = self.source.like
        self.keywords = {key: self._value(key, value) for key, value in self.request.keywords.items()}
        if self.expected.verdict == "cast":
            self.elements = cast_by_its_own_framework(like, self.case.cast)
        elif self.expected.verdict != "refuse":
            self.elements = raw(native(like))
            if self.expected.verdict == "copy" and self.cell.code == "float4_packing":
                self.elements = (halves if self.target == "to_torch" else whole)(self.elements)

    @property
    def cell(self) -> Cell:
        return self.case.cells[self.target]

    def _value(self, key: str, value: str) -> Any:
        if key == "copy":
            return {"True": True, "False": False, "None": None}[value]
        if key == "device":
            return value
        if value == "own":
            dtype = name_of_dtype(self.source.like)
        else:
            dtype = self.case.cast if self.case.can_be_cast else "float64"
        return dtype if key == "dtype" else np.zeros(self.source.shape, numpy_dtype(dtype))

    def _state(self) -> Any:
        """What a refusal or a copy must leave as it was."""
        x, like = self.source.x, self.source.like
        if like is not x:
            content = raw(native(like)) if len(like) else None
            return (content, name_of(x) if type(x).__name__ == "PyCapsule" else None)
        if isinstance(x, np.ndarray):
            return (raw(x), x.shape, x.strides, x.dtype, x.flags.writeable)
        return (raw(x), x.shape, x.stride(), x.dtype, x.requires_grad, x.is_conj(), x.is_neg())

    def run(self, opaque: bool = False) -> Iterator[str]:
        """What differs from the table. `opaque`: the values of a tensor made here cannot be read here."""
        to, convert = TARGETS[self.target]
        x, expected = self.source.x, self.expected
        message = None
        if "out" not in self.keywords:
            plan = dlbridge.explain(x, to=to, **self.keywords)
            if plan.verdict != expected.verdict:
                yield f"explain says {plan.verdict} {plan.reasons}, expected {expected.verdict} {expected.code}"
            if (plan.reasons or [""])[0] != expected.code:
                yield f"explain's reasons are {plan.reasons}, expected {expected.code or 'none'}"
            if expected.bytes is not None and plan.bytes != expected.bytes:
                yield f"explain says {plan.bytes} bytes, expected {expected.bytes}"
            message = plan.message
        try:
            result = convert(x, **self.keywords)
        except dlbridge.ExchangeError as error:
            if expected.verdict != "refuse" or error.code != expected.code:
                yield f"refused: {error.code}, {error}; expected {expected.verdict} {expected.code}"
            elif message not in (None, str(error)):
                yield f"refused with {error}, but explain says {message}"
            return
        if expected.verdict == "refuse":
            yield f"not refused, expected {expected.code}"
        elif not (opaque and self.target == "to_torch"):
            yield from self._look_at(result)

    def _look_at(self, result: Any) -> Iterator[str]:
        shares = self.expected.verdict == "share"
        if bytes_of(result) != self.elements:
            yield f"holds {bytes_of(result).hex()}, expected {self.elements.hex()}"
        if self.elements and self.source.address is not None and (address(result) == self.source.address) != shares:
            yield f"lies at {address(result):#x}, the source at {self.source.address:#x}"
        if not shares and result.nbytes != self.expected.bytes:
            yield f"has {result.nbytes} bytes, expected {self.expected.bytes}"
        if self.expected.verdict == "cast" and name_of_dtype(result) != self.case.cast:
            yield f"is {result.dtype}, expected {self.case.cast}"
        if "out" in self.keywords and result is not self.keywords["out"]:
            yield "is not out"
        read_only = shares and self.cell.read_only
        if isinstance(result, np.ndarray):
            if result.flags.writeable == read_only:
                yield f"writeable is {result.flags.writeable}"
            if result.flags.owndata == shares:
                yield f"owndata is {result.flags.owndata}"
        if isinstance(result, dlbridge.Tensor):
            if result.read_only != read_only:
                yield f"read_only is {result.read_only}"
            if result.is_copied != (not shares or self.case.name == "capsule_copied"):
                yield f"is_copied is {result.is_copied}"

    def finish(self) -> Iterator[str]:
        consumed = self.expected.verdict != "refuse"
        after = self._state()
        if after != self.before and not (consumed and type(self.source.x).__name__ == "PyCapsule"):
            yield f"the source changed from {self.before} to {after}"
        if self.case.name == "copy_on_write" and not torch._C._is_cow_tensor(self.source.x):
            yield "the source is not copy-on-write any more"

    def label(self, difference: str) -> str:
        return f"{self.case.name}, {self.target}({self.request.text}): {difference}"


# No array has their shape.
WITHOUT_OUT = {"nested", "rank_65", "rank_65_handle"}


def checks(case: Case, target: str) -> Iterator[Check]:
    for request in REQUESTS:
        if target in request.targets:
            expected = expect(case, case.cells[target], request)
            if expected is not None and not ("out" in request.keywords and case.name in WITHOUT_OUT):
                yield Check(case, target, request, expected)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_explain_agrees_with_conversion(name: str, target: str) -> None:
    case = CASES[name]
    if case.lacking:
        pytest.skip(case.lacking)
    seen = 0
    different = []
    for check in checks(case, target):
        seen += 1
        different += [check.label(text) for text in itertools.chain(check.run(), check.finish())]
    assert not different, "\n".join(different)
    assert seen >= 8


# ---- modes ----


def inside_context(context: Callable[[], AbstractContextManager[Any]]) -> Callable[[Callable[[], None]], None]:
    def run(body: Callable[[], None]) -> None:
        with context():
            body()

    return run


def inside_transform(transform: Callable[..., Any]) -> Callable[[Callable[[], None]], None]:
    def run(body: Callable[[], None]) -> None:
        def function(x: torch.Tensor) -> torch.Tensor:
            body()
            return x

        transform(function)(torch.ones(2, 3))

    return run


# How it is entered, and whether a tensor made inside can be read there.
MODES: dict[str, tuple[Callable[[Callable[[], None]], None], bool]] = {
    "no_grad": (inside_context(torch.no_grad), True),
    "inference_mode": (inside_context(torch.inference_mode), True),
    "fake": (inside_context(FakeTensorMode), False),
    "vmap": (inside_transform(torch.vmap), False),
    "functionalize": (inside_transform(torch.func.functionalize), False),
    "autocast": (inside_context(lambda: torch.autocast("cpu", torch.bfloat16)), True),
}


def test_every_mode_is_run() -> None:
    assert [row["mode"] for row in verdicts("Modes")] == list(MODES)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("row", verdicts("Modes"), ids=lambda row: row["mode"])
def test_verdicts_are_the_same_in_modes(row: dict[str, str], target: str) -> None:
    enter, readable = MODES[row["mode"]]
    exceptions = dict(re.findall(r"`(\w+)` is (\w+)", row["differs"]))
    assert exceptions or row["differs"] == "–"
    ready = []
    for case in CASES.values():
        if case.lacking:
            continue
        if case.name in exceptions:
            cells = dict.fromkeys(TARGETS, Cell.read(exceptions[case.name]))
            case = replace(case, cells=cells)
        ready += checks(case, target)
    different: list[str] = []
    entered = []

    def body() -> None:
        entered.append(True)
        for check in ready:
            different.extend(check.label(text) for text in check.run(opaque=not readable))

    enter(body)
    assert entered == [True]
    different += [check.label(text) for check in ready for text in check.finish()]
    assert not different, "\n".join(different)


# ---- devices ----


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("row", verdicts("Devices"), ids=lambda row: row["device"])
def test_devices(row: dict[str, str], target: str) -> None:
    kind, number_of, name = re.fullmatch(r"\((\d+), (\d+)\) (.+)", row["device"]).groups()
    device = (int(kind), int(number_of))
    on_host = name == "cpu" or name.startswith("pinned")
    cell = Cell.read(row[target])
    to, convert = TARGETS[target]

    def ask(request: dict[str, Any], expected: str, convertible: bool = True) -> None:
        source = Crafted(device=device)
        capsule = source.capsule()
        plan = dlbridge.explain(capsule, to=to, **request)
        assert (plan.verdict, (plan.reasons or [""])[0]) == (
            (expected, "") if expected in ("share", "copy") else ("refuse", expected)
        )
        if plan.verdict == "refuse":
            assert refusal(lambda: convert(capsule, **request)).code == expected
            assert name_of(capsule) == "dltensor_versioned"
            assert source.calls == 0
        elif convertible:
            result = convert(capsule, **request)
            assert (address(result) == source.address()) == (expected == "share")
            if isinstance(result, dlbridge.Tensor) and expected == "share":
                assert result.__dlpack_device__() == ((1, 0) if name == "cpu" else device)

    ask({}, cell.code or "share", on_host or target == "from_dlpack")
    if on_host:
        ask({"copy": True}, cell.code or "copy")
        ask({"device": "cpu"}, cell.code or "share")
    else:
        unstaged = without_gpu() if name in ("cuda", "managed by CUDA") else "no_staging"
        ask({"copy": True}, cell.code or unstaged)
        ask({"device": "cpu"}, unstaged)
        ask({"device": "cpu", "copy": False}, "copy_forbidden")


# ---- dtypes as requests, and without ml_dtypes ----

AS_REQUEST = [
    pytest.param(name, row, id=name)
    for row in verdicts("Dtypes")
    for name in row["dtypes"].split()
    if is_there(name, "torch" if row["as"] == "torch" else "numpy")
]


@pytest.mark.parametrize("target", ["to_torch", "to_numpy"])
@pytest.mark.parametrize("name, row", AS_REQUEST)
def test_dtypes_as_requests(name: str, row: dict[str, str], target: str) -> None:
    expected = row[f"{target} dtype="]
    to, convert = TARGETS[target]
    dtype: Any = name
    if name.startswith("torch."):
        dtype = torch_dtype(name)
    elif name.startswith("ml_dtypes."):
        dtype = numpy_dtype(name)
    array = np.arange(6.0, dtype="c8" if "complex" in name else "f4")
    for x in (array, torch.from_numpy(array)):
        if expected == "–":
            return
        if expected == "invalid_dtype":
            assert refusal(lambda x=x: dlbridge.explain(x, to=to, dtype=dtype)).code == expected
            assert refusal(lambda x=x: convert(x, dtype=dtype)).code == expected
            continue
        plan = dlbridge.explain(x, to=to, dtype=dtype)
        if expected == "unsupported_dtype":
            assert (plan.verdict, plan.reasons) == ("refuse", [expected])
            assert refusal(lambda x=x: convert(x, dtype=dtype)).code == expected
            continue
        assert (plan.verdict, plan.bytes) == (expected, 6 * int(row["item"]) if expected == "cast" else 0)
        result = convert(x, dtype=dtype)
        wanted = numpy_dtype(name)
        if target == "to_torch":
            wanted = support.DTYPE_PAIRS[name][1] if name in support.DTYPE_PAIRS else torch_dtype(name)
        assert result.dtype == wanted
        assert (address(result) == address(x)) == (expected == "share")


# Code and bits of dtypes that only ml_dtypes brings to NumPy, and of two others.
PACKAGED = {name: pair for name, pair in DTYPES.items() if not hasattr(np, name) and name != "float4_e2m1fn"}
PACKAGED |= {"int1": (0, 1), "uint1": (1, 1), "complex32": (5, 32), "float64": (2, 64)}


def test_without_ml_dtypes() -> None:
    column = "without ml_dtypes, to_numpy"
    said = {name: row[column] for row in verdicts("Dtypes") for name in row["dtypes"].split()}
    assert {name for name, outcome in said.items() if outcome == "missing_ml_dtypes"} <= set(PACKAGED)
    expected = {name: said[name] for name in PACKAGED} | {"float4_e2m1fn": "missing_ml_dtypes"}
    printed = run_isolated(
        f"""
        sys.modules["ml_dtypes"] = None
        from capsules import Crafted
        for name, (code, bits) in {PACKAGED | {"float4_e2m1fn": (17, 4)}!r}.items():
            capsule = Crafted(shape=(6,), strides=(1,), code=code, bits=bits, flags=4).capsule()
            plan = dlbridge.explain(capsule, to="numpy")
            try:
                to_numpy(capsule)
                done = "share"
            except dlbridge.ExchangeError as error:
                done = error.code
            assert done == (plan.reasons or [plan.verdict])[0], (name, done, plan)
            print(name, done)
        """
    )
    assert dict(line.split() for line in printed.splitlines()) == expected


def test_float4_imports_ml_dtypes() -> None:
    printed = run_isolated(
        """
        assert "ml_dtypes" not in sys.modules
        pairs = torch.tensor([[0x21, 0x43]], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
        assert dlbridge.explain(pairs, to="numpy", copy=None).verdict == "copy"
        print(to_numpy(pairs, copy=None).view("u1").tolist())
        """
    )
    assert printed == "[[1, 2, 3, 4]]\n"


# ---- the tables are whole ----


def test_every_dtype_has_a_row() -> None:
    listed = {
        (name, owner) for row in verdicts("Dtypes") for name in row["dtypes"].split() for owner in row["as"].split()
    }
    for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
        name = str(dtype).removeprefix("torch.")
        assert (name, "torch") in listed or (f"torch.{name}", "torch") in listed or name == "float4_e2m1fn_x2", name
    types = {np.dtype(kind).type for kind in np.sctypeDict.values()}
    types |= {kind for kind in vars(ml_dtypes).values() if isinstance(kind, type) and issubclass(kind, np.generic)}
    for kind in types:
        name = kind.__name__.rstrip("_")
        assert (name, "numpy") in listed or (f"ml_dtypes.{name}", "numpy") in listed or name == "float4_e2m1fn", name


def test_checks_of_results_can_fail() -> None:
    check = next(iter(checks(CASES["array"], "to_numpy")))
    assert list(check._look_at(dlbridge.to_numpy(check.source.x))) == []
    copied = list(check._look_at(check.source.x.copy()))
    assert any("lies at" in text for text in copied)
    assert any("owndata" in text for text in copied)
    assert any("writeable" in text for text in check._look_at(read_only(dlbridge.to_numpy(check.source.x))))
    assert any("holds" in text for text in check._look_at(check.source.x[::-1]))
