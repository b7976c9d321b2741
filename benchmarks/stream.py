"""Speed of the stream, as ratios: reader against WebDataset, loader against a bare loop, late against early steps.

    python benchmarks/stream.py FRAMES [FRAMES …] --objects OBJECTS > result.md

FRAMES and OBJECTS are shard folders (`mgcda shards write`). Everything is measured from the page cache; each number is
the best of several turns that alternate between the things compared, so that a busy moment hits both.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Literal

import cv2
import numpy as np
import torch
import webdataset
from PIL import Image
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as decode_with_torchvision
from webdataset.compat import WebDataset

from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.decode import decode_ids, decode_image, decode_pair
from mgcda_dist.data.labels import lookup_table
from mgcda_dist.data.loader import make_loader
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.plan import Plan, SlotRef, StreamPlan
from mgcda_dist.data.reader import EncodedSample, ShardReader
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.stream import FrameSource, TrainingStream
from mgcda_dist.method.randomness import numpy_generator

CROP_PX = (256, 256)
TURNS = 7


def main() -> None:
    """Measure and print a markdown page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, nargs="+")
    parser.add_argument("--objects", type=Path)
    parser.add_argument("--class-space", default="idd7")
    parser.add_argument("--steps", type=int, default=40, help="steps of 16 images per turn")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    manifests = [Manifest.open(folder) for folder in options.frames]
    objects = Manifest.open(options.objects) if options.objects else None

    print(f"# The stream, measured on {date.today():%d %B %Y}\n")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, OpenCV {cv2.__version__}, "
    versions += f"NumPy {np.__version__}, webdataset {webdataset.__version__}"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {versions}. Page cache, one thread per process, best of {TURNS}"
    )
    print(
        "turns. Times are processor time, but for the left half of the table of loading, which is wall time and whose"
    )
    print("ratios are medians over the turns.\n")
    for manifest in manifests:
        kilobytes = manifest.num_bytes / manifest.num_samples / 1000
        print(f"- {manifest.dataset} {manifest.split}: {manifest.num_samples} samples, {kilobytes:.0f} kB each")

    table(
        "Reading without decoding, samples/s",
        "shards",
        "WebDataset",
        "reader, shard order",
        "reader, plan order",
        "ratio",
    )
    for manifest in manifests:
        print(reading(manifest))
    table("Decoders, ms per file", "files", "OpenCV", "Pillow", "torchvision", "ours: OpenCV and checks")
    for manifest in manifests:
        print(decoding(manifest, "images"))
        print(decoding(manifest, "labels"))
    wall, cpu = ("bare loop", "loader", "ratio"), ("bare loop, per processor second", "loader", "ratio")
    table("Decoding, pasting, augmenting: 256×256 crops, images/s", "processes", *wall, *cpu)
    for processes in (1, 2):
        print(loading(build_stream(manifests, objects, options.class_space, options.steps), processes))
    table("Resuming, and size", "what", "early", "late", "ratio")
    print(resuming(lambda start: build_stream(manifests, objects, options.class_space, 1, start)))
    print(planning(build_stream(manifests, objects, options.class_space, 1).plan))
    print(f"\n{size()}")


def table(title: str, *columns: str) -> None:
    """Heading and head of a table."""
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def build_stream(
    manifests: Sequence[Manifest], objects: Manifest | None, class_space: str, steps: int, start_step: int = 0
) -> TrainingStream:
    """16 images a step, shared by the streams; objects go onto the first one."""
    paste = None if objects is None else PasteSource(ObjectLibrary(ShardReader(objects)), PasteParams())
    sources = [
        FrameSource(
            m.folder.as_posix(),
            ShardReader(m),
            lookup_table(m.label_format, class_space),
            paste=paste if i == 0 else None,
        )
        for i, m in enumerate(manifests)
    ]
    per_step = 16 // len(manifests)
    streams = [StreamPlan(source.name, m.shard_sizes, per_step) for source, m in zip(sources, manifests, strict=True)]
    transform = Transform(CROP_PX, AugmentParams(reference_height_px=360))
    return TrainingStream(Plan(streams, 0, 8), sources, transform, start_step=start_step, num_steps=steps)


def best(**contestants: Callable[[], int]) -> dict[str, float]:
    """Items per second of processor time, which other work on the machine does not stretch, of each contestant."""
    rates = dict.fromkeys(contestants, 0.0)
    for _ in range(TURNS):
        for name, run in contestants.items():
            start = time.process_time()
            items = run()
            rates[name] = max(rates[name], items / (time.process_time() - start))
    return rates


def reading(manifest: Manifest) -> str:
    """All samples, still encoded: image and label bytes in memory."""
    urls = [str(manifest.shard_path(shard)) for shard in range(manifest.num_shards)]
    reader = ShardReader(manifest)
    plan = Plan([StreamPlan("d", manifest.shard_sizes, manifest.num_samples)], 0, 8)
    rates = best(
        theirs=lambda: sum(1 for _ in WebDataset(urls, shardshuffle=False, empty_check=False)),
        ours=lambda: sum(1 for index in range(len(reader)) if reader.read(index).image),
        planned=lambda: sum(1 for ref in plan.step(3) if reader.read(ref.sample).image),
    )
    cells = " | ".join(f"{rates[name]:,.0f}" for name in ("theirs", "ours", "planned"))
    return f"| {manifest.dataset} {manifest.split} | {cells} | {rates['planned'] / rates['theirs']:.1f} |"


def decoding(manifest: Manifest, what: Literal["images", "labels"]) -> str:
    """Milliseconds per file and decoder."""
    reader, lut = ShardReader(manifest), np.arange(256, dtype=np.uint8)
    samples = [reader.read(index) for index in range(min(100, len(reader)))]
    if what == "images":
        files = [sample.image for sample in samples]
        flags, mode, tv_mode = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, "RGB", ImageReadMode.RGB
    else:
        files = [sample.label for sample in samples if sample.label is not None]
        flags, mode, tv_mode = cv2.IMREAD_UNCHANGED, None, ImageReadMode.UNCHANGED
    rates = best(
        opencv=lambda: len([cv2.imdecode(np.frombuffer(data, np.uint8), flags) for data in files]),
        pillow=lambda: len([np.asarray(Image.open(io.BytesIO(data)).convert(mode)) for data in files]),
        torchvision=lambda: len([decode_with_torchvision(as_tensor(data), tv_mode).numpy() for data in files]),
        ours=lambda: len([decode_image(d, "") if what == "images" else cv2.LUT(decode_ids(d, ""), lut) for d in files]),
    )
    cells = " | ".join(f"{1000 / rates[name]:.2f}" for name in ("opencv", "pillow", "torchvision", "ours"))
    return f"| {manifest.dataset} {what} | {cells} |"


def as_tensor(data: bytes) -> torch.Tensor:
    """Bytes as torchvision takes them."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def loading(stream: TrainingStream, processes: int) -> str:
    """A row of `loading_turns`: the rates are the best of all turns, the ratio is the median of the turns' ratios."""
    turns = loading_turns(stream, processes, range(TURNS))
    cells: list[str] = []
    for clock in (0, 1):
        best_rates = [max(turn[name][clock] for turn in turns) for name in ("bare", "loader")]
        ratio = median(turn["loader"][clock] / turn["bare"][clock] for turn in turns)
        cells += [*(f"{rate:,.0f}" for rate in best_rates), f"{ratio:.2f}"]
    return f"| {processes} | {' | '.join(cells)} |"


def loading_turns(
    stream: TrainingStream, processes: int, numbers: Iterable[int]
) -> list[dict[str, tuple[float, float]]]:
    """The whole way to batches in the consumer, against processes that decode and augment bytes they hold already.

    By wall time, from each one's first batches to its last, and by processor time of all child processes, with their
    start and end, which other work on the machine stretches less. Both run in every turn, one after the other.

    Returns:
        Per turn, images per second of either clock, of `bare` and of `loader`.
    """
    work = [[(step, ref) for ref in stream.plan.step(step)] for step in range(stream.num_steps)]
    images = sum(len(refs) for refs in work)
    held = {(ref.stream, ref.sample): _shards(stream, ref).read(ref.sample) for refs in work for _, ref in refs}
    results = get_context("fork").SimpleQueue()

    def bare(steps: list[list[tuple[int, SlotRef]]]) -> None:
        start = time.perf_counter()
        for number, refs in enumerate(steps):
            if number == 1:
                start = time.perf_counter()
            for step, ref in refs:
                crop(stream, held[ref.stream, ref.sample], step, ref)
        results.put(sum(len(refs) for refs in steps[1:]) / (time.perf_counter() - start))

    def bare_rate() -> float:
        children = [get_context("fork").Process(target=bare, args=(work[i::processes],)) for i in range(processes)]
        for child in children:
            child.start()
        rates = [results.get() for _ in children]
        for child in children:
            child.join()
        return sum(rates)

    def loader_rate() -> float:
        seen, start, end = 0, 0.0, 0.0
        for number, batch in enumerate(make_loader(stream, workers=processes, prefetch_steps=2)):
            end = time.perf_counter()
            if number < 3 * processes:  # what was prepared before anybody asked
                start = end
            else:
                seen += len(batch.keys)
        return seen / (end - start)

    def both(run: Callable[[], float]) -> tuple[float, float]:
        before = children_s()
        rate = run()
        return rate, images / (children_s() - before)

    turns: list[dict[str, tuple[float, float]]] = []
    for turn in numbers:
        order = [("bare", bare_rate), ("loader", loader_rate)]
        turns.append({name: both(run) for name, run in (order if turn % 2 else reversed(order))})
    return turns


def children_s() -> float:
    """Processor time of all child processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def crop(stream: TrainingStream, sample: EncodedSample, step: int, ref: SlotRef) -> None:
    """The work of every training loop for one image."""
    source = stream.sources[ref.stream]
    image, ids = decode_pair(sample.image, sample.label or b"", sample.where)
    label = source.lut[ids]
    stream.transform(image, label, numpy_generator(stream.plan.seed, "augment", step, ref.slot), source.paste)


def resuming(build: Callable[[int], TrainingStream]) -> str:
    """From nothing to the bytes of the first batch, mean of 24 steps; decoding costs what the pictures cost."""

    def first_batches(start_step: int) -> int:
        for step in range(start_step, start_step + 24):
            stream = build(step)
            for ref in stream.plan.step(step):
                _shards(stream, ref).read(ref.sample)
        return 24

    rates = best(early=lambda: first_batches(0), late=lambda: first_batches(10**6))
    early_ms, late_ms = 1000 / rates["early"], 1000 / rates["late"]
    cells = f"{early_ms:.2f} | {late_ms:.2f} | {late_ms / early_ms:.2f}"
    return f"| build the stream, read the first batch, at step 0 / 10⁶, ms | {cells} |"


def planning(plan: Plan) -> str:
    """Microseconds for the slots of one step."""
    rates = best(
        early=lambda: len([plan.step(t) for t in range(300)]),
        late=lambda: len([plan.step(10**9 + t) for t in range(300)]),
    )
    early_us, late_us = (1e6 / rates[name] for name in ("early", "late"))
    return f"| plan of one step at t = 0 / 10⁹, µs | {early_us:.0f} | {late_us:.0f} | {late_us / early_us:.2f} |"


def size() -> str:
    """A huge plan."""
    tracemalloc.start()
    start = time.perf_counter()
    Plan([StreamPlan("huge", np.full(10**6, 1000, np.uint32), 16)], 0, 8).step(10**9)
    took, peak_mb = time.perf_counter() - start, tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return f"10⁹ samples in 10⁶ shards: opened, and step 10⁹ known, in {took:.2f} s with {peak_mb:.0f} MB."


def _shards(stream: TrainingStream, ref: SlotRef) -> ShardReader:
    reader = stream.sources[ref.stream].reader
    assert isinstance(reader, ShardReader)
    return reader


if __name__ == "__main__":
    main()
