# SPDX-License-Identifier: Apache-2.0
"""dlbridge.torch.DcpStager with torch's own async_save and load, and beside torch's DefaultStager."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from simulated_gpu import LARGE, values_of
from torch.distributed import checkpoint
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

import dlbridge
from dlbridge.torch import DcpStager

needs_dcp = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
BLOCKING = StagingOptions(False, False, False, False)  # what DefaultStager can do without a GPU


@pytest.fixture
def group(tmp_path):
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained_state() -> tuple[dict[str, Any], torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.BatchNorm1d(20), torch.nn.Linear(20, 5).bfloat16())
    optimizer = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, model, optimizer


def tensors_of(state: Any) -> list[torch.Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(state) if isinstance(x, torch.Tensor)]


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix == ".distcp"}


@needs_dcp
def test_save_and_load(group, tmp_path):
    """The optimiser goes on at once; the file has the bytes that DefaultStager's has, and loads."""
    state, _, optimizer = trained_state()
    checkpoint.async_save(state, checkpoint_id=tmp_path / "torch", async_stager=DefaultStager(BLOCKING)).result()
    expected = [x.clone() for x in tensors_of(state)]
    stager = DcpStager()
    response = checkpoint.async_save(state, checkpoint_id=tmp_path / "ours", async_stager=stager)
    optimizer.step()
    for x in tensors_of(state["model"]):
        x.zero_()
    response.staging_completion.result()
    response.upload_completion.result()
    assert content(tmp_path / "ours") == content(tmp_path / "torch")
    checkpoint.load(state, checkpoint_id=tmp_path / "ours")
    for x, value in zip(tensors_of(state), expected, strict=True):
        torch.testing.assert_close(x, value, rtol=0, atol=0)
    assert isinstance(stager, AsyncStager)
    stager.close()


@needs_dcp
def test_local_tensor_of_a_dtensor(group, tmp_path):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

    whole = torch.arange(12.0).reshape(4, 3)
    x = distribute_tensor(whole, init_device_mesh("cpu", (1,)), [Shard(0)])
    staged = DcpStager().stage({"x": x}).result()["x"]
    assert isinstance(staged, DTensor) and staged.placements == x.placements and staged.shape == x.shape
    assert torch.equal(staged.to_local(), whole) and staged.to_local().data_ptr() != x.to_local().data_ptr()


SOURCES = {
    "contiguous": lambda w: w,
    "transposed": lambda w: w.T,
    "rows": lambda w: w[2:5],
    "gaps": lambda w: w[:, ::2],
    "scalar": lambda w: w[0, 0],
    "empty": lambda w: w[:0],
    "bfloat16": lambda w: w.bfloat16(),
    "conjugated": lambda w: torch.complex(w, w).conj(),
    "sparse": lambda w: w.to_sparse(),
    "parameter": lambda w: torch.nn.Parameter(w),
}


@pytest.mark.parametrize("share_memory", [False, True], ids=["private", "shared"])
@pytest.mark.parametrize("source", SOURCES)
def test_kinds_of_tensors(source, share_memory):
    x = SOURCES[source](torch.randn(8, 6))
    (staged,) = DcpStager(share_memory=share_memory).stage({"x": [x]}).result()["x"]
    assert type(staged) is torch.Tensor and not staged.requires_grad
    assert torch.equal(staged.to_dense(), x.detach().to_dense())
    if x.layout is torch.strided and x.numel():
        assert staged.is_shared() == share_memory
        if not share_memory:  # the elements of a view alone, which torch's writer does not copy again
            assert staged.untyped_storage().nbytes() == x.numel() * x.element_size()


def test_ties_and_other_values():
    w, notes = torch.randn(4, 4), [1, {"lr": 0.5}]
    state = {"a": w, "b": w, "flat": w.view(-1), "notes": notes}
    staged = DcpStager().stage(state).result()
    notes[1]["lr"] = 9.0
    assert staged["a"].data_ptr() == staged["b"].data_ptr() == staged["flat"].data_ptr() and staged["flat"].dim() == 1
    assert staged["notes"] == [1, {"lr": 0.5}] and list(staged) == list(state)


@pytest.mark.parametrize("share_memory", [False, True], ids=["private", "shared"])
def test_memory_is_reused_when_the_result_is_gone(share_memory):
    stager, state = DcpStager(share_memory=share_memory), {"x": torch.randn(1000), "y": torch.zeros(3)}
    held = stager.stage(state).result()["x"][5:]
    second = stager.stage(state).result()["x"]
    address = second.data_ptr()
    assert not dlbridge.shares_memory(second, held)
    del second
    gc.collect()
    assert stager.stage(state).result()["x"].data_ptr() == address


@needs_dcp
def test_saving_in_another_process(group, tmp_path, monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # torch asks for the name of the machine, which need not resolve
    state, _, _ = trained_state()
    expected = [x.clone() for x in tensors_of(state)]
    stager = DcpStager(share_memory=True)
    kind = AsyncCheckpointerType.PROCESS
    response = checkpoint.async_save(
        state, checkpoint_id=tmp_path / "p", async_stager=stager, async_checkpointer_type=kind
    )
    response.upload_completion.result()
    for x in tensors_of(state):
        x.zero_()
    checkpoint.load(state, checkpoint_id=tmp_path / "p")
    assert all(map(torch.equal, tensors_of(state), expected))


@pytest.mark.skipif(dlbridge.build_info()["on_write"] == "none", reason="this tier cannot share read-only memory")
@pytest.mark.parametrize("on_write", ["raise", "copy"])
def test_read_only_weights_are_staged_once_and_stay_shared(on_write):
    if on_write not in dlbridge.build_info()["on_write"]:
        pytest.skip("this tier does not copy on write")
    weights = dlbridge.to_torch(np.arange(6.0).tobytes(), on_write=on_write)
    staged = DcpStager().stage({"w": weights, "tied": weights}).result()
    assert staged["w"].tolist() == weights.tolist()
    assert staged["w"].data_ptr() == staged["tied"].data_ptr()
    assert not dlbridge.to_numpy(weights).flags.writeable


# ---- on the simulated GPU


@needs_dcp
@pytest.mark.parametrize("share_memory", [False, True], ids=["pinned", "shared"])
def test_late_weights_are_saved_before_they_are_overwritten(gpu, group, tmp_path, share_memory):
    """The weights are still being computed when stage() is called, and overwritten as soon as it returns."""
    values = [values_of(LARGE), values_of(first=7), values_of(first=9).T]
    fakes = [gpu.array(v, late=True) for v in values]
    weights = [dlbridge.to_torch(fake) for fake in fakes]
    hold = gpu.hold()
    stager = DcpStager(share_memory=share_memory)
    before = gpu.counts()["memcpy_async"]
    state = {"w": weights, "tied": weights[0], "step": torch.tensor(5)}
    response = checkpoint.async_save(state, checkpoint_id=tmp_path / "c", async_stager=stager)
    assert gpu.counts()["memcpy_async"] - before == len(values) and not response.staging_completion.done()
    for fake in fakes:
        gpu.overwrite(fake, 0x55)
    hold.release()
    response.upload_completion.result(60)
    stager.close()
    loaded = {"w": [torch.zeros(v.shape) for v in values], "tied": torch.zeros(LARGE), "step": torch.tensor(0)}
    checkpoint.load(loaded, checkpoint_id=tmp_path / "c")
    for got, expected in zip([*loaded["w"], loaded["tied"]], [*values, values[0]], strict=True):
        np.testing.assert_array_equal(got.numpy(), expected)
    assert loaded["step"] == 5
    del state, weights, response
    gc.collect()
