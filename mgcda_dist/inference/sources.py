"""What `mgcda predict` is given: images, folders and videos, each with the name that its results carry.

A name is the path below the folder that was given, without the suffix: the same inputs have the same names, whatever
was predicted before. Where two would be equal, those keep their suffix (`a.jpg`, `a.png`: `a_jpg`, `a_png`); where
several inputs are given at once, folders put their own name in front.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.data.decode import decode_image
from mgcda_dist.data.pixels import as_pixels
from mgcda_dist.errors import ConfigError, SampleError

__all__ = ["IMAGE_SUFFIXES", "RECORD", "VIDEO_SUFFIXES", "Source", "Video", "find_sources", "read_image"]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
RECORD = "predictions.json"
"""The file that tells a folder of results: such folders are never read as inputs."""

_USUAL_FPS = 25.0


@dataclass(frozen=True)
class Source:
    """One image or video.

    Attributes:
        path: the file.
        name: of its results, with `/`; its own among all that were found.
        is_video: whether it has frames.
    """

    path: Path
    name: str
    is_video: bool


def find_sources(inputs: Sequence[Path], out: Path) -> list[Source]:
    """All images and videos, folders searched to their bottom, in order; files that are given twice count once.

    Args:
        inputs: files and folders.
        out: the folder of the results, which is left out where it lies in a folder of inputs.

    Raises:
        ConfigError: an input that does not exist, or is the folder of results; a folder without images and videos.
    """
    folders = [path for path in inputs if path.is_dir()]
    prefixes = _prefixes(folders) if len(inputs) > 1 else dict.fromkeys(folders, "")
    found: dict[str, Source] = {}
    for given in inputs:
        if not given.exists():
            raise ConfigError(str(given), "does not exist", "give images, folders of images, or videos")
        if os.path.realpath(given) == os.path.realpath(out):
            raise ConfigError("--out", f"{out} is an input, too", "give results a folder of their own")
        files = list(_below(given, out)) if given.is_dir() else [given]
        if not files:
            known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise ConfigError(str(given), "holds no image and no video", f"they are known by their suffix: {known}")
        for path in files:
            relative = path.relative_to(given) if given.is_dir() else Path(path.name)
            name = (Path(prefixes.get(given, "")) / relative).with_suffix("").as_posix()
            source = Source(path, name, path.suffix.lower() in VIDEO_SUFFIXES)
            found.setdefault(os.path.realpath(path), source)
    return _unique(list(found.values()))


def _prefixes(folders: Sequence[Path]) -> dict[Path, str]:
    """The names of folders, numbered where two are called the same."""
    seen: Counter[str] = Counter()
    prefixes: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        name = folder.resolve().name
        seen[name.casefold()] += 1
        number = seen[name.casefold()]
        prefixes[folder] = name if number == 1 else f"{name}-{number}"
    return prefixes


def _below(folder: Path, out: Path) -> Iterator[Path]:
    """Images and videos, sorted within each folder; without hidden ones, and without results of earlier predictions."""
    visited: set[str] = set()
    own = os.path.realpath(out)
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in visited or here == own or RECORD in files:
            folders.clear()
            continue
        visited.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)) and not name.startswith("."):
                yield Path(place, name)


def _unique(sources: list[Source]) -> list[Source]:
    """Names that differ also where a file system does not tell upper from lower case."""
    taken = Counter(source.name.casefold() for source in sources)
    sources = [
        replace(source, name=source.name + source.path.suffix.replace(".", "_"))
        if taken[source.name.casefold()] > 1
        else source
        for source in sources
    ]
    seen: Counter[str] = Counter()
    for index, source in enumerate(sources):
        seen[source.name.casefold()] += 1
        number = seen[source.name.casefold()]
        if number > 1:  # files of one name that were given one by one
            sources[index] = replace(source, name=f"{source.name}-{number}")
    return sources


def read_image(path: Path) -> NDArray[np.uint8]:
    """An image as H×W×3 RGB, uint8, turned as its EXIF mark says; alpha is dropped, 16 bits become 8.

    Raises:
        SampleError: the file cannot be read, is damaged, or is no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SampleError(str(path), f"cannot be read: {error.strerror}", "check the file and its rights") from None
    try:
        return decode_image(data, str(path), upright=True)
    except SampleError as error:
        raise SampleError(str(path), error.problem, "is the file whole?") from None


class Video:
    """The frames of a video, one at a time.

    Args:
        path: the file; what FFmpeg reads.
        every: of so many frames, the first.

    Attributes:
        fps: frames per second of the file; 25 where it does not say.
        announced: frames that the file says it has, all of them; 0 where it does not say.
        read: frames read so far, all of them.

    Raises:
        SampleError: it cannot be opened, or its first frame cannot be read.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.every, self.read = path, every, 0
        with _silent():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        fps, announced = (float(self._capture.get(key)) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _USUAL_FPS
        self.announced = int(announced) if math.isfinite(announced) and announced > 0 else 0
        if not self._capture.isOpened():
            raise SampleError(str(path), "the video cannot be opened", "is it a video, and whole?")

    @property
    def num_frames(self) -> int:
        """Frames that will be given, as far as the file tells; 0: it does not."""
        return -(-self.announced // self.every)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Number in the file, and H×W×3 RGB, uint8.

        Raises:
            SampleError: no frame at all.
        """
        try:
            while self._capture.grab():
                if self.read % self.every == 0:
                    ok, pixels = self._capture.retrieve()
                    if not ok:
                        break
                    yield self.read, as_pixels(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
                self.read += 1
        finally:
            self._capture.release()
        if not self.read:
            raise SampleError(str(self.path), "no frame of the video can be read", "is it a video, and whole?")

    def close(self) -> None:
        """Let go of the file, if its frames were not read to the end."""
        self._capture.release()


class _silent:
    """OpenCV writes about files it cannot open to standard error; our error says it once."""

    def __enter__(self) -> None:
        logging: Any = cv2.utils.logging
        self._level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        logging: Any = cv2.utils.logging
        logging.setLogLevel(self._level)
