# SPDX-License-Identifier: Apache-2.0
"""What the engine's pictures look like from Python. Run it where gpu_engine was built, or pass that folder.

python examples/cpp/gpu_engine/demo.py FOLDER
"""

import sys

import numpy as np

import dlbridge

sys.path[:0] = sys.argv[1:]
import gpu_engine  # noqa: E402


def main() -> int:
    """Draws, looks, and draws on while a picture is on its way."""
    try:
        engine = gpu_engine.Engine(1080, 1920)
    except dlbridge.ExchangeError as error:
        print(f"No usable GPU, so there is nothing to draw on: {error}")
        return 0
    engine.draw(7)
    seen = dlbridge.to_numpy(engine.picture(), device="cpu")
    print(f"a picture of {seen.shape}, {seen.dtype}: {np.unique(seen).tolist()}")

    frames = []
    for value in range(10, 20):
        engine.draw(value)
        frames.append(engine.frame())  # does not wait: the next picture is drawn behind the copy
    arrays = [frame.pixels().numpy() for frame in frames]
    drawn = [int(array[0, 0]) for array in arrays]
    print(f"ten frames, each as it was when it was asked for: {drawn}")
    return 0 if drawn == list(range(10, 20)) and np.unique(seen).tolist() == [7, 248] else 1


if __name__ == "__main__":
    sys.exit(main())
