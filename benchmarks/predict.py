"""Peak memory and time of `mgcda predict` on large frames, whole and through a sliding window, each in its own process.

    python benchmarks/predict.py > benchmarks/results/predict.md

The network is EfficientNet-Lite0 with the default decoder and random weights: memory and time do not depend on what it
has learnt. Frames are generated; each command writes overlays, float16 maps and JSON, and runs for 2 and for 6 frames,
so that what grows with their number would show.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.tables import Cell, Column, Table, markdown

WINDOW = "512x1024"
FRAMES = {(1024, 2048): (2, 6), (2048, 4096): (1,)}
PROGRAM = """
import sys
from mgcda_dist.cli.main import app
try:
    app(sys.argv[1:])
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def write_model(folder: Path) -> None:
    """A model with random weights."""
    domains = [{"name": "a", "shards": "shards/a", "per_step": 2}]
    config = Config.model_validate(
        {
            "name": "benchmark",
            "data": {"class_space": "cityscapes19", "crop_px": (256, 256), "streams": domains},
            "model": {"backbone": "tf_efficientnet_lite0", "weights": "none"},
            "mdat": {"enabled": False},
            "optim": {"steps": 1},
        }
    )
    build.save_model(config, build.segmenter(config), folder)


def write_frames(folder: Path, size: tuple[int, int], count: int) -> None:
    """Smooth random pictures as JPEG."""
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 256, (size[0] // 64, size[1] // 64, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{number:03d}.jpg"), cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))


def measured(*words: str | Path) -> tuple[float, float]:
    """Seconds and peak MiB of one `mgcda` command in a process of its own."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert found is not None
    return time.perf_counter() - begin, int(found[1]) / 1024


def main() -> None:
    """Measure and print the page."""
    print(f"# Memory and time of `mgcda predict`, measured on {date.today():%d %B %Y}\n")
    print("    python benchmarks/predict.py\n")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, no GPU, load {os.getloadavg()[0]:.1f} at the start; Python "
        f"{platform.python_version()}, PyTorch {torch.__version__}, OpenCV {version('opencv-python-headless')}.\n"
        "EfficientNet-Lite0, 19 classes, frames at their own size; overlays, float16 maps and JSON are written.\n"
        "Seconds are of the whole process, its start included.\n"
    )
    rows: list[list[Cell]] = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_model(root / "model")
        for size, counts in FRAMES.items():
            for count in counts:
                frames = root / f"{size[0]}-{count}"
                write_frames(frames, size, count)
                for window in ("", WINDOW):
                    out = root / f"out-{size[0]}-{count}-{window}"
                    options = ["--window", window] if window else []
                    words = ["predict", root / "model", frames, "-o", out, "-w", "overlay,npy", "--threshold=-1"]
                    seconds, peak = measured(*words, *options)
                    rows.append([f"{size[1]}×{size[0]}", count, window or "whole", f"{peak:,.0f}", f"{seconds:.0f}"])
    columns = [Column("frame", align="left"), Column("frames"), Column("window", align="left")]
    print(markdown(Table([*columns, Column("peak MiB"), Column("s")], rows)))


if __name__ == "__main__":
    main()
