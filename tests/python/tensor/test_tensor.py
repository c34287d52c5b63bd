"""The neutral handle and the DLPack protocol: exports, capsules coming in, hostile descriptors, odd producers."""

from __future__ import annotations

import enum
import gc
import itertools
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from capsules import Crafted, Producer, legacy_of, name_of, versioned_of

import dlbridge
from isolated import HELPERS
from support import AS, address, assert_no_growth, refusal

TARGETS: dict[str, Callable[..., Any]] = {
    "torch": dlbridge.to_torch,
    "numpy": dlbridge.to_numpy,
    "dlpack": dlbridge.from_dlpack,
}
READ_ONLY, IS_COPIED, PADDED = 1, 2, 4


def array() -> np.ndarray:
    return np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def read_only() -> np.ndarray:
    a = array()
    a.flags.writeable = False
    return a


def values(x: Any) -> list:
    return x.numpy().tolist() if isinstance(x, dlbridge.Tensor) else x.tolist()


# ---- properties ----


def test_properties() -> None:
    a = array()[:, 1:, ::2]
    handle = dlbridge.from_dlpack(a)
    assert type(handle) is dlbridge.Tensor
    assert handle.shape == (2, 2, 2)
    assert handle.strides == (12, 4, 2)
    assert handle.dtype == "float32"
    assert handle.device == "cpu"
    assert handle.ndim == 3
    assert handle.nbytes == 32
    assert handle.data_ptr == address(a)
    assert handle.read_only is False
    assert handle.is_copied is False
    assert isinstance(handle.shape, tuple)
    assert type(handle.data_ptr) is int


def test_properties_of_scalar_empty_negative_and_foreign_layouts() -> None:
    scalar = dlbridge.from_dlpack(np.array(2.5))
    assert (scalar.shape, scalar.strides, scalar.ndim, scalar.nbytes) == ((), (), 0, 8)
    empty = dlbridge.from_dlpack(np.empty((3, 0)))
    assert (empty.shape, empty.nbytes) == ((3, 0), 0)
    flipped = dlbridge.from_dlpack(np.arange(4.0)[::-1])
    assert flipped.strides == (-1,)
    broadcast = dlbridge.from_dlpack(torch.ones(3).expand(2, 3))
    assert broadcast.strides == (0, 1)
    assert dlbridge.from_dlpack(torch.zeros((1,) * 65)).ndim == 65


def test_properties_cannot_be_set() -> None:
    handle = dlbridge.from_dlpack(array())
    for name in ("shape", "strides", "dtype", "device", "ndim", "nbytes", "data_ptr", "read_only", "is_copied"):
        with pytest.raises(AttributeError):
            setattr(handle, name, None)
    with pytest.raises(TypeError):
        dlbridge.Tensor()


@pytest.mark.parametrize(
    "dtype, name, nbytes",
    [
        ("?", "bool", 3),
        ("i1", "int8", 3),
        ("u8", "uint64", 24),
        ("f2", "float16", 6),
        ("c16", "complex128", 48),
        (ml_dtypes.bfloat16, "bfloat16", 6),
        (ml_dtypes.float8_e8m0fnu, "float8_e8m0fnu", 3),
        (ml_dtypes.float8_e3m4, "float8_e3m4", 3),
        (ml_dtypes.float6_e2m3fn, "float6_e2m3fn", 3),
        (ml_dtypes.float4_e2m1fn, "float4_e2m1fn", 3),
        (ml_dtypes.int4, "int4", 3),
        (ml_dtypes.uint2, "uint2", 3),
    ],
    ids=lambda x: x if isinstance(x, str) else getattr(x, "__name__", str(x)),
)
def test_dtype_names(dtype: Any, name: str, nbytes: int) -> None:
    handle = dlbridge.from_dlpack(np.zeros(3, dtype))
    assert handle.dtype == name
    assert handle.nbytes == nbytes
    assert handle.numpy().dtype == np.dtype(dtype)


def test_repr_says_all_that_matters() -> None:
    a = array()
    text = repr(dlbridge.from_dlpack(a))
    expected = (
        f"dlbridge.Tensor(shape=(2, 3, 4), strides=(12, 4, 1), dtype=float32, device=cpu, data_ptr={address(a):#x})"
    )
    assert text == expected
    assert "read_only" in repr(dlbridge.from_dlpack(read_only()))
    assert "is_copied" in repr(dlbridge.from_dlpack(a, copy=True))


def test_handle_keeps_the_memory_alive() -> None:
    a = array()
    watch = weakref.ref(a)
    handle = dlbridge.from_dlpack(a)
    del a
    gc.collect()
    assert handle.numpy().sum() == 276
    exported = handle.numpy()
    del handle
    gc.collect()
    assert watch() is not None
    assert exported.sum() == 276
    del exported
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("keeper", ["kept = h", "import builtins; builtins.kept = h", "c = [h]; c.append(c)"])
def test_a_handle_that_lives_until_the_end_is_no_reason_to_print(keeper: str) -> None:
    program = f"import dlbridge, numpy; h = dlbridge.from_dlpack(numpy.zeros(3)); {keeper}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_handles_compare_and_hash_by_identity() -> None:
    a = array()
    first, second = dlbridge.from_dlpack(a), dlbridge.from_dlpack(a)
    assert first == first
    assert first != second
    assert hash(first) != hash(second)
    assert {first: 1, second: 2}[first] == 1


def test_handles_are_made_by_from_dlpack_alone() -> None:
    class Derived(dlbridge.Tensor):
        pass

    for make in (dlbridge.Tensor, lambda: dlbridge.Tensor.__new__(dlbridge.Tensor), Derived):
        with pytest.raises(TypeError, match=r"dlbridge.from_dlpack\(x\)"):
            make()
    with pytest.raises(TypeError, match="not safe"):
        object.__new__(dlbridge.Tensor)


# ---- numpy(), torch(), __array__ ----


def test_numpy_and_torch_share() -> None:
    a = array()
    handle = dlbridge.from_dlpack(a)
    assert address(handle.numpy()) == address(a)
    assert address(handle.torch()) == address(a)
    handle.torch()[0, 0, 0] = 50
    assert handle.numpy()[0, 0, 0] == a[0, 0, 0] == 50


def test_numpy_and_torch_refuse_like_the_functions() -> None:
    handle = dlbridge.from_dlpack(read_only())
    assert refusal(handle.torch).code == "read_only"
    assert not handle.numpy().flags.writeable
    assert refusal(dlbridge.from_dlpack(np.arange(3.0)[::-1]).torch).code == "negative_stride"


def test_array_protocol() -> None:
    a = array()
    handle = dlbridge.from_dlpack(a)
    assert address(np.asarray(handle)) == address(a)
    assert type(np.asarray(handle)) is np.ndarray
    assert address(np.array(handle)) != address(a)
    assert np.array(handle).tolist() == a.tolist()
    assert address(np.array(handle, copy=False)) == address(a)
    cast = np.asarray(handle, dtype=np.float64)
    assert cast.dtype == np.float64
    assert cast.tolist() == a.tolist()
    assert address(np.asarray(handle, dtype=np.float32)) == address(a)
    with pytest.raises(ValueError):
        np.array(handle, dtype=np.float64, copy=False)
    assert (np.add(handle, 1) == a + 1).all()
    assert not np.asarray(dlbridge.from_dlpack(read_only())).flags.writeable


def test_array_protocol_called_directly() -> None:
    handle = dlbridge.from_dlpack(array())
    assert handle.__array__().tolist() == array().tolist()
    assert handle.__array__(np.float64).dtype == np.float64
    assert handle.__array__(copy=True).flags.owndata
    assert address(handle.__array__(dtype=None, copy=False)) == handle.data_ptr


def test_array_protocol_of_a_dtype_that_is_no_buffer() -> None:
    a = array().astype(ml_dtypes.bfloat16)
    handle = dlbridge.from_dlpack(a)
    assert address(np.asarray(handle)) == address(np.array(handle, copy=False)) == address(a)
    assert address(np.array(handle)) != address(a)
    assert np.asarray(handle, dtype=np.float32).tolist() == array().tolist()
    with pytest.raises(ValueError, match="copy"):
        np.array(handle, dtype=np.float32, copy=False)


@pytest.mark.parametrize("call", [np.asarray, np.array, lambda x: np.asarray(x, dtype="f4")])
def test_array_protocol_of_device_memory_is_refused(call: Callable[[Any], Any]) -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(2, 0), data=64).capsule())
    assert refusal(lambda: call(handle)).code == "device_not_named"


# ---- __dlpack__ ----


class Device(enum.IntEnum):
    CPU = 1
    CUDA = 2


STREAMS = {"none": None, "zero": 0, "one": 1, "minus_one": -1, "text": "s"}
VERSIONS = {"none": None, "0.8": (0, 8), "1.0": (1, 0), "1.3": (1, 3), "2.100": (2, 100)}
DEVICES = {"none": None, "cpu": (1, 0), "cpu_enum": (Device.CPU, 0), "cuda": (2, 0)}
COPIES = {"none": None, "false": False, "true": True}
SOURCES = {"writable": array, "read_only": read_only}


def expected_outcome(stream: Any, version: Any, device: Any, copy: Any, readonly: bool) -> Any:
    """A capsule's name, or the exceptions that may be raised (what is checked first is free)."""
    errors: list[type] = []
    if isinstance(stream, str):
        errors.append(TypeError)
    elif stream is not None:
        errors.append(BufferError)
    if device is not None and device[0] != 1:
        errors.append(BufferError)
    versioned = version is not None and version[0] >= 1
    if readonly and not versioned and copy is not True:
        errors.append(BufferError)
    if errors:
        return tuple(errors)
    return "dltensor_versioned" if versioned else "dltensor"


@pytest.mark.rule(31, 32, 84, 96, 98)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stream", STREAMS)
def test_dlpack_with_every_combination(stream: str, version: str, device: str, copy: str, source: str) -> None:
    handle = dlbridge.from_dlpack(SOURCES[source]())
    keywords = {
        "stream": STREAMS[stream],
        "max_version": VERSIONS[version],
        "dl_device": DEVICES[device],
        "copy": COPIES[copy],
    }
    outcome = expected_outcome(*keywords.values(), readonly=source == "read_only")
    if isinstance(outcome, tuple):
        with pytest.raises(outcome):
            handle.__dlpack__(**keywords)
        return
    capsule = handle.__dlpack__(**keywords)
    assert name_of(capsule) == outcome
    managed = versioned_of(capsule) if outcome == "dltensor_versioned" else legacy_of(capsule)
    tensor = managed.dl_tensor
    copied = keywords["copy"] is True
    assert (tensor.data == handle.data_ptr) != copied
    assert tensor.byte_offset == 0
    assert (tensor.device_type, tensor.device_id, tensor.ndim) == (1, 0, 3)
    assert (tensor.code, tensor.bits, tensor.lanes) == (2, 32, 1)
    assert [tensor.shape[i] for i in range(3)] == [2, 3, 4]
    assert [tensor.strides[i] for i in range(3)] == [12, 4, 1]
    if outcome == "dltensor_versioned":
        assert managed.major == 1
        assert bool(managed.flags & IS_COPIED) == copied
        assert bool(managed.flags & READ_ONLY) == (source == "read_only" and not copied)
        assert managed.flags & ~3 == 0


@pytest.mark.rule(99)
@pytest.mark.parametrize("copy", [1, 0, "yes", np.True_], ids=repr)
def test_dlpack_refuses_other_copies(copy: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        dlbridge.from_dlpack(array()).__dlpack__(copy=copy)


@pytest.mark.parametrize("version", [1, "1.0", (1,), ("1", 0), (1, 0, 0)], ids=repr)
def test_dlpack_refuses_other_versions(version: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        dlbridge.from_dlpack(array()).__dlpack__(max_version=version)


@pytest.mark.parametrize("device", ["cpu", (1,), 1, (1, "0"), (99, 0)], ids=repr)
def test_dlpack_refuses_other_devices(device: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        dlbridge.from_dlpack(array()).__dlpack__(dl_device=device)


@pytest.mark.rule(98)
def test_dlpack_on_another_device_says_device() -> None:
    with pytest.raises(BufferError, match="device"):
        dlbridge.from_dlpack(array()).__dlpack__(dl_device=(2, 0))


def test_dlpack_of_pinned_memory_is_host_memory_where_that_is_asked_for() -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(3, 0)).capsule())

    def exported(device: Any, copy: Any = None) -> tuple[int, int]:
        capsule = handle.__dlpack__(max_version=(1, 0), dl_device=device, copy=copy)
        tensor = versioned_of(capsule).dl_tensor
        assert (tensor.data == handle.data_ptr) == (copy is not True)
        return tensor.device_type, tensor.device_id

    assert handle.__dlpack_device__() == exported(None) == exported((3, 0)) == (3, 0)
    assert exported((1, 0)) == exported((1, 0), True) == exported(None, True) == (1, 0)
    with pytest.raises(BufferError, match="the memory is on cpu"):
        exported((3, 0), True)


def test_dlpack_of_ordinary_memory_is_not_pinned() -> None:
    with pytest.raises(BufferError, match="the memory is on cpu"):
        dlbridge.from_dlpack(array()).__dlpack__(dl_device=(3, 0))


def test_dlpack_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        dlbridge.from_dlpack(array()).__dlpack__(None)
    with pytest.raises(TypeError):
        dlbridge.from_dlpack(array()).__dlpack__(unknown=1)


def test_dlpack_device() -> None:
    assert dlbridge.from_dlpack(array()).__dlpack_device__() == (1, 0)


def test_a_copied_capsule_is_independent_and_keeps_values() -> None:
    for make in (array, lambda: array()[::-1, :, ::-2], read_only):
        handle = dlbridge.from_dlpack(make())
        out = dlbridge.to_numpy(handle.__dlpack__(max_version=(1, 0), copy=True))
        assert out.tolist() == make().tolist()
        assert out.flags.writeable
        assert not dlbridge.shares_memory(out, handle)


def test_flags_survive_the_way_through_the_handle() -> None:
    padded = dlbridge.from_dlpack(np.zeros(4, ml_dtypes.float6_e2m3fn))
    managed_capsule = padded.__dlpack__(max_version=(1, 1))
    assert versioned_of(managed_capsule).flags == PADDED
    tensor = versioned_of(managed_capsule).dl_tensor
    assert (tensor.code, tensor.bits, tensor.lanes) == (15, 6, 1)
    again = dlbridge.from_dlpack(managed_capsule)
    assert versioned_of(again.__dlpack__(max_version=(1, 1))).flags == PADDED
    copied = dlbridge.from_dlpack(read_only(), copy=True)
    assert versioned_of(dlbridge.from_dlpack(copied).__dlpack__(max_version=(1, 0))).flags == IS_COPIED
    shared = dlbridge.from_dlpack(dlbridge.from_dlpack(read_only()))
    assert versioned_of(shared.__dlpack__(max_version=(1, 0))).flags == READ_ONLY


@pytest.mark.rule(47)
def test_dropped_capsules_release_once() -> None:
    a = array()
    handle = dlbridge.from_dlpack(a)
    before = sys.getrefcount(a)
    for version, copy in itertools.product((None, (1, 0)), (None, True)):
        assert_no_growth(lambda v=version, c=copy: handle.__dlpack__(max_version=v, copy=c))
    assert sys.getrefcount(a) == before
    handle = None
    assert sys.getrefcount(a) == before - 1


# ---- capsules that come in ----


INCOMING = {
    "numpy_versioned": lambda: array().__dlpack__(max_version=(1, 0)),
    "numpy_legacy": lambda: array().__dlpack__(),
    "torch_versioned": lambda: torch.from_numpy(array()).__dlpack__(max_version=(1, 0)),
    "torch_legacy": lambda: torch.from_numpy(array()).__dlpack__(),
    "torch_to_dlpack": lambda: torch.utils.dlpack.to_dlpack(torch.from_numpy(array())),
    "own_versioned": lambda: dlbridge.from_dlpack(array()).__dlpack__(max_version=(1, 0)),
    "own_legacy": lambda: dlbridge.from_dlpack(array()).__dlpack__(),
}


@pytest.mark.rule(49)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", INCOMING)
def test_capsules_come_in_and_are_consumed(kind: str, target: str) -> None:
    capsule = INCOMING[kind]()
    name = name_of(capsule)
    data = (versioned_of(capsule) if "versioned" in name else legacy_of(capsule)).dl_tensor.data
    before = sys.getrefcount(capsule)
    result = TARGETS[target](capsule)
    assert sys.getrefcount(capsule) == before
    assert name_of(capsule) == f"used_{name}"
    del capsule
    gc.collect()
    assert address(result) == data
    assert values(result) == array().tolist()
    if target == "numpy":
        assert result.flags.writeable == (name == "dltensor_versioned")
    if target == "dlpack":
        assert result.read_only == (name == "dltensor")


@pytest.mark.rule(52)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", INCOMING)
def test_a_used_capsule_is_refused(kind: str, target: str) -> None:
    capsule = INCOMING[kind]()
    first = dlbridge.from_dlpack(capsule)
    error = refusal(lambda: TARGETS[target](capsule))
    assert (error.code, error.field) == ("capsule_used", "capsule")
    assert "used_dltensor" in str(error)
    assert refusal(lambda: dlbridge.explain(capsule, to=target)).code == "capsule_used"
    assert values(first) == array().tolist()


def test_a_refused_capsule_stays_unconsumed() -> None:
    a = array()[::-1]
    before = sys.getrefcount(a)
    capsule = a.__dlpack__(max_version=(1, 0))
    for _ in range(3):
        assert refusal(lambda: dlbridge.to_torch(capsule)).code == "negative_stride"
        assert refusal(lambda: dlbridge.from_dlpack(capsule, device="cuda:0")).code == "no_staging"
    assert name_of(capsule) == "dltensor_versioned"
    assert sys.getrefcount(a) == before + 1
    taken = dlbridge.to_numpy(capsule)
    assert taken.tolist() == a.tolist()
    capsule = taken = None
    assert sys.getrefcount(a) == before


def test_a_copied_capsule_gives_its_values() -> None:
    for make in (array, lambda: array()[::-1], lambda: array().transpose(2, 0, 1)):
        capsule = make().__dlpack__(max_version=(1, 0))
        assert dlbridge.to_torch(capsule, copy=True).tolist() == make().tolist()
        capsule = make().__dlpack__(max_version=(1, 0))
        assert dlbridge.to_torch(capsule, dtype="float64").tolist() == make().tolist()
        capsule = make().__dlpack__(max_version=(1, 0))
        assert dlbridge.to_numpy(capsule, dtype="int32").tolist() == make().tolist()


def test_a_read_only_capsule_stays_read_only() -> None:
    capsule = read_only().__dlpack__(max_version=(1, 0))
    assert refusal(lambda: dlbridge.to_torch(capsule)).code == "read_only"
    assert not dlbridge.to_numpy(capsule).flags.writeable
    handle = dlbridge.from_dlpack(read_only().__dlpack__(max_version=(1, 0)))
    assert handle.read_only
    assert refusal(handle.torch).code == "read_only"


@pytest.mark.rule(74, 106)
def test_legacy_capsules_go_into_torch_writable() -> None:
    a = array()
    t = dlbridge.to_torch(a.__dlpack__())
    t[0, 0, 0] = 99
    assert a[0, 0, 0] == 99


@pytest.mark.rule(74)
def test_legacy_capsules_are_read_only_in_numpy() -> None:
    a = array()
    taken = dlbridge.to_numpy(a.__dlpack__())
    assert address(taken) == address(a)
    assert not taken.flags.writeable
    with pytest.raises(ValueError):
        taken.flags.writeable = True


@pytest.mark.rule(74)
def test_a_legacy_capsule_goes_on_as_one() -> None:
    """Nothing is lost on the way that a legacy capsule said; a versioned one then says read-only."""
    a = array()
    handle = dlbridge.from_dlpack(a.__dlpack__())
    assert handle.read_only
    capsule = handle.__dlpack__()
    assert name_of(capsule) == "dltensor" and legacy_of(capsule).dl_tensor.data == a.ctypes.data
    dlbridge.to_torch(capsule)[0, 0, 0] = 99
    assert a[0, 0, 0] == 99
    assert versioned_of(handle.__dlpack__(max_version=(1, 0))).flags & 1


@pytest.mark.rule(74)
def test_explain_says_unknown_of_a_legacy_capsule() -> None:
    capsule = array().__dlpack__()
    plan = dlbridge.explain(capsule, to="torch")
    assert plan.verdict == "share"
    assert "unknown" in plan.message
    assert name_of(capsule) == "dltensor"
    assert "unknown" not in dlbridge.explain(array().__dlpack__(max_version=(1, 0)), to="torch").message


@pytest.mark.rule(104)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("legacy", [False, True], ids=["versioned", "legacy"])
def test_a_capsule_outlives_its_source(legacy: bool, target: str) -> None:
    a = array()
    watch = weakref.ref(a)
    capsule = a.__dlpack__() if legacy else a.__dlpack__(max_version=(1, 0))
    del a
    gc.collect()
    result = TARGETS[target](capsule)
    del capsule
    gc.collect()
    assert values(result) == array().tolist()
    assert watch() is not None
    del result
    gc.collect()
    assert watch() is None


def test_handle_exports_outlive_everything() -> None:
    a = array()
    watch = weakref.ref(a)
    handle = dlbridge.from_dlpack(a)
    capsule = handle.__dlpack__(max_version=(1, 0))
    del a, handle
    gc.collect()
    t = dlbridge.to_torch(capsule)
    del capsule
    assert t.sum() == 276
    del t
    gc.collect()
    assert watch() is None


# ---- descriptors made by hand ----

GOOD = {
    "plain": ({}, [[0, 1, 2], [3, 4, 5]]),
    "legacy": ({"versioned": False}, [[0, 1, 2], [3, 4, 5]]),
    "legacy_without_strides": ({"versioned": False, "strides": None}, [[0, 1, 2], [3, 4, 5]]),
    "version_1_0_without_strides": ({"version": (1, 0), "strides": None}, [[0, 1, 2], [3, 4, 5]]),
    "later_minor": ({"version": (1, 99)}, [[0, 1, 2], [3, 4, 5]]),
    "byte_offset": ({"byte_offset": 16}, [[4, 5, 6], [7, 8, 9]]),
    "byte_offset_without_strides": ({"byte_offset": 16, "strides": None, "version": (1, 0)}, [[4, 5, 6], [7, 8, 9]]),
    "byte_offset_legacy": ({"byte_offset": 16, "versioned": False}, [[4, 5, 6], [7, 8, 9]]),
    "another_cpu_id": ({"device": (1, 3)}, [[0, 1, 2], [3, 4, 5]]),
    "unknown_flags": ({"flags": 0xFF00}, [[0, 1, 2], [3, 4, 5]]),
    "zero_strides": ({"strides": (0, 1)}, [[0, 1, 2], [0, 1, 2]]),
    "scalar": ({"shape": (), "strides": ()}, 0),
    "scalar_with_nulls": ({"shape": None, "strides": None, "ndim": 0}, 0),
    "empty_with_null_data": ({"shape": (2, 0), "strides": (9, 9), "data": None}, [[], []]),
    "size1_with_wild_stride": ({"shape": (1, 3), "strides": (2**62, 1)}, [[0, 1, 2]]),
    "empty_with_wild_strides": ({"shape": (0, 3), "strides": (2**62, -(2**62)), "data": None}, []),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", GOOD)
def test_good_descriptors_come_in(kind: str, target: str) -> None:
    settings, expected = GOOD[kind]
    crafted = Crafted(**settings)
    capsule = crafted.capsule()
    result = TARGETS[target](capsule)
    assert values(result) == expected
    if crafted.data is not None:
        assert address(result) == crafted.address() + crafted.byte_offset
    del capsule
    assert crafted.calls == 0
    del result
    assert crafted.calls == 1


@pytest.mark.parametrize("target", TARGETS)
def test_export_of_what_came_in_is_clean(target: str) -> None:
    result = TARGETS[target](Crafted(byte_offset=16, device=(1, 3), flags=0xFF02).capsule())
    capsule = result.__dlpack__(max_version=(1, 0))
    managed = versioned_of(capsule)
    assert (managed.dl_tensor.device_type, managed.dl_tensor.device_id) == (1, 0)
    assert managed.flags & ~IS_COPIED == 0
    if target == "dlpack":
        assert result.is_copied
        assert managed.flags == IS_COPIED
        assert managed.dl_tensor.byte_offset == 0


MAX, MIN = 2**63 - 1, -(2**63)
HOSTILE = {
    "negative_rank": ({"ndim": -1}, "invalid_ndim"),
    "huge_rank": ({"ndim": 2**31 - 1}, "invalid_ndim"),
    "null_shape": ({"shape": None, "ndim": 2}, "null_shape"),
    "negative_extent": ({"shape": (2, -3)}, "negative_extent"),
    "lowest_extent": ({"shape": (MIN, 3)}, "negative_extent"),
    "overflowing_extents": ({"shape": (2**32, 2**32), "strides": (2**32, 1)}, "extent_overflow"),
    "overflowing_bytes": ({"shape": (2**62, 1), "strides": (1, 1)}, "extent_overflow"),
    "overflowing_extents_null_strides": (
        {"shape": (2**32, 2**32), "strides": None, "version": (1, 0)},
        "extent_overflow",
    ),
    "overflowing_strides": ({"strides": (MAX, 1)}, "stride_overflow"),
    "lowest_strides": ({"strides": (MIN, 1)}, "stride_overflow"),
    "wrapping_stride_bytes": ({"strides": (2**62, 1)}, "stride_overflow"),
    "opposite_overflows": ({"strides": (2**60, -(2**60))}, ("address_overflow", "stride_overflow")),
    "null_data": ({"data": None}, "null_data"),
    "null_data_with_offset": ({"data": None, "byte_offset": 64}, "null_data"),
    "wrapping_byte_offset": ({"byte_offset": 2**64 - 8}, "address_overflow"),
    "largest_byte_offset": ({"byte_offset": 2**64 - 1}, "address_overflow"),
    "negative_strides_below_zero": ({"data": 16, "strides": (-300, 1)}, "address_overflow"),
    "unknown_code": ({"code": 200}, "unknown_dtype"),
    "unknown_bits": ({"bits": 33}, "unknown_dtype"),
    "zero_bits": ({"bits": 0}, "unknown_dtype"),
    "zero_lanes": ({"lanes": 0}, "unknown_dtype"),
    "unknown_device": ({"device": (99, 0)}, "unknown_device"),
    "negative_device": ({"device": (-1, 0)}, "unknown_device"),
    "zero_device": ({"device": (0, 0)}, "unknown_device"),
    "major_0": ({"version": (0, 8)}, "unsupported_version"),
    "major_2": ({"version": (2, 0)}, "unsupported_version"),
    "huge_major": ({"version": (2**32 - 1, 2**32 - 1)}, "unsupported_version"),
    "wrong_major_and_garbage": ({"version": (2, 0), "shape": None, "ndim": 5, "data": 8}, "unsupported_version"),
}


HOSTILE_CASES = [
    pytest.param(settings | {"versioned": versioned}, codes, id=f"{kind}-{'versioned' if versioned else 'legacy'}")
    for kind, (settings, codes) in HOSTILE.items()
    for versioned in (True, False)
    if versioned or "major" not in kind  # a legacy descriptor has no version
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("settings, codes", HOSTILE_CASES)
def test_hostile_descriptors_are_refused_and_given_back_once(settings: dict, codes: Any, target: str) -> None:
    crafted = Crafted(**settings)
    capsule = crafted.capsule()
    for _ in range(2):
        error = refusal(lambda: TARGETS[target](capsule))
        assert error.code in ((codes,) if isinstance(codes, str) else codes)
        assert error.field
        assert refusal(lambda: dlbridge.explain(capsule, to=target)).code == error.code
    assert crafted.calls == 0
    capsule = None
    assert crafted.calls == 1


@pytest.mark.rule(44)
@pytest.mark.parametrize("holder", ["handle", "array", "capsule"])
def test_dropping_what_came_in_keeps_a_pending_exception(holder: str) -> None:
    crafted = Crafted()  # its deleter is Python code, which cannot run while an exception is pending

    def use_and_fail() -> None:
        kept = dlbridge.from_dlpack(crafted.capsule())
        if holder == "array":
            kept = kept.numpy()
        if holder == "capsule":
            kept = kept.__dlpack__()
        raise LookupError("own words", type(kept))

    def drop_while_failing() -> None:
        # A built-in function's arguments are dropped while its exception is pending.
        handle = dlbridge.from_dlpack(crafted.capsule())
        kept = [{"handle": handle, "array": handle.numpy(), "capsule": handle.__dlpack__()}[holder]]
        del handle
        chr(kept.pop())

    with pytest.raises(LookupError, match="own words"):
        use_and_fail()
    with pytest.raises(TypeError, match="integer"):
        drop_while_failing()
    gc.collect()
    assert crafted.calls == 2


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_descriptors_from_a_producer_are_given_back_once(target: str) -> None:
    for settings, _ in HOSTILE.values():
        crafted = Crafted(**settings)
        producer = Producer(lambda crafted=crafted, **_: crafted.capsule())
        refusal(lambda producer=producer: TARGETS[target](producer))
        assert crafted.calls == 1


@pytest.mark.parametrize("target", ["torch", "numpy"])
def test_descriptors_that_plan_refuses_are_given_back_once(target: str) -> None:
    for settings in ({"lanes": 2}, {"device": (7, 0)}, {"code": 1, "bits": 4}):
        crafted = Crafted(**settings)
        capsule = crafted.capsule()
        refusal(lambda capsule=capsule: TARGETS[target](capsule))
        assert crafted.calls == 0
        del capsule
        assert crafted.calls == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("legacy", [False, True], ids=["versioned", "legacy"])
def test_a_null_deleter_is_tolerated(legacy: bool, target: str) -> None:
    crafted = Crafted(deleter=False, versioned=not legacy)
    capsule = crafted.capsule()
    result = TARGETS[target](capsule)
    assert values(result) == [[0, 1, 2], [3, 4, 5]]
    del capsule, result
    gc.collect()
    hostile = Crafted(deleter=False, versioned=not legacy, ndim=-1).capsule()
    refusal(lambda: TARGETS[target](hostile))
    hostile = None
    gc.collect()


@pytest.mark.parametrize("name", [b"nonsense", b"dltensor_versioned2", b"used_nonsense"], ids=bytes.decode)
@pytest.mark.parametrize("target", TARGETS)
def test_capsules_of_other_names_are_refused(name: bytes, target: str) -> None:
    capsule = Crafted(name=name).capsule()
    error = refusal(lambda: TARGETS[target](capsule))
    assert error.code == ("capsule_used" if name.startswith(b"used_") else "capsule_name")
    assert name_of(capsule) == name.decode()


def test_a_deleter_runs_when_the_last_view_is_gone() -> None:
    crafted = Crafted()
    handle = dlbridge.from_dlpack(crafted.capsule())
    views = [handle.numpy(), handle.torch(), handle.numpy()[1:], handle.torch()[0], handle.__dlpack__()]
    del handle
    while views:
        assert crafted.calls == 0
        views.pop()
    assert crafted.calls == 1


def test_a_copy_gives_the_capsule_back_or_leaves_it() -> None:
    crafted = Crafted()
    capsule = crafted.capsule()
    t = dlbridge.to_torch(capsule, copy=True)
    assert t.tolist() == [[0, 1, 2], [3, 4, 5]]
    del capsule
    assert crafted.calls == 1


def test_pinned_memory_is_host_memory() -> None:
    crafted = Crafted(device=(3, 0))
    a = dlbridge.to_numpy(crafted.capsule())
    assert a.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert a.__dlpack_device__() == (1, 0)
    t = dlbridge.to_torch(Crafted(device=(3, 0)).capsule())
    assert t.device.type == "cpu"
    assert t.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert dlbridge.from_dlpack(crafted.capsule()).device in ("cuda_host", "cpu_pinned", "cuda_host:0")


@pytest.mark.parametrize("device", [(2, 0), (10, 1)], ids=["cuda", "rocm"])
def test_device_memory_does_not_become_an_array_unasked(device: tuple[int, int]) -> None:
    capsule = Crafted(device=device).capsule()
    error = refusal(lambda: dlbridge.to_numpy(capsule))
    assert error.code == "device_not_named"
    assert 'device="cpu"' in str(error)
    assert "24 bytes" in str(error)
    assert refusal(lambda: dlbridge.to_numpy(capsule, copy=None)).code == "device_not_named"
    assert refusal(lambda: dlbridge.to_numpy(capsule, device="cpu", copy=False)).code == "copy_forbidden"
    assert refusal(lambda: dlbridge.to_numpy(capsule, device="cpu")).code == "no_staging"


def test_the_handle_of_device_memory_says_where_it_is() -> None:
    handle = dlbridge.from_dlpack(Crafted(device=(2, 1)).capsule())
    assert handle.device == "cuda:1"
    assert handle.__dlpack_device__() == (2, 1)
    with pytest.raises(BufferError, match="device"):
        handle.__dlpack__(dl_device=(1, 0))


DEVICE_COPIES = {
    "from_dlpack_true": "dlbridge.from_dlpack(c, copy=True)",
    "from_dlpack_handle_true": "dlbridge.from_dlpack(h, copy=True)",
    "export_copy": "h.__dlpack__(copy=True)",
    "to_torch_true": "dlbridge.to_torch(c, copy=True)",
    "to_torch_cast": "dlbridge.to_torch(c, dtype='float64')",
    "to_numpy_cast": "dlbridge.to_numpy(c, dtype='float64')",
    "to_numpy_out": "dlbridge.to_numpy(c, out=np.zeros((2, 3), np.float32))",
    "to_numpy_none": "dlbridge.to_numpy(c, copy=None)",
    "to_numpy_true": "dlbridge.to_numpy(c, copy=True)",
    "array_protocol": "np.asarray(h)",
}


@pytest.mark.parametrize("kind", DEVICE_COPIES)
def test_device_memory_is_never_read_by_the_host(kind: str) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import dlbridge, numpy as np\n"
        "from capsules import Crafted\n"
        "c = Crafted(device=(2, 0), data=64).capsule()  # an address that no host can read\n"
        "h = dlbridge.from_dlpack(Crafted(device=(2, 0), data=64).capsule())\n"
        f"try: {DEVICE_COPIES[kind]}\n"
        "except BufferError as e: print('refused', getattr(e, 'code', ''))\n"
    )
    result = subprocess.run([sys.executable, "-c", program, HELPERS], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"ended with {result.returncode}: {result.stderr[-300:]}"
    assert result.stdout.startswith("refused")


def test_packed_sub_byte_elements() -> None:
    packed = dict(code=17, bits=4, shape=(6,), strides=(1,))
    handle = dlbridge.from_dlpack(Crafted(**packed).capsule())
    assert (handle.dtype, handle.nbytes) == ("float4_e2m1fn", 3)
    capsule = Crafted(**packed).capsule()
    refusal(lambda: dlbridge.to_numpy(capsule))
    refusal(lambda: dlbridge.to_torch(capsule))
    padded = dlbridge.to_numpy(Crafted(**packed, flags=PADDED).capsule())
    assert padded.dtype == ml_dtypes.float4_e2m1fn
    assert padded.nbytes == 6


@pytest.mark.rule(107)
def test_float6_with_the_padded_flag() -> None:
    handle = dlbridge.from_dlpack(Crafted(code=15, bits=6, shape=(5,), strides=(1,), flags=PADDED).capsule())
    assert (handle.dtype, handle.nbytes) == ("float6_e2m3fn", 5)
    a = handle.numpy()
    assert (a.dtype, a.itemsize) == (np.dtype(ml_dtypes.float6_e2m3fn), 1)
    managed = handle.__dlpack__(max_version=(1, 1))
    assert versioned_of(managed).flags == PADDED


# ---- producers ----


def test_a_producer_is_asked_for_a_versioned_capsule() -> None:
    a = array()
    producer = Producer(a.__dlpack__)
    t = dlbridge.to_torch(producer)
    assert address(t) == address(a)
    assert producer.calls == [{"max_version": (1, 3)}]


@pytest.mark.rule(87)
@pytest.mark.parametrize("kind", [BufferError, TypeError, RuntimeError, KeyError])
@pytest.mark.parametrize("target", TARGETS)
def test_errors_of_a_producer_pass_through(kind: type[Exception], target: str) -> None:
    error = kind("own words")

    def dlpack(**_: Any) -> Any:
        raise error

    producer = Producer(dlpack)
    with pytest.raises(kind, match="own words") as caught:
        TARGETS[target](producer)
    assert caught.value is error
    assert len(producer.calls) == 1


def test_a_producer_whose_type_error_mentions_keywords_is_not_hidden() -> None:
    class Broken:
        def __dlpack__(self, *, stream: Any = None, max_version: Any = None) -> Any:
            return dict(nonsense=1).update(1, 2)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    with pytest.raises(TypeError, match="update"):
        dlbridge.to_numpy(Broken())


class StreamOnly:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class NothingKnown(StreamOnly):
    def __dlpack__(self) -> Any:
        return self.array.__dlpack__()


class Positional(StreamOnly):
    def __dlpack__(self, stream: Any = None, max_version: Any = None) -> Any:
        return self.array.__dlpack__(max_version=max_version)


@pytest.mark.rule(105)
@pytest.mark.parametrize("kind", [StreamOnly, NothingKnown, Positional])
@pytest.mark.parametrize("target", TARGETS)
def test_old_producers_work(kind: type, target: str) -> None:
    a = array()
    result = TARGETS[target](kind(a))
    assert address(result) == address(a)
    assert values(result) == a.tolist()
    versioned = kind is Positional
    if target == "numpy":
        assert result.flags.writeable == versioned
    before = sys.getrefcount(a)
    del result
    assert sys.getrefcount(a) == before - 1


@pytest.mark.parametrize("answer", [None, 3, "capsule", array()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("target", TARGETS)
def test_answers_that_are_no_capsules_are_type_errors(answer: Any, target: str) -> None:
    with pytest.raises(TypeError, match="expected a DLPack capsule"):
        TARGETS[target](Producer(lambda **_: answer))


@pytest.mark.parametrize("target", TARGETS)
def test_a_producer_that_answers_with_a_used_capsule(target: str) -> None:
    capsule = array().__dlpack__()
    kept = dlbridge.from_dlpack(capsule)
    error = refusal(lambda: TARGETS[target](Producer(lambda **_: capsule)))
    assert error.code == "capsule_used"
    assert values(kept) == array().tolist()


def test_an_attribute_error_inside_dlpack_is_not_taken_for_a_missing_method() -> None:
    def dlpack(**_: Any) -> Any:
        raise AttributeError("inside")

    with pytest.raises(AttributeError, match="inside"):
        dlbridge.to_numpy(Producer(dlpack))


@pytest.mark.rule(103)
def test_a_producer_is_released_with_its_result() -> None:
    a = array()
    before = sys.getrefcount(a)
    producer = Producer(a.__dlpack__)
    bound = sys.getrefcount(a)
    result = dlbridge.to_torch(producer)
    assert sys.getrefcount(a) == bound + 1
    del result, producer
    assert sys.getrefcount(a) == before


def test_refusals_of_producers_leak_nothing() -> None:
    a = array()[::-1]
    producer = Positional(a)
    before = sys.getrefcount(a)

    def attempt() -> None:
        try:
            dlbridge.to_torch(producer)
        except dlbridge.ExchangeError:
            return
        raise AssertionError("not refused")

    assert_no_growth(attempt)
    assert sys.getrefcount(a) == before


def test_conversions_leak_nothing() -> None:
    a, t = array(), torch.from_numpy(array())
    handle = dlbridge.from_dlpack(a)
    for convert in TARGETS.values():
        for source in (a, t, handle, Positional(a), NothingKnown(a)):
            assert_no_growth(lambda c=convert, s=source: c(s))
            assert_no_growth(lambda c=convert, s=source: c(s, copy=True))
    wide = AS(np.arange(4096.0), (2,) * 12, (8,) * 12)
    assert_no_growth(lambda: dlbridge.to_numpy(wide))
    assert_no_growth(lambda: dlbridge.from_dlpack(wide).numpy())
