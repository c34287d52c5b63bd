# SPDX-License-Identifier: Apache-2.0
"""examples/gpu on the simulated GPU, and without any."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu
from simulated_provider import Taken

import dlbridge
from dlbridge.testing import driver

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "gpu"
sys.path.insert(0, str(EXAMPLES))

import async_server  # noqa: E402
import training_log  # noqa: E402
import video_pipeline  # noqa: E402


class TestTrainingLog:
    def test_steps_are_kept(self, gpu: SimulatedGpu):
        """One weight and one loss, which every step overwrites."""
        weights = gpu.array(np.zeros(1000, np.float32))
        loss = gpu.array(np.zeros((), np.float32))

        def step(number: int) -> dict[str, Any]:
            gpu.write(weights, np.full(1000, number, np.float32))
            gpu.write(loss, np.full((), -number, np.float32))
            return {"weights": weights, "loss": loss}

        log = training_log.TrainingLog(window=3, stream=1)
        kept = training_log.train(range(20), step, log)
        assert kept["weights"].shape == (20, 1000)
        assert np.array_equal(kept["weights"][:, 7], np.arange(20))
        assert np.array_equal(kept["loss"], -np.arange(20))

    def test_logging_does_not_wait(self, gpu: SimulatedGpu):
        stream = gpu.stream()
        held = gpu.hold(stream)
        x = gpu.array(np.ones(100_000, np.float32), stream=stream, late=True)
        log = training_log.TrainingLog(window=8)
        for _ in range(5):
            log.keep({"x": x})
        assert "x" not in log.kept
        held.release()
        assert log.finish()["x"].shape == (5, 100_000)

    def test_pinned_memory_is_bounded(self, gpu: SimulatedGpu):
        x = gpu.array(np.ones(1 << 18, np.float32))
        log = training_log.TrainingLog(window=2)
        for _ in range(30):
            log.keep({"x": x})
        assert dlbridge.pool_stats().owned <= 5 << 20
        assert len(log.finish()["x"]) == 30


class TestAsyncServer:
    @staticmethod
    def compute(gpu: SimulatedGpu):
        """A framework whose only function doubles: it takes the tensor, and makes an array of its own."""

        def double(tensor: Any) -> Any:
            taken = Taken(tensor.__dlpack__(stream=1, max_version=(1, 0)))
            return gpu.array(2 * gpu.read(taken), late=True)

        return double

    def test_clients_get_answers(self, gpu: SimulatedGpu):
        right = asyncio.run(async_server.run(self.compute(gpu), lambda matrix: 2 * matrix, 12))
        assert right == 12

    def test_wrong_answers_are_seen(self, gpu: SimulatedGpu):
        right = asyncio.run(async_server.run(self.compute(gpu), lambda matrix: 3 * matrix, 4))
        assert right == 0

    def test_requests_are_independent(self, gpu: SimulatedGpu):
        async def main() -> None:
            slow = gpu.stream()
            held = gpu.hold(slow)
            late = gpu.array(np.ones((3, 3), np.float32), stream=slow, late=True)
            waiting = asyncio.create_task(async_server.on_gpu(np.ones((3, 3), np.float32), lambda _: late))
            for number in range(5):
                matrix = np.full((4, 4), number, np.float32)
                echo = async_server.on_gpu(matrix, lambda tensor: tensor)
                assert np.array_equal(await asyncio.wait_for(echo, 10), matrix)
            assert not waiting.done()
            held.release()
            assert np.array_equal(await asyncio.wait_for(waiting, 10), np.ones((3, 3)))

        asyncio.run(main())


class TestVideoPipeline:
    SHAPE = (24, 32, 3)

    def gpu_of(self, gpu: SimulatedGpu) -> video_pipeline.Gpu:
        """A framework that inverts frames, on a stream of its own."""
        stream = gpu.stream()
        empty = np.zeros(self.SHAPE, np.uint8)
        inputs = [dlbridge.stage(empty, device="cuda:0", stream=stream, to="dlpack").result() for _ in range(2)]

        def run(frame: Any) -> Any:
            return gpu.array(255 - gpu.read(frame, stream), stream=stream, late=True)

        return video_pipeline.Gpu(stream, inputs, run)

    @pytest.mark.parametrize("frames", [0, 1, 2, 3, 17])
    def test_frames_keep_their_order(self, gpu: SimulatedGpu, frames: int):
        camera = video_pipeline.camera(frames, self.SHAPE)
        seen = [frame.copy() for frame in video_pipeline.filtered(camera, self.gpu_of(gpu), self.SHAPE)]
        assert len(seen) == frames
        for got, frame in zip(seen, video_pipeline.camera(frames, self.SHAPE), strict=True):
            assert np.array_equal(got, 255 - frame)

    def test_frames_reuse_memory(self, gpu: SimulatedGpu):
        camera = video_pipeline.camera(20, self.SHAPE)
        places = {
            frame.__array_interface__["data"][0]
            for frame in video_pipeline.filtered(camera, self.gpu_of(gpu), self.SHAPE)
        }
        assert len(places) == video_pipeline.BUFFERS


@pytest.mark.skipif(driver.why_not() is None, reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["training_log", "async_server", "video_pipeline"])
def test_examples_without_gpu(name: str):
    done = subprocess.run([sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"No usable GPU, so there is nothing to show: .*(CUDA|driver)", done.stdout), done.stdout
