# SPDX-License-Identifier: Apache-2.0
"""Takes a photograph through NumPy and torch, and runs the usual conversions beside their dlbridge calls.

Run it from anywhere, with dlbridge, torch, Pillow and scikit-image (for the photograph) installed:

    python examples/photo.py [--photo FILE] [--out out/photo.png]

The photograph goes file -> NumPy -> torch -> blur and edges -> NumPy -> PNG, and through a GPU if there is one.
Everything that is printed was measured in this run. Each claim is checked; a false one makes the run fail.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

import conversions
import numpy as np
import skimage
import through_gpu
import torch
from observe import ROUNDS, Report, Trace, busy_cpus
from PIL import Image
from torch.nn.functional import conv2d, pad

import dlbridge
from dlbridge import to_numpy, to_torch

ROOT = Path(__file__).resolve().parent.parent
PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"
GAP = 12


def blur(planes: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of each channel, first down, then across."""
    radius = round(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    channels = planes.shape[0]
    planes = pad(planes, (radius,) * 4, mode="replicate")
    planes = conv2d(planes, kernel.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
    return conv2d(planes, kernel.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)


def edges(planes: torch.Tensor) -> torch.Tensor:
    """Strength of the edges, 0 to 1: Sobel's gradient of the brightness."""
    brightness = pad(blur(planes, 1.0).mean(dim=0, keepdim=True), (1,) * 4, mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    gradient = conv2d(brightness, torch.stack([across, across.T])[:, None])
    return (gradient.norm(dim=0, keepdim=True) / 160).clamp_(max=1)


def develop(photo_file: Path, report: Report) -> np.ndarray:
    """Takes the photograph through both frameworks; returns the page with the original and the drawing."""
    trace = Trace(report)
    photo = np.array(Image.open(photo_file).convert("RGB"))
    trace.hop("np.array(Image.open(file))", photo, why="decoded from the file")

    pixels = to_torch(photo)
    trace.hop("to_torch(photo)", pixels, over=photo, own="torch.from_numpy(photo)", photo=photo)
    planes = pixels.permute(2, 0, 1)
    trace.hop("pixels.permute(2, 0, 1)", planes, over=photo, why="a channels-first view")

    light = to_torch(planes, dtype="float32")
    trace.hop(
        'to_torch(planes, dtype="float32")',
        light,
        why="dtype= names a cast",
        own="planes.to(torch.float32)",
        planes=planes,
    )
    wash = blur(light, 2.5)
    trace.hop("blur(light, 2.5)", wash, why="torch computed new values")
    lines = edges(light)
    trace.hop("edges(light)", lines, why="torch computed new values")
    drawing = wash.mul_(1 - lines)
    trace.hop("wash.mul_(1 - lines)", drawing, over=wash, why="in place")

    return print_page(trace, photo, drawing)


def print_page(trace: Trace, photo: np.ndarray, drawing: torch.Tensor) -> np.ndarray:
    """torch writes the drawing into a NumPy array, beside the photograph."""
    height, width, channels = photo.shape
    page = np.full((height, 2 * width + GAP, channels), 255, np.uint8)
    page[:, :width] = photo
    trace.hop("np.full(...); page[:, :w] = photo", page, why="NumPy's page, the photo on its left")

    frame = page[:, width + GAP :]
    canvas = to_torch(frame)
    trace.hop(
        "to_torch(frame)",
        canvas,
        over=page,
        why="its right half, not contiguous",
        own="torch.from_numpy(frame)",
        frame=frame,
    )
    canvas.copy_(drawing.permute(1, 2, 0).round_())
    trace.hop("canvas.copy_(drawing)", canvas, over=page, why="torch writes into NumPy's page")

    printed = to_numpy(canvas)
    trace.hop("to_numpy(canvas)", printed, over=page, own="canvas.numpy()", canvas=canvas)
    claim = trace.report.claim
    claim("the page holds what torch drew", np.array_equal(page[:, width + GAP :], printed))
    claim("the photograph is as it was", np.array_equal(page[:, :width], photo))
    claim("the drawing is not the photograph", not np.array_equal(printed, photo))
    return page


def introduce(photo_file: Path) -> None:
    """Prints versions and the machine."""
    info = dlbridge.build_info()
    versions = f"dlbridge {info['version']}, NumPy {info['numpy']}, torch {info['torch']} (tier: {info['torch_tier']})"
    print(f"{versions}, Python {platform.python_version()}, {os.cpu_count()} CPUs")
    if torch.cuda.is_available():
        print(f"GPU: {torch.cuda.get_device_name()}; the photograph is staged there and back.")
    else:
        print("GPU: none on this machine (torch.cuda.is_available() is False); all below is host memory.")
    print(f"Photograph: {photo_file}")
    print(f"Times: measured on this machine now, medians of {ROUNDS} interleaved rounds, functions bound beforehand;")
    print("a step that is no conversion was run and timed once. '1.5 x' took 1.5 times as long as dlbridge's call.")
    print("Strides count elements.", end=" ")
    busy = busy_cpus()
    if busy < 0.3:
        print(f"torch computes with {torch.get_num_threads()} threads.")
    else:
        torch.set_num_threads(1)
        print(f"Other processes keep {busy:.1f} CPUs busy, so torch computes with one thread.")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=PHOTO, help="an image file (default: scikit-image's coffee.png)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "photo.png", help="where the PNG goes")
    return parser.parse_args()


def main() -> int:
    """Runs the demo; 0 if every claim held."""
    arguments = parse_arguments()
    report = Report()
    introduce(arguments.photo)

    report.heading("A photograph's way, hop by hop")
    page = develop(arguments.photo, report)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(page).save(arguments.out)
    with Image.open(arguments.out) as saved:
        report.claim("the PNG holds the page", np.array_equal(np.asarray(saved), page))
    print(f"   written: {arguments.out}, {arguments.out.stat().st_size:,} bytes, original and result side by side")

    report.heading("The same photograph through a GPU")
    through_gpu.show(report, np.array(Image.open(arguments.photo).convert("RGB")))

    report.heading("The usual conversions, beside dlbridge's")
    conversions.show_all(report, Image.open(arguments.photo).convert("RGB"))

    print(f"\n{report.held + len(report.broken)} claims checked in this run, {len(report.broken)} false")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
