# SPDX-License-Identifier: Apache-2.0
"""Runs the usual conversions beside their dlbridge calls, and shows what each does to memory. Part of photo.py."""

import copy
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from observe import Case, Report, address, same_memory
from PIL import Image

from dlbridge import to_numpy, to_torch

BIG = 64 * 1024 * 1024  # above malloc's mmap threshold: freed memory of this size is unmapped


def show_all(report: Report, image: Image.Image) -> None:
    """Shows all of them; the array is the photograph."""
    photo = np.array(image)
    share_array(report, photo)
    share_tensor(report, photo)
    copy_array(report, photo)
    cast_array(report, photo)
    cast_to_own_dtype(report, photo)
    round_trip(report, photo)
    flipped_view(report, photo)
    strided_view(report, photo)
    read_only(report, image)
    requires_grad(report, photo)
    bfloat16(report, photo)
    survives_share_memory(report)


def share_array(report: Report, photo: np.ndarray) -> None:
    """torch.from_numpy."""
    case = Case(report, "An array becomes a tensor", a=photo.copy())
    case.run("torch.from_numpy(a)", "a")
    ours = case.expect("to_torch(a)", "a", "shared")
    case.show()
    ours.result[0, 0, 0] = 201
    report.claim("the array sees the tensor's write", case.names["a"][0, 0, 0] == 201)


def share_tensor(report: Report, photo: np.ndarray) -> None:
    """Tensor.numpy."""
    case = Case(report, "A tensor becomes an array", t=torch.tensor(photo))
    case.run("t.numpy()", "t")
    ours = case.expect("to_numpy(t)", "t", "shared")
    case.show()
    ours.result[0, 0, 0] = 202
    report.claim("the tensor sees the array's write", int(case.names["t"][0, 0, 0]) == 202)


def copy_array(report: Report, photo: np.ndarray) -> None:
    """torch.tensor, clone."""
    case = Case(report, "An array is copied into a tensor, because the call says so", a=photo)
    case.run("torch.tensor(a)", "a")
    case.run("torch.from_numpy(a).clone()", "a")
    ours = case.expect("to_torch(a, copy=True)", "a", "copied")
    case.show()
    report.claim("the copy has the array's values", np.array_equal(ours.result.numpy(), photo))


def cast_array(report: Report, photo: np.ndarray) -> None:
    """torch.tensor(dtype), torch.Tensor, astype."""
    case = Case(report, "An array becomes a tensor of another dtype", a=photo)
    case.run("torch.tensor(a, dtype=torch.float32)", "a")
    case.run("torch.Tensor(a)", "a")
    case.run("torch.from_numpy(a.astype(np.float32))", "a")
    ours = case.expect("to_torch(a, dtype=torch.float32)", "a", "copied")
    case.show()
    report.claim("the cast keeps the values", np.array_equal(ours.result.numpy(), photo.astype(np.float32)))


def cast_to_own_dtype(report: Report, photo: np.ndarray) -> None:
    """The same calls without anything to cast."""
    case = Case(report, "... and when it has that dtype already", f=photo.astype(np.float32))
    for call in ("torch.tensor(f, dtype=torch.float32)", "torch.Tensor(f)", "torch.from_numpy(f.astype(np.float32))"):
        case.run(call, "f")
    case.expect("to_torch(f, dtype=torch.float32)", "f", "shared")
    case.show()
    seen = [
        f"{'shares' if same_memory(torch.Tensor(array), array) else 'copies'} a {array.dtype} array"
        for array in (case.names["f"], photo)
    ]
    report.say(f"A cast to the array's own dtype is not made. torch.Tensor silently {' and '.join(seen)}.")


def saved_size(*tensors: torch.Tensor) -> int:
    """Bytes that torch.save needs for the tensors: it writes a storage once."""
    buffer = io.BytesIO()
    torch.save(list(tensors), buffer)
    return buffer.getbuffer().nbytes


def stays_one(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether torch knows the two as views of one storage: the same StorageImpl, and one memory after deepcopy."""
    one, other = copy.deepcopy([a, b])
    same = a.untyped_storage()._cdata == b.untyped_storage()._cdata
    return same and one.data_ptr() == other.data_ptr()


def there_and_back(
    report: Report, name: str, t: torch.Tensor, there: Callable[..., np.ndarray], back: Callable[..., torch.Tensor]
) -> bool:
    """Converts `t` to NumPy, adds one, converts back. Returns whether the result has the storage of `t`."""
    expected = t + 1
    a = there(t)
    a += 1
    returned = back(a)
    seen, placed, one = torch.equal(t, expected), address(returned) == address(t), stays_one(t, returned)
    report.claim(f"{name}: the tensor sees += 1", seen)
    report.claim(f"{name}: the result has the tensor's address", placed)
    report.say(
        f"{name}: t sees += 1: {seen}; same address: {placed}; same storage, one memory after deepcopy: {one}; "
        f"torch.save([t, back]): {saved_size(t, returned):,} bytes"
    )
    return one


def round_trip(report: Report, photo: np.ndarray) -> None:
    """t.numpy(), += 1, from_numpy: the memory is the same, the storage only with dlbridge."""
    case = Case(report, "There, += 1, and back", t=torch.tensor(photo))
    case.run("torch.from_numpy(t.numpy())", "t")
    case.expect("to_torch(to_numpy(t))", "t", "shared")
    case.show()
    there_and_back(report, "stock", torch.tensor(photo), torch.Tensor.numpy, torch.from_numpy)
    one = there_and_back(report, "dlbridge", torch.tensor(photo), to_numpy, to_torch)
    report.claim("dlbridge reuses the storage", one)


def flipped_view(report: Report, photo: np.ndarray) -> None:
    """Negative strides."""
    case = Case(report, "A mirrored view (negative strides)", flip=photo[:, ::-1])
    case.run("torch.from_numpy(flip)", "flip")
    case.run("torch.from_numpy(flip.copy())", "flip")
    refusal = case.expect("to_torch(flip)", "flip", "refused")
    ours = case.expect("to_torch(flip, copy=None)", "flip", "copied")
    case.show()
    report.claim("the refusal names the remedy", "copy=None" in str(refusal.error))
    report.claim("the copy is mirrored", np.array_equal(ours.result.numpy(), photo[:, ::-1]))


def jax_numpy() -> ModuleType | None:
    """jax.numpy on the CPU, where JAX is installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return importlib.import_module("jax.numpy")


def strided_view(report: Report, photo: np.ndarray) -> None:
    """Every second pixel."""
    original = photo.copy()
    jnp = jax_numpy()
    case = Case(report, "Every second pixel (a view that is not contiguous)", view=original[::2, ::2], jnp=jnp)
    case.run("torch.tensor(view)", "view")
    case.run("torch.from_numpy(np.ascontiguousarray(view))", "view")
    if jnp is not None:
        case.run("jnp.asarray(view)", "view")
    case.run("torch.from_numpy(view)", "view")
    ours = case.expect("to_torch(view)", "view", "shared")
    case.show()
    ours.result.zero_()
    report.claim("zero_ cleared every second pixel", not original[::2, ::2].any())
    report.claim("zero_ left the others alone", np.array_equal(original[1::2], photo[1::2]))


def read_only(report: Report, image: Image.Image) -> None:
    """Pillow's own array of the photograph is read-only."""
    case = Case(report, "A read-only array (np.asarray of a Pillow image)", a=np.asarray(image))
    array = case.names["a"]
    stock = case.run("torch.from_numpy(a)", "a")
    refusal = case.expect("to_torch(a)", "a", "refused")
    copied = case.expect("to_torch(a, copy=None)", "a", "copied")
    view = case.expect("to_numpy(a)", "a", "shared")
    case.show(timed=False)
    if stock.shared:
        before = int(array[0, 0, 0])
        stock.result[0, 0, 0] ^= 1
        report.say(
            f"a.flags.writeable is {array.flags.writeable}, yet a write through torch.from_numpy's tensor changed "
            f"a[0, 0, 0] from {before} to {array[0, 0, 0]}."
        )
        stock.result[0, 0, 0] ^= 1
    report.say(f"to_numpy(a).flags.writeable is {view.result.flags.writeable}.")
    report.claim("the refusal's code is read_only", getattr(refusal.error, "code", "") == "read_only")
    report.claim("the copy has the array's values", np.array_equal(copied.result.numpy(), array))
    report.claim("read-only stays read-only", not view.result.flags.writeable)


def requires_grad(report: Report, photo: np.ndarray) -> None:
    """A tensor that requires grad."""
    case = Case(report, "A tensor that requires grad", w=torch.tensor(photo, dtype=torch.float32, requires_grad=True))
    case.run("w.numpy()", "w")
    refusal = case.expect("to_numpy(w)", "w", "refused")
    case.run("w.detach().numpy()", "w")
    case.expect("to_numpy(w.detach())", "w", "shared")
    case.show()
    report.claim("the refusal names the remedy", "detach()" in str(refusal.error))
    with torch.no_grad():
        shared = address(to_numpy(case.names["w"])) == address(case.names["w"])
    report.say(f"Under torch.no_grad() to_numpy(w) shares: {shared}.")
    report.claim("under no_grad it is shared", shared)


def bfloat16(report: Report, photo: np.ndarray) -> None:
    """A dtype that NumPy has only with ml_dtypes."""
    case = Case(report, "A bfloat16 tensor", t=torch.tensor(photo, dtype=torch.bfloat16))
    case.run("t.numpy()", "t")
    case.run("t.float().numpy()", "t")
    ours = case.expect("to_numpy(t)", "t", "shared")
    case.show()
    dtype = ours.result.dtype
    report.say(f"The array's dtype is {dtype} ({dtype.type.__module__}), itemsize {dtype.itemsize}.")
    exact = np.array_equal(ours.result.astype(np.float32), case.names["t"].float().numpy())
    report.claim("the array has the tensor's values", exact)
    back = to_torch(ours.result)
    report.claim("the array becomes a bfloat16 tensor again", back.dtype == torch.bfloat16)
    report.claim("... over the same memory", address(back) == address(ours.result))


STOCK_SHARE_MEMORY = f"""
import resource, torch
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
t = torch.full(({BIG},), 7, dtype=torch.uint8)
a = t.numpy()
t.share_memory_()
print(int(a.sum()) // 7, flush=True)
"""


def stock_share_memory() -> str:
    """What happens to the array of Tensor.numpy() when its tensor moves. Runs in a child: it may read freed memory."""
    child = subprocess.run([sys.executable, "-c", STOCK_SHARE_MEMORY], capture_output=True, text=True, check=False)
    if child.returncode < 0:
        return f"reading the array killed the process ({signal.Signals(-child.returncode).name})"
    if child.returncode > 0:
        return f"failed: {child.stderr.strip().splitlines()[-1]}"
    return f"its bytes add up to {int(child.stdout):,} times 7, and should to {BIG:,} times"


def survives_share_memory(report: Report) -> None:
    """An export does not dangle."""
    print("\nAn array whose tensor moves: t.share_memory_() after the conversion (64 MiB)")
    if not os.path.isdir("/dev/shm") or shutil.disk_usage("/dev/shm").free < 1.25 * BIG:
        report.say("not shown: /dev/shm is missing or has less than 80 MiB free, so torch cannot move the tensor there")
        return
    print(f"   a = t.numpy(); t.share_memory_()     in another process: {stock_share_memory()}")
    t = torch.full((BIG,), 7, dtype=torch.uint8)
    a = to_numpy(t)
    before = address(a)
    report.claim("the array is the tensor's memory", before == address(t))
    t.share_memory_()
    moved = address(t)
    intact = int((a == 7).sum())
    print(f"   a = to_numpy(t); t.share_memory_()   in this process: {intact:,} of {BIG:,} bytes are as before")
    report.say(f"The tensor moved from {before:#x} to {moved:#x}; the array keeps the old bytes at {address(a):#x}.")
    report.claim("the array outlives the tensor's move", intact == BIG and address(a) == before)
    report.claim("the tensor is in shared memory", t.is_shared() and moved != before)
    del t
    report.claim("the array outlives the tensor", int((a == 7).sum()) == BIG)
