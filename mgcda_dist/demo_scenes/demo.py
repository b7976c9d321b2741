"""Generated scenes as source samples, and the complete set of shards that `configs/demo.yaml` trains and tests on."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import ShardKind
from mgcda_dist.data.shards.manifest import MANIFEST, Manifest
from mgcda_dist.data.shards.record import SourceSample
from mgcda_dist.data.shards.write import write_shards
from mgcda_dist.demo_scenes.appearance import render
from mgcda_dist.demo_scenes.domains import domain_named
from mgcda_dist.demo_scenes.objects import FamilySet, draw_object, pick_family
from mgcda_dist.demo_scenes.scene import scene
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.randomness import numpy_generator, stream_key
from mgcda_dist.processors import usable_processors

__all__ = ["Part", "demo_size", "samples", "write_demo_shards"]

Split = Literal["train", "val", "test"]
JPEG_QUALITY = 92
GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other pictures."""


@dataclass(frozen=True)
class Part:
    """One shard folder of the demo.

    Attributes:
        dataset: a name of `domains.DOMAINS`, or `objects`.
        split: names the stream of scenes, which no other split or domain has; of objects: their family set.
        kind: frames, or cut-out objects (RGBA PNG).
        anomalies: put one to three objects of the split's own families on every road (label 254).
        labelled: False: no labels, as for frames without annotation.
    """

    dataset: str
    split: Split
    count: int
    kind: ShardKind = "frames"
    anomalies: bool = False
    labelled: bool = True


def samples(part: Part, seed: int = 0, image_px: tuple[int, int] = (256, 512)) -> Iterator[SourceSample]:
    """The samples of a part; sample i is the same for every count.

    Args:
        image_px: height, width of frames; both even.

    Raises:
        ConfigError: no such domain, or an impossible size.
    """
    if part.kind == "frames":
        domain_named(part.dataset)
    _check_size(image_px)
    return (_sample(part, seed, image_px, index) for index in range(part.count))


def _check_size(image_px: tuple[int, int]) -> None:
    height, width = image_px
    if height < 32 or width < 32 or height % 2 or width % 2:
        raise ConfigError("image_px", f"{height}×{width} px cannot be drawn", "use even numbers from 32 on")


def _demo_parts(frames_per_domain: int, label_all: bool = False, only: ShardKind | None = None) -> list[Part]:
    few = max(2, frames_per_domain // 4)
    parts = [
        Part("render_a", "train", frames_per_domain),
        Part("render_b", "train", frames_per_domain),
        Part("real_day", "train", frames_per_domain, labelled=label_all),
        Part("real_day", "val", few),
        Part("real_day", "test", few, anomalies=True),
        Part("objects", "train", max(8, frames_per_domain), "objects"),
        Part("objects", "val", max(8, frames_per_domain // 2), "objects"),
    ]
    return [part for part in parts if only in (None, part.kind)]


def demo_size(frames_per_domain: int = 200, *, only: ShardKind | None = None) -> int:
    """Samples that `write_demo_shards` writes in all."""
    return sum(part.count for part in _demo_parts(frames_per_domain, only=only))


def write_demo_shards(
    folder: Path,
    *,
    frames_per_domain: int = 200,
    label_all: bool = False,
    only: ShardKind | None = None,
    seed: int = 0,
    image_px: tuple[int, int] = (256, 512),
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes folder/{render_a,render_b}/train, folder/real_day/{train,val,test} and folder/objects/{train,val}.

    Labelled renderers; `real_day/train` without labels; `real_day/test` with families of objects that no other folder
    holds; `real_day/val` without anomalies, for pasting `objects/val`. Folders that are there already, from the same
    arguments, are left alone.

    Args:
        label_all: write the labels of real_day/train, too: a third renderer, for training that is tested elsewhere.
        only: the folders of this kind alone.
        progress: called with the number of samples finished since the last call; the total is `demo_size`.
        workers: processes that draw; None: one per processor. 1: none, everything is drawn here.
        overwrite: replace folders that were made from other arguments.

    Returns:
        The shard folders.

    Raises:
        ConfigError: an impossible size. ShardError: a folder is there already from other arguments.
    """
    _check_size(image_px)
    paths: list[Path] = []
    with _drawing(workers) as draw:
        for part in _demo_parts(frames_per_domain, label_all, only):
            path = Path(folder) / part.dataset / part.split
            provenance = {**asdict(part), "seed": seed, "image_px": list(image_px), "generator": GENERATOR_VERSION}
            paths.append(path)
            if _is_there(path, provenance):
                if progress:
                    progress(part.count)
                continue
            write_shards(
                draw(part, seed, image_px), path, dataset=part.dataset, split=part.split, label_format="road8",
                kind=part.kind, samples_per_shard=64, provenance=provenance, progress=progress, workers=1,
                overwrite=overwrite,
            )  # fmt: skip
    return paths


def _is_there(path: Path, provenance: dict[str, object]) -> bool:
    return (path / MANIFEST).exists() and Manifest.open(path).provenance == provenance


@contextmanager
def _drawing(workers: int | None) -> Iterator[Callable[[Part, int, tuple[int, int]], Iterable[SourceSample]]]:
    """A function that draws the samples of a part, in order, with `workers` processes."""
    workers = usable_processors() if workers is None else workers
    if workers <= 1:
        yield samples
        return
    # Spawned, not forked: the caller may run threads (a progress bar, torch) that a fork would copy half.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    try:
        yield lambda part, seed, image_px: pool.map(
            _sample, *zip(*((part, seed, image_px, i) for i in range(part.count)), strict=True), chunksize=4
        )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    cv2.setNumThreads(1)


def _sample(part: Part, seed: int, image_px: tuple[int, int], index: int) -> SourceSample:
    if part.kind == "objects":
        return _object(part.split, seed, index)
    return _frame(part, seed, image_px, index)


def _frame(part: Part, seed: int, image_px: tuple[int, int], index: int) -> SourceSample:
    stream = stream_key(seed, "synthetic", part.dataset, part.split)
    drawn = scene(stream, index, image_px, anomalies=part.split if part.anomalies else None)
    image = render(drawn, part.dataset, stream, index)
    meta: dict[str, str | int | float] = {"setting": drawn.setting}
    if part.anomalies:
        meta["anomalies"] = " ".join(anomaly.family for anomaly in drawn.anomalies)
    return SourceSample(
        key=f"{part.dataset}-{part.split}-{index:06d}",
        image=_encode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]),
        image_ext="jpg",
        label=_encode(".png", drawn.label, [cv2.IMWRITE_PNG_COMPRESSION, 6]) if part.labelled else None,
        meta=meta,
    )


def _object(family_set: FamilySet, seed: int, index: int) -> SourceSample:
    rng = numpy_generator(seed, "synthetic object", family_set, index)
    picture = draw_object(pick_family(family_set, rng), rng)
    code = picture.rgba[..., [2, 1, 0, 3]]
    return SourceSample(
        key=f"{picture.family}-{family_set}-{index:06d}",
        image=_encode(".png", code, [cv2.IMWRITE_PNG_COMPRESSION, 6]),
        image_ext="png",
        meta={"category": picture.family, "height_m": round(picture.height_m, 3)},
    )


def _encode(extension: str, image: NDArray[np.uint8], options: list[int]) -> bytes:
    _, code = cv2.imencode(extension, np.ascontiguousarray(image), options)
    return code.tobytes()
