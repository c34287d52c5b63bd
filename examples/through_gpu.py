# SPDX-License-Identifier: Apache-2.0
"""Copies the photograph to a GPU and back, if there is one, and compares the bytes."""

import numpy as np
from observe import Report, duration, race

import dlbridge

DEVICE = "cuda:0"


def why_not() -> str | None:
    """Why nothing can be staged here; None if it can."""
    try:
        dlbridge.pool_stats()
    except dlbridge.ExchangeError as error:
        return str(error)
    return None


def stage_there_and_back(report: Report, photo: np.ndarray) -> np.ndarray:
    """Copies the photograph to the GPU and back. Every claim is checked."""
    there = dlbridge.explain(photo, "dlpack", device=DEVICE)
    print(f" 1 from_dlpack(photo, device={DEVICE!r}): {', '.join(there.path)}; {there.bytes:,} bytes")
    on_gpu = dlbridge.from_dlpack(photo, device=DEVICE)
    report.claim("the handle is on the GPU", on_gpu.device == DEVICE)
    report.claim("explain counts the bytes of the staging", there.verdict == "stage" and there.bytes == photo.nbytes)

    back = dlbridge.explain(on_gpu, "numpy", device="cpu")
    print(f' 2 to_numpy(on_gpu, device="cpu"): {", ".join(back.path)}')
    returned = dlbridge.to_numpy(on_gpu, device="cpu")
    report.claim("the photograph came back byte for byte", np.array_equal(returned, photo))
    report.claim("in new memory", not dlbridge.shares_memory(returned, photo))

    refused = dlbridge.explain(on_gpu, "numpy")
    report.claim("without device= it is refused", refused.reasons == ["device_not_named"])
    report.say(f"to_numpy(on_gpu) without device=: {refused.message}", 3)

    future = dlbridge.stage(on_gpu, device="cpu")
    report.claim("a Future returns the same", np.array_equal(future.result(), photo))
    return returned


def time_beside_torch(photo: np.ndarray) -> None:
    """Times both directions beside torch's own calls."""
    import torch

    names = vars(dlbridge) | {"torch": torch, "photo": photo, "t": dlbridge.to_torch(photo, device=DEVICE)}
    calls = [
        ('to_numpy(t, device="cpu")', "t.cpu().numpy()"),
        (f'to_torch(photo, device="{DEVICE}")', f'torch.from_numpy(photo).to("{DEVICE}")'),
    ]
    for ours, own in calls:
        seconds = race([ours, own], names)
        print(f"   {ours}: {duration(seconds[0])}; {own}: {duration(seconds[1])}")


def show(report: Report, photo: np.ndarray) -> None:
    """Runs it, or says why not."""
    reason = why_not()
    if reason is not None:
        print(f"   Nothing is staged in this run: {reason}.")
        return
    stage_there_and_back(report, photo)
    import torch

    if torch.cuda.is_available():
        time_beside_torch(photo)
