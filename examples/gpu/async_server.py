# SPDX-License-Identifier: Apache-2.0
"""A server that computes on a GPU for many clients at once, in one thread.

    python examples/gpu/async_server.py [--requests 64] [--port 0]

A request is a line "ROWS COLUMNS" and so many float32 numbers; the answer has the same form. An array is copied to
the GPU, computed with, and copied back; each `await` lets the other requests run, and nothing polls. The program is its
own client: it sends all requests at once and checks every answer.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np

import dlbridge

HOST = "127.0.0.1"  # the name "localhost" need not resolve
# Takes a dlbridge.Tensor on the GPU, returns an array of a framework on the GPU; does not wait.
Compute = Callable[[Any], Any]


async def on_gpu(matrix: np.ndarray, compute: Compute, device: str = "cuda:0") -> np.ndarray:
    """The result of `compute` for a matrix. The event loop runs meanwhile."""
    there = await dlbridge.stage(matrix, device=device, to="dlpack")
    return await dlbridge.stage(compute(there), device="cpu")


async def receive(reader: asyncio.StreamReader) -> np.ndarray | None:
    """One matrix; None if the other side has closed."""
    head = await reader.readline()
    if not head:
        return None
    rows, columns = (int(number) for number in head.split())
    content = await reader.readexactly(4 * rows * columns)
    return np.frombuffer(content, np.float32).reshape(rows, columns)


async def send(writer: asyncio.StreamWriter, matrix: np.ndarray) -> None:
    """One matrix. The transport copies what it cannot send at once, so a pinned result may be dropped after this."""
    writer.write(b"%d %d\n" % matrix.shape)
    writer.write(np.ascontiguousarray(matrix).tobytes())
    await writer.drain()


async def serve(compute: Compute, port: int = 0) -> asyncio.Server:
    """Answers on this machine until it is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (matrix := await receive(reader)) is not None:
                await send(writer, await on_gpu(matrix, compute))
        finally:
            writer.close()

    return await asyncio.start_server(answer, HOST, port, limit=1 << 20)


async def ask(port: int, matrix: np.ndarray) -> np.ndarray:
    """The server's answer for a matrix."""
    reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 20)
    await send(writer, matrix)
    answer = await receive(reader)
    writer.close()
    assert answer is not None, "the server has closed the connection"
    return answer


async def run(compute: Compute, expected: Callable[[np.ndarray], np.ndarray], requests: int, port: int = 0) -> int:
    """Serves, sends all requests at once, and compares. Returns the number of right answers."""
    server = await serve(compute, port)
    draw = np.random.default_rng(1)
    matrices = [draw.random((8 + number, 8 + number), np.float32) for number in range(requests)]
    async with server:
        port = server.sockets[0].getsockname()[1]
        answers = await asyncio.gather(*(ask(port, matrix) for matrix in matrices))
    return sum(
        np.allclose(answer, expected(matrix), rtol=1e-3) for matrix, answer in zip(matrices, answers, strict=True)
    )


def torch_compute(tensor: Any) -> Any:
    """The matrix times its transpose, by torch. Nothing else depends on the framework."""
    import torch

    x = torch.from_dlpack(tensor)
    return x @ x.T


def main() -> int:
    """Serves its own requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    options = parser.parse_args()
    if (reason := machine.reason()) is not None:
        print(reason)
        return 0
    begin = time.perf_counter()
    right = asyncio.run(run(torch_compute, lambda matrix: matrix @ matrix.T, options.requests, options.port))
    print(f"{right} of {options.requests} answers were right, after {time.perf_counter() - begin:.2f} s")
    return 0 if right == options.requests else 1


if __name__ == "__main__":
    sys.exit(main())
