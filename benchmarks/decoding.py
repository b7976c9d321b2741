"""Price of formats for frames of 2048×1024: size, difference, decoding, and images a second that a core prepares.

    python benchmarks/decoding.py FRAMES --objects OBJECTS > result.md

FRAMES is a folder of labelled shards without loss; four of its frames make one of 2048×1024. Times are processor time
of one process, best of several turns that alternate between the things compared: compare within a table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mgcda_dist.data.augment import AugmentParams, Transform
from mgcda_dist.data.decode import decode_ids, decode_image, decode_pair
from mgcda_dist.data.labels import lookup_table
from mgcda_dist.data.paste import ObjectLibrary, PasteParams, PasteSource
from mgcda_dist.data.pixels import Pixels, resized, resized_label
from mgcda_dist.data.plan import Plan, StreamPlan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.encode import EncodeOptions
from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.data.stream import FrameSource, TrainingStream

FRAME_PX, CROP_PX = (1024, 2048), (512, 1024)
FRAMES, TURNS, STEPS = 8, 5, 4
QUALITIES = (85, 92, 95, 98)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--objects", type=Path, required=True)
    options = parser.parse_args()
    cv2.setNumThreads(0)
    manifest, objects = Manifest.open(options.frames), Manifest.open(options.objects)
    pairs = frames(ShardReader(manifest))
    print(images([image for image, _ in pairs]))
    print(labels([ids for _, ids in pairs]))
    print(rates(pairs, manifest.label_format, objects))


def frames(reader: ShardReader) -> list[tuple[Pixels, Pixels]]:
    """Frames of 2048×1024 with their ids, each of four of the reader's."""
    height, width = FRAME_PX[0] // 2, FRAME_PX[1] // 2
    made: list[tuple[Pixels, Pixels]] = []
    for number in range(FRAMES):
        samples = [reader.read((4 * number + part) % len(reader)) for part in range(4)]
        pairs = [decode_pair(sample.image, sample.label or b"", sample.where) for sample in samples]
        parts = [(resized(image, height, width), resized_label(ids, height, width)) for image, ids in pairs]
        image, ids = (np.vstack([np.hstack(of[:2]), np.hstack(of[2:])]) for of in zip(*parts, strict=True))
        made.append((image, ids))
    return made


def encoded(arrays: Sequence[Pixels], suffix: str, *parameters: int) -> list[bytes]:
    """Files of OpenCV."""
    swapped = [array if array.ndim == 2 else array[..., ::-1] for array in arrays]
    return [cv2.imencode(suffix, array, list(parameters))[1].tobytes() for array in swapped]


def milliseconds(**runs: Callable[[], object]) -> dict[str, float]:
    """Processor time per frame of each run over all frames."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(TURNS):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], (time.process_time() - start) * 1000 / FRAMES)
    return best


def images(pixels: Sequence[Pixels]) -> str:
    """Formats of the images; decoded whole, and by JPEG's own reduction to half size."""
    files = {"PNG": encoded(pixels, ".png", cv2.IMWRITE_PNG_COMPRESSION, 6)}
    files |= {f"JPEG {q}": encoded(pixels, ".jpg", cv2.IMWRITE_JPEG_QUALITY, q) for q in QUALITIES}
    files["WebP 92"] = encoded(pixels, ".webp", cv2.IMWRITE_WEBP_QUALITY, 92)
    times = milliseconds(**{name: lambda f=f: [decode_image(data, "") for data in f] for name, f in files.items()})
    halves = milliseconds(**{name: lambda f=f: [_half(data) for data in f] for name, f in files.items()})
    rows = [
        "| images | kB | decoding, ms | of PNG | mean difference from PNG, levels | at half size "
        "| reduced decoding, ms | mean difference of reduced from resized, levels | largest |\n|---|" + "---:|" * 8
    ]
    for name, made in files.items():
        whole = [decode_image(data, "") for data in made]
        small = [resized(image, FRAME_PX[0] // 2, FRAME_PX[1] // 2) for image in whole]
        exact = [resized(image, FRAME_PX[0] // 2, FRAME_PX[1] // 2) for image in pixels]
        reduced = [_half(data) for data in made]
        cells = [name, f"{np.mean([len(data) for data in made]) / 1000:.0f}", f"{times[name]:.1f}"]
        cells += [
            f"{times[name] / times['PNG']:.2f}",
            f"{_apart(whole, pixels)[0]:.2f}",
            f"{_apart(small, exact)[0]:.2f}",
        ]
        mean, largest = _apart(reduced, small)
        cells += [f"{halves[name]:.1f}", f"{mean:.2f}", f"{largest:.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _half(data: bytes) -> Pixels:
    flags = cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None
    return np.asarray(pixels[..., ::-1], np.uint8)


def _apart(first: Sequence[Pixels], second: Sequence[Pixels]) -> tuple[float, float]:
    apart = [cv2.absdiff(a, b) for a, b in zip(first, second, strict=True)]
    return float(np.mean([each.mean() for each in apart])), float(max(each.max() for each in apart))


def labels(ids: Sequence[Pixels]) -> str:
    """PNG of labels: how far it is packed, and filtered; the first row is what most tools write."""
    kinds: dict[str, tuple[int, ...]] = {"level 6, adaptive filter": (cv2.IMWRITE_PNG_COMPRESSION, 6)}
    for level, (name, chosen) in product(
        (1, 3, 6, 9), (("no filter", cv2.IMWRITE_PNG_FILTER_NONE), ("filter up", cv2.IMWRITE_PNG_FILTER_UP))
    ):
        kinds[f"level {level}, {name}"] = (cv2.IMWRITE_PNG_COMPRESSION, level, cv2.IMWRITE_PNG_FILTER, chosen)
    files = {name: encoded(ids, ".png", *kind) for name, kind in kinds.items()}
    times = milliseconds(**{name: lambda f=f: [decode_ids(data, "") for data in f] for name, f in files.items()})
    makes = milliseconds(**{name: lambda k=kind: encoded(ids, ".png", *k) for name, kind in kinds.items()})
    first = times["level 6, adaptive filter"]
    rows = ["| labels, PNG of 8-bit grey | kB | encoding, ms | decoding, ms | of the first |\n|---|" + "---:|" * 4]
    for name, made in files.items():
        assert all(np.array_equal(decode_ids(data, ""), own) for data, own in zip(made, ids, strict=True))
        size = f"{np.mean([len(data) for data in made]) / 1000:.1f}"
        rows.append(f"| {name} | {size} | {makes[name]:.1f} | {times[name]:.2f} | {times[name] / first:.2f} |")
    return "\n".join(rows) + "\n"


def rates(pairs: Sequence[tuple[Pixels, Pixels]], label_format: str, objects: Manifest) -> str:
    """Crops of 1024×512 as `paper.yaml` makes them, whole micro-batches of four, in one process."""
    files = zip(*(encoded(of, ".png", cv2.IMWRITE_PNG_COMPRESSION, 6) for of in zip(*pairs, strict=True)), strict=True)
    samples = [SourceSample(f"s{i}", image, "png", label) for i, (image, label) in enumerate(files)]
    ways = {
        "PNG": EncodeOptions(),
        "PNG, fast labels": EncodeOptions(fast_labels=True),
        "JPEG 95": EncodeOptions(image_format="jpg", quality=95),
        "JPEG 95, fast labels": EncodeOptions(image_format="jpg", quality=95, fast_labels=True),
        "JPEG 95 of half the height": EncodeOptions(512, "jpg", 95, fast_labels=True),
    }
    with tempfile.TemporaryDirectory() as folder:
        streams: dict[str, TrainingStream] = {}
        for i, (name, options) in enumerate(ways.items()):
            described: dict[str, Any] = {"dataset": "mosaic", "split": "train", "label_format": label_format}
            written = write_shards(samples, Path(folder, str(i)), **described, options=options)
            paste = PasteSource(ObjectLibrary(ShardReader(objects)), PasteParams(probability=0.67))
            source = FrameSource("s", ShardReader(written), lookup_table(label_format, "cityscapes19"), paste=paste)
            plan = Plan([StreamPlan("s", written.shard_sizes, 4)], 0, 8)
            transform = Transform(CROP_PX, AugmentParams(scale=(0.5, 2.0), reference_height_px=1024))
            streams[name] = TrainingStream(plan, [source], transform, num_steps=STEPS)
        best = dict.fromkeys(streams, np.inf)
        for _ in range(TURNS):
            for name, stream in streams.items():
                start = time.process_time()
                for step in range(STEPS):
                    stream[step]
                best[name] = min(best[name], (time.process_time() - start) / STEPS / 4)
    wanted = (25, 50, 100, 200)
    rows = [
        "| shards | ms per image | images/s per core | of PNG | "
        + " | ".join(f"cores for {n}/s" for n in wanted)
        + " |"
    ]
    rows.append("|---|" + "---:|" * (3 + len(wanted)))
    for name, seconds in best.items():
        cells = [name, f"{seconds * 1000:.1f}", f"{1 / seconds:.1f}", f"{best['PNG'] / seconds:.2f}"]
        rows.append(f"| {' | '.join(cells + [f'{n * seconds:.1f}' for n in wanted])} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
