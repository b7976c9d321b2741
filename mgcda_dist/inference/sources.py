"""Inputs of a prediction: images and videos, found in files and folders, each with a unique name for its results.

A name is the path below the given folder, without the suffix, so the same inputs always have the same names. Names
that would be equal keep their suffix (`a.jpg`, `a.png`: `a_jpg`, `a_png`), as do those whose results would lie where
the summary does, or a video whose frames' results would lie where an image's do; with several inputs, names of files in
folders start with the folder's name.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mgcda_dist.choices import Exif
from mgcda_dist.data.decode import decode_image
from mgcda_dist.data.header import BROKEN
from mgcda_dist.data.listing import IMAGE_SUFFIXES, LITTER
from mgcda_dist.data.pixels import as_pixels
from mgcda_dist.errors import ConfigError, MgcdaError, SampleError
from mgcda_dist.text import printable
from mgcda_dist.trust import MEMBER_BYTES, read_bytes, regular

__all__ = ["RECORD", "VIDEO_SUFFIXES", "Source", "Video", "find_sources", "read_image"]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
RECORD = "predictions.json"
"""File that marks a folder of results; such folders are never read as inputs."""

_DEFAULT_FPS = 25.0
_FRAME = re.compile(r"(.+)/[0-9]{6,}")
"""Names of the results of a video's frames; their folder is the video's name."""
_SUMMARY = RECORD.removesuffix(".json").casefold()
"""Name whose record would be the summary."""
_NAME_BYTES = 180
"""Of a part of a name; the endings of results, and of their temporary files, come on top, and 255 is the most."""
_CONTAINER = re.compile(
    rb"RIFF....AVI |\x1aE\xdf\xa3|....(ftyp|moov|mdat|free|skip|wide|pnot)|\0\0\x01[\xb0-\xbf]|\x47", re.DOTALL
)
"""First bytes of AVI, Matroska and WebM, MP4 and QuickTime, MPEG program and transport streams."""


@dataclass(frozen=True)
class Source:
    """One image or video.

    Attributes:
        name: of its results, with `/`; unique among all sources.
    """

    path: Path
    name: str
    is_video: bool


def find_sources(inputs: Sequence[Path], out: Path, passed_over: Counter[str] | None = None) -> list[Source]:
    """All images and videos in order, with subfolders; a file that is given twice is listed once.

    Args:
        inputs: files and folders.
        out: folder of the results, which is skipped if it is within a folder of inputs.
        passed_over: counts, by suffix in small letters, the files of folders that are neither images nor videos.

    Raises:
        ConfigError: an input that does not exist, or is the folder of results; a folder without images and videos.
    """
    folders = [path for path in inputs if path.is_dir()]
    prefixes = _prefixes(folders) if len(inputs) > 1 else dict.fromkeys(folders, "")
    found: dict[str, Source] = {}
    passed = Counter[str]() if passed_over is None else passed_over
    for given in inputs:
        if not given.exists():
            raise ConfigError(str(given), "does not exist", "give images, folders of images, or videos")
        if os.path.realpath(given) == os.path.realpath(out):
            raise ConfigError(str(out), "is an input and the folder of results", "give another folder for the results")
        files = list(_below(given, out, passed)) if given.is_dir() else [given]
        if not files:
            known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
            raise ConfigError(str(given), "holds no image and no video", f"suffixes are {known}")
        for path in files:
            relative = path.relative_to(given) if given.is_dir() else Path(path.name)
            name = (Path(prefixes.get(given, "")) / relative).with_suffix("").as_posix()
            source = Source(path, name, path.suffix.lower() in VIDEO_SUFFIXES)
            found.setdefault(os.path.realpath(path), source)
    return _unique(list(found.values()))


def _prefixes(folders: Sequence[Path]) -> dict[Path, str]:
    """Unique names of folders: equal ones are numbered."""
    seen: Counter[str] = Counter()
    prefixes: dict[Path, str] = {}
    for folder in dict.fromkeys(folders):
        name = folder.resolve().name
        seen[name.casefold()] += 1
        number = seen[name.casefold()]
        prefixes[folder] = name if number == 1 else f"{name}-{number}"
    return prefixes


def _below(folder: Path, out: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """Images and videos, sorted within each folder; without hidden files and results of earlier predictions."""
    visited: set[str] = set()
    results = os.path.realpath(out)
    for current, folders, files in os.walk(folder, followlinks=True):
        resolved = os.path.realpath(current)
        if resolved in visited or resolved == results or RECORD in files:
            folders.clear()
            continue
        visited.add(resolved)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.startswith(".") or name in LITTER:
                continue
            if name.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
                yield Path(current, name)
            else:
                passed_over[Path(name).suffix.lower()] += 1


def _unique(sources: list[Source]) -> list[Source]:
    """The sources with names whose results meet no others, also on file systems that ignore case."""
    taken = Counter(source.name.casefold() for source in sources)
    images = [source.name.casefold() for source in sources if not source.is_video]
    framed = {found[1] for name in images if (found := _FRAME.fullmatch(name))}

    def meets(source: Source) -> bool:
        name = source.name.casefold()
        return name == _SUMMARY or (source.is_video and name in framed)

    sources = [
        replace(source, name=source.name + source.path.suffix.replace(".", "_"))
        if taken[source.name.casefold()] > 1 or meets(source)
        else source
        for source in sources
    ]
    used, numbers = set[str](), Counter[str]()
    for index, source in enumerate(sources):
        stem = source.name
        while source.name.casefold() in used or meets(source):  # files of equal name, given separately
            numbers[stem.casefold()] += 1
            source = replace(source, name=f"{stem}-{numbers[stem.casefold()] + 1}")
        used.add(source.name.casefold())
        sources[index] = source
    return [replace(source, name="/".join(map(_storable, source.name.split("/")))) for source in sources]


def _storable(part: str) -> str:
    """A part of a name that every file of the results can bear; the digest keeps shortened names apart."""
    clean = printable(part)
    if clean == part and len(part.encode()) <= _NAME_BYTES:
        return part
    digest = hashlib.sha256(os.fsencode(part)).hexdigest()[:8]
    return f"{clean.encode()[: _NAME_BYTES - 9].decode('utf-8', 'ignore')}-{digest}"


def read_image(path: Path, exif: Exif = "upright") -> NDArray[np.uint8]:
    """An image as H×W×3 RGB, uint8, as `decode_image` gives it.

    Raises:
        SampleError: the file cannot be read, is damaged, or is no image.
    """
    try:
        data = read_bytes(path, MEMBER_BYTES)
    except OSError as error:
        raise SampleError(str(path), f"cannot be read: {error.strerror}", "check the file and its rights") from None
    except MgcdaError as error:
        raise SampleError(error.where, error.problem, error.remedy) from None
    try:
        return decode_image(data, str(path), exif)
    except SampleError as error:
        remedy = "check that the file is complete" if error.remedy == BROKEN else error.remedy
        raise SampleError(str(path), error.problem, remedy) from None


class Video:
    """The frames of a video, one at a time.

    Args:
        path: a file that FFmpeg can read.
        every: every so many frames one is returned.

    Attributes:
        fps: frames per second of the file; 25 if unknown.
        announced: number of frames by the file's header, before `every`; 0: unknown.
        read: number of frames read so far, before `every`.

    Raises:
        SampleError: it cannot be opened, or its first frame cannot be read.
    """

    def __init__(self, path: Path, every: int = 1) -> None:
        self.path, self.every, self.read = path, every, 0
        if not _is_container(path):
            raise SampleError(str(path), "is no AVI, Matroska, MP4 or MPEG file", "check that it is a video")
        with _silent():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        fps, announced = (float(self._capture.get(key)) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _DEFAULT_FPS
        self.announced = int(announced) if math.isfinite(announced) and announced > 0 else 0
        if not self._capture.isOpened():
            raise SampleError(str(path), "the video cannot be opened", "check that it is a video, and complete")

    @property
    def num_frames(self) -> int:
        """Number of frames that will be returned, by the file's header; 0: unknown."""
        return -(-self.announced // self.every)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Index of the frame in the file, and the frame, H×W×3 RGB, uint8.

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
            problem = "no frame of the video can be read"
            raise SampleError(str(self.path), problem, "check that it is a video, and complete")

    def close(self) -> None:
        """Close the file, if its frames were not read to the end."""
        self._capture.release()


def _is_container(path: Path) -> bool:
    """True for a file that holds a video: to FFmpeg a text may be a playlist, which names other files."""
    try:
        with regular(path).open("rb") as file:
            return _CONTAINER.match(file.read(16)) is not None
    except (OSError, MgcdaError):
        return False


class _silent:
    """Silences OpenCV's log of files that it cannot open, within the block; `SampleError` reports them."""

    def __enter__(self) -> None:
        logging: Any = cv2.utils.logging
        self._level = logging.getLogLevel()
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)

    def __exit__(self, *_: object) -> None:
        logging: Any = cv2.utils.logging
        logging.setLogLevel(self._level)
