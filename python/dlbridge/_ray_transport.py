# SPDX-License-Identifier: Apache-2.0
"""Ray's direct transport of tensors by dlbridge: they stay with the actor that made them until a reader asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.experimental.rdt.tensor_transport_manager import (
    CommunicatorMetadata,
    TensorTransportManager,
    TensorTransportMetadata,
)
from ray.experimental.rdt.util import get_tensor_transport_manager, register_tensor_transport

from .ray import _is_dense, _rebuild, _reduce

NAME = "DLBRIDGE"


@dataclass
class Metadata(TensorTransportMetadata):  # type: ignore[misc]
    """What a reader needs to ask for the tensors."""

    actor: Any = None


class Transport(TensorTransportManager):  # type: ignore[misc]
    """One-sided: the reader calls the actor that has the tensors, which answers through the object store."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[torch.Tensor]] = {}

    @property
    def tensor_transport_backend(self) -> str:
        return NAME

    @staticmethod
    def is_one_sided() -> bool:
        return True

    @staticmethod
    def can_abort_transport() -> bool:
        return True

    def actor_has_tensor_transport(self, actor: Any) -> bool:
        return True

    def extract_tensor_transport_metadata(self, obj_id: str, rdt_object: list[torch.Tensor]) -> Metadata:
        for t in rdt_object:
            if not _is_dense(t):
                raise ValueError(f"found a {t.layout} tensor on {t.device}, expected dense tensors on the CPU or a GPU")
        self.tensors[obj_id] = rdt_object
        return Metadata(
            tensor_meta=[(t.shape, t.dtype) for t in rdt_object],
            tensor_device=rdt_object[0].device.type if rdt_object else None,
            actor=ray.get_runtime_context().current_actor,
        )

    def get_communicator_metadata(self, src_actor: Any, dst_actor: Any, backend: str | None = None) -> Any:
        return CommunicatorMetadata()

    def recv_multiple_tensors(
        self,
        obj_id: str,
        tensor_transport_metadata: Metadata,
        communicator_metadata: Any,
        target_buffers: list[torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        call = tensor_transport_metadata.actor.__ray_call__.options(concurrency_group="_ray_system")
        received = [_rebuild(reduced) for reduced in ray.get(call.remote(_reduced, obj_id))]
        if not target_buffers:
            return received
        for target, t in zip(target_buffers, received, strict=True):
            target.copy_(t)
        return target_buffers

    def send_multiple_tensors(self, tensors: Any, tensor_transport_metadata: Any, communicator_metadata: Any) -> None:
        raise NotImplementedError("readers fetch: nothing is sent")

    def garbage_collect(self, obj_id: str, tensor_transport_meta: Any, tensors: Any) -> None:
        self.tensors.pop(obj_id, None)

    def abort_transport(self, obj_id: str, communicator_metadata: Any) -> None:
        """Nothing waits: a reader whose call fails has its exception."""


def _reduced(_: Any, obj_id: str) -> list[Any]:
    """Called in the actor that has the tensors."""
    return [_reduce(t, "copy", None) for t in get_tensor_transport_manager(NAME).tensors[obj_id]]


def register() -> None:
    register_tensor_transport(NAME, ["cpu", "cuda"], Transport, torch.Tensor)
