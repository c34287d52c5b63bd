# SPDX-License-Identifier: Apache-2.0
"""A training loop that logs tensors of the GPU without waiting for the GPU.

    python examples/gpu/training_log.py [--steps 200] [--out out/training.npz]

`loss.item()` and `.cpu()` wait for the GPU in every step, so the GPU idles. Here every step passes its tensors to
dlbridge.stage_many(), which enqueues the copies and returns. The results are read some steps later. What the next step
writes into the same tensors does not change the copies.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import machine
import numpy as np

import dlbridge

# Arrays on a GPU by name, as one step of a training computes them.
Step = Callable[[int], dict[str, Any]]


class TrainingLog:
    """Collects arrays of every step. Owns: the copies in flight, at most `window` steps of them.

    `stream` is the one that the steps compute on; torch needs none.
    """

    def __init__(self, window: int = 8, stream: Any = None) -> None:
        self.kept: dict[str, list[np.ndarray]] = {}
        self.longest_pause = 0.0  # seconds that a call of keep() took
        self._window = window
        self._stream = stream
        self._coming: deque[dlbridge.Future] = deque()

    def keep(self, arrays: dict[str, Any]) -> None:
        """Starts the copies of one step, in one operation. Does not wait, unless the GPU is `window` steps behind."""
        begin = time.perf_counter()
        self._coming.append(dlbridge.stage_many(arrays, device="cpu", stream=self._stream))
        self.longest_pause = max(self.longest_pause, time.perf_counter() - begin)
        while self._coming and (self._coming[0].done() or len(self._coming) > self._window):
            self._take()

    def finish(self) -> dict[str, np.ndarray]:
        """Waits for the rest; every array with one more dimension, the steps."""
        while self._coming:
            self._take()
        return {name: np.stack(arrays) for name, arrays in self.kept.items()}

    def _take(self) -> None:
        for name, array in self._coming.popleft().result().items():
            self.kept.setdefault(name, []).append(array.copy())  # frees the pinned memory


def train(steps: Iterable[int], step: Step, log: TrainingLog) -> dict[str, np.ndarray]:
    """Runs the steps and logs what they compute."""
    for number in steps:
        log.keep(step(number))
    return log.finish()


def torch_training(width: int = 512) -> Step:
    """A small regression on the GPU, by torch. All that depends on the framework."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    teacher = torch.randn(64, 1, device="cuda")

    def step(_: int) -> dict[str, Any]:
        x = torch.randn(256, 64, device="cuda")
        loss = torch.nn.functional.mse_loss(model(x), torch.tanh(x @ teacher))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach(), "gradient": model[0].bias.grad, "weights": model[2].weight.detach()}

    return step


def main() -> int:
    """Trains and writes the log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("out/training.npz"))
    options = parser.parse_args()
    if (reason := machine.reason()) is not None:
        print(reason)
        return 0
    log = TrainingLog()
    step = torch_training()
    begin = time.perf_counter()
    kept = train(range(options.steps), step, log)
    seconds = time.perf_counter() - begin
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(options.out, **kept)
    loss = kept["loss"]
    print(f"{options.steps} steps in {seconds:.2f} s; the loss went from {loss[0]:.4f} to {loss[-1]:.4f}")
    print(
        f"the longest pause for logging took {log.longest_pause * 1e6:.0f} us; pinned memory: {dlbridge.pool_stats()}"
    )
    print(f"written: {options.out}, {', '.join(f'{name} {array.shape}' for name, array in kept.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
