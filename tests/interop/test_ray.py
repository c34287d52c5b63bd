# SPDX-License-Identifier: Apache-2.0
"""dlbridge.ray with a real Ray: what readers share, what arrives, and what is left to torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simulated_gpu
import torch

import dlbridge
from isolated import run_isolated
from support import raw, refusal

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="Ray is not installed: scripts/test interop installs it")
if "copy" not in dlbridge.build_info()["on_write"]:
    pytest.skip("this torch does not copy on write", allow_module_level=True)

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/ray_pipeline.py"


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=3,
        include_dashboard=False,
        object_store_memory=256 << 20,
        runtime_env={"worker_process_setup_hook": dlbridge.ray.register},
        logging_level="ERROR",
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def registered(cluster: None) -> Iterator[None]:
    dlbridge.ray.register()
    yield
    ray.util.deregister_serializer(torch.Tensor)


def through(x: Any) -> Any:
    return ray.get(ray.put(x))


def is_shared(t: torch.Tensor) -> bool:
    """Whether it lies in memory that cannot be written, as the object store's."""
    return not dlbridge.to_numpy(t.detach(), dtype=None).flags.writeable


BIG = 300_000  # elements; small objects are not in the store
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "vector": lambda t: t,
    "transposed": lambda t: t.reshape(600, -1).T,
    "stepped": lambda t: t[::2],
    "scalar": lambda t: t[5],
    "empty": lambda t: t[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.float8_e5m2], ids=str
)
def test_tensors_arrive_whole(registered: None, dtype: torch.dtype, layout: str) -> None:
    t = LAYOUTS[layout](torch.arange(BIG).to(dtype))
    again = through(t)
    assert type(again) is torch.Tensor
    assert (again.dtype, again.shape, again.requires_grad) == (t.dtype, t.shape, False)
    assert raw(again) == raw(t)


def test_readers_share_the_store(registered: None) -> None:
    values = torch.arange(BIG)
    stored = ray.put({"a": values, "b": [values, values[10:]]})
    first, second = ray.get(stored), ray.get(stored)
    assert all(is_shared(t) for t in (first["a"], second["a"], first["b"][1]))
    assert first["b"][0] is first["a"]
    assert dlbridge.shares_memory(first["a"], second["a"])
    assert not dlbridge.shares_memory(first["a"], first["b"][1])  # one storage arrives apart


def test_workers_share_what_they_send_and_get(registered: None) -> None:
    @ray.remote
    def send_on(t: torch.Tensor) -> tuple[bool, torch.Tensor, torch.Tensor]:
        return not dlbridge.to_numpy(t).flags.writeable, t, torch.ones(BIG)

    shared, again, ones = ray.get(send_on.remote(torch.arange(BIG)))
    assert shared and is_shared(again) and is_shared(ones)
    assert raw(again) == raw(torch.arange(BIG))


def test_first_write_copies(registered: None) -> None:
    stored = ray.put(torch.zeros(BIG))
    written, view = ray.get(stored), ray.get(stored)[:3]
    written += 1
    assert written.sum() == BIG and view.sum() == 0 and ray.get(stored).sum() == 0


def test_writes_are_refused_on_request(cluster: None) -> None:
    dlbridge.ray.register(on_write="raise")
    stored = ray.put(torch.zeros(BIG))
    assert refusal(lambda: ray.get(stored).add_(1)).code == "read_only"
    assert ray.get(stored).sum() == 0
    with pytest.raises(ValueError, match="on_write"):
        dlbridge.ray.register(on_write="no")
    for device, code in (("gpu", "invalid_device"), ("meta", "unsupported_device")):
        error = refusal(lambda device=device: dlbridge.ray.register(device=device))
        assert error.code == code and repr(device) in str(error)
    ray.util.deregister_serializer(torch.Tensor)


def test_modules_are_trained_by_who_gets_them(registered: None) -> None:
    model = torch.nn.Linear(600, 500)
    again = through(model)
    assert is_shared(again.weight) and again.weight.requires_grad
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again(torch.ones(600)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(again.bias, model.bias - 0.1)


def with_attribute() -> torch.Tensor:
    t = torch.ones(3)
    t.label = "weights"
    return t


OTHERS: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "conjugated": lambda: torch.tensor([1 + 2j]).conj(),
    "negated": lambda: torch.tensor([1 + 2j]).conj().imag,
    "meta": lambda: torch.ones(3, device="meta"),
    "attribute": with_attribute,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_tensors_are_sent_by_torch(registered: None, kind: str) -> None:
    t = OTHERS[kind]()
    again = through(t)
    assert (again.layout, again.dtype, again.device, again.is_conj(), again.is_neg(), again.__dict__) == (
        t.layout,
        t.dtype,
        t.device,
        t.is_conj(),
        t.is_neg(),
        t.__dict__,
    )
    assert t.is_meta or again.to_dense().tolist() == t.to_dense().tolist()


@pytest.mark.skipif(simulated_gpu.why_not() is not None, reason=str(simulated_gpu.why_not()))
def test_gpu_tensors_are_staged(cluster: None) -> None:
    dlbridge.ray.register(device="cpu")
    values = np.arange(BIG, dtype=np.float32)
    with simulated_gpu.simulated_gpu() as gpu:
        before = gpu.counts()["memcpy_async"]
        again = through(dlbridge.to_torch(gpu.array(values, late=True)))
        assert gpu.counts()["memcpy_async"] - before == 1
    assert again.device.type == "cpu" and is_shared(again)
    assert raw(again) == values.tobytes()
    ray.util.deregister_serializer(torch.Tensor)


def test_tensors_stay_with_their_actor_until_they_are_read(cluster: None) -> None:
    pytest.importorskip("ray.experimental.rdt.util", reason="this Ray has no tensor transports")
    dlbridge.ray.register_transport()

    @ray.remote(enable_tensor_transport=True)
    class Actor:
        @ray.method(tensor_transport="dlbridge")
        def make(self) -> dict[str, torch.Tensor]:
            self.made = torch.arange(BIG)
            return {"a": self.made, "b": torch.ones(3).bfloat16()}

        def read(self, x: dict[str, torch.Tensor]) -> tuple[bool, int, float]:
            return not dlbridge.to_numpy(x["a"]).flags.writeable, int(x["a"].sum()), float(x["b"].sum())

        def held(self) -> int:
            from ray.experimental.rdt.util import get_tensor_transport_manager

            return len(get_tensor_transport_manager("DLBRIDGE").tensors)

    maker, reader = Actor.remote(), Actor.remote()
    made = maker.make.remote()
    assert ray.get(reader.read.remote(made)) == (True, BIG * (BIG - 1) // 2, 3)
    assert ray.get(made)["a"].sum() == BIG * (BIG - 1) // 2
    assert ray.get(maker.held.remote()) == 1
    del made
    simulated_gpu.eventually(lambda: ray.get(maker.held.remote()) == 0)


def test_example(capsys: pytest.CaptureFixture[str]) -> None:
    """In processes of their own: four readers of 32 MiB have less of their own than one copy."""
    out = run_isolated(f"import runpy; runpy.run_path({str(EXAMPLE)!r})['main'](32)")
    own = [int(line.split()[-2]) for line in out.splitlines() if line.startswith("dlbridge: 32 MiB")]
    assert len(own) == 3 and max(own) < 32
