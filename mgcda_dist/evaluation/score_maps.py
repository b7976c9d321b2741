"""Score maps of another method, read from files: a folder with one file per frame, or one archive of all of them.

`.npy`, `.npz`, `.h5` / `.hdf5` (one array, or several that are each named as a frame), `.tif` / `.tiff`, `.png` (8 or
16 bits, grey). `map_names.py` says which map belongs to which frame.
A `.png` of `mgcda predict` holds the ends of its range, and is read as the scores it was written from.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ImageFileDirectory_v2

from mgcda_dist.data.listing import files_below
from mgcda_dist.data.pixels import MAX_PIXELS
from mgcda_dist.data.shards.keys import original_name
from mgcda_dist.errors import ConfigError, MgcdaError, install_extra
from mgcda_dist.evaluation.map_names import match_names
from mgcda_dist.trust import regular, unpacked

__all__ = ["HIGH_KEY", "LOW_KEY", "SUFFIXES", "MapFile", "ScoreMaps", "h5py_module"]

LOW_KEY, HIGH_KEY = "mgcda score low", "mgcda score high"
"""Text in a 16-bit PNG: the scores that 0 and 65535 stand for."""

_PICTURES = (".tif", ".tiff", ".png")
_ARCHIVES = (".npz", ".h5", ".hdf5")
SUFFIXES = (".npy", *_ARCHIVES, *_PICTURES)
_NO_MAPS = ("_segmentation", ".overlay")
"""Ends of names of other files beside maps: predicted classes (Fishyscapes), pictures of `mgcda predict`."""


_OBLONG = 1.1
"""Ratio of the sides from which a map is wide or high: a coarse one may be a cell off."""
_BOUND = "a score map has the size of its frame; is it one?"


@dataclass(frozen=True)
class MapFile:
    """The place of a map: a file, and the array in it if it holds several."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.member}" if self.member else str(self.path)


class ScoreMaps:
    """The maps below a folder, or in an archive.

    Args:
        resize: bring maps of another size than their label's to it, bilinearly; else they are refused.

    Raises:
        ConfigError: no such folder, no map in it, or two maps of one name.
    """

    def __init__(self, root: Path, *, resize: bool = False) -> None:
        self.root, self.resize = root, resize
        self._maps = _listed(root)
        self._used: set[MapFile] = set()

    def choose(self, name: str, keys: Sequence[str]) -> dict[str, MapFile]:
        """The map of every frame of a set, by key.

        Args:
            name: of the set. If the folder has a subfolder of this name, only that one is searched.

        Raises:
            ConfigError: frames without a map, or names that fit several.
        """
        below = {key.removeprefix(f"{name}/"): file for key, file in self._maps.items() if key.startswith(f"{name}/")}
        maps = below or self._maps
        frames = {_last(original_name(key)) for key in keys}
        names = [each for each in maps if not each.endswith(_NO_MAPS) or _last(each) in frames]
        matched, unclear = match_names(keys, names)
        missing = [key for key in keys if key not in matched]
        if missing:
            problem = f"{len(missing)} of the {len(keys)} frames of {name} have no map, first {missing[0]!r}"
            problem += f": {unclear[missing[0]]}" if missing[0] in unclear else ""
            remedy = f"name a map by the frame's whole key; the first ones here are {', '.join(names[:3])}"
            raise ConfigError(str(self.root), problem, remedy)
        found = {key: maps[each] for key, each in matched.items()}
        self._used |= set(found.values())
        return found

    def refuse_unused(self) -> None:
        """Refuse maps that belong to no frame of the sets chosen.

        Raises:
            ConfigError: with how many there are, and the first.
        """
        maps = {name: file for name, file in self._maps.items() if not name.endswith(_NO_MAPS)}
        extra = [str(file) for file in maps.values() if file not in self._used]
        if extra:
            raise ConfigError(
                str(self.root),
                f"{len(extra)} of {len(maps)} maps belong to no frame, first {extra[0]}",
                "are these the maps of another set or split? else `ignore_extra_maps` leaves them out",
            )

    def read(self, file: MapFile, shape: tuple[int, int]) -> NDArray[np.floating[Any]]:
        """A map for a label of H×W: float32, or float64 if it is stored so.

        Raises:
            MgcdaError: a file that cannot be read, is not one number per pixel, or has another size than the label, or,
                where it is resized, lies on its side.
        """
        values = _two_dimensional(_read(file), file)
        if values.shape == shape:
            return values
        if not self.resize:
            raise MgcdaError(
                str(file),
                f"the map is {values.shape[1]}×{values.shape[0]}, the label {shape[1]}×{shape[0]} pixels",
                "write maps at the label's size, or choose `resize_maps`",
            )
        if _lies_on_its_side(values.shape, shape):
            raise MgcdaError(
                str(file),
                f"lies on its side: it is {values.shape[1]}×{values.shape[0]}, the label {shape[1]}×{shape[0]} pixels",
                "transpose it: an array is height × width",
            )
        return np.asarray(cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), values.dtype)

    def digest(self) -> str:
        """SHA-256 (hex) over the names and bytes of the maps that were chosen, in order of their names."""
        total, known = hashlib.sha256(), dict[Path, str]()
        for file in sorted(self._used, key=str):
            if file.path not in known:
                with file.path.open("rb") as opened:
                    known[file.path] = hashlib.file_digest(opened, "sha256").hexdigest()
            place = file.path.relative_to(self.root).as_posix() if self.root.is_dir() else file.path.name
            total.update(f"{place}\0{file.member}\0{known[file.path]}\n".encode())
        return total.hexdigest()


def h5py_module() -> Any:
    """The module `h5py`, which is an optional extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("h5py")
    except ImportError:
        raise ConfigError("h5py", "is not installed, and HDF5 files need it", install_extra("maps")) from None


def _listed(root: Path) -> dict[str, MapFile]:
    """Name → file, in order of the names."""
    if not root.exists():
        raise ConfigError(str(root), "does not exist", "give a folder of score maps, or an archive")
    if root.is_file():
        if root.suffix.lower() not in _ARCHIVES:
            raise ConfigError(str(root), "is neither a folder nor an archive", f"one of {', '.join(_ARCHIVES)}")
        return {member or root.stem: MapFile(root, member) for member in _members(root)}
    maps: dict[str, MapFile] = {}
    for path in files_below(root):
        if path.suffix.lower() not in SUFFIXES:
            continue
        stem = path.relative_to(root).with_suffix("").as_posix()
        for member in _members(path):
            name = f"{stem}/{member}" if member else stem
            if name in maps:
                raise ConfigError(str(root), f"two maps are called {name}: {maps[name]} and {path}", "remove one")
            maps[name] = MapFile(path, member)
    if all(name.endswith(_NO_MAPS) for name in maps):
        raise ConfigError(str(root), "holds no score map", f"maps are files that end with {', '.join(SUFFIXES)}")
    return maps


def _lies_on_its_side(shape: tuple[int, ...], label: tuple[int, int]) -> bool:
    """A map that is wide where its label is high, or the reverse; networks that take squares give squares."""
    return any(a[0] > _OBLONG * a[1] and b[1] > _OBLONG * b[0] for a, b in ((shape, label), (label, shape)))


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _members(path: Path) -> list[str]:
    """Names of the arrays in a file; one empty name where the file is one map."""
    suffix = path.suffix.lower()
    if suffix not in _ARCHIVES:
        return [""]
    names: list[str] = []
    try:
        if suffix == ".npz":
            with np.load(regular(path), allow_pickle=False) as archive:
                names = list(archive.files)
        else:
            with h5py_module().File(path, "r") as archive:
                names = _hdf5_names(archive)
    except MgcdaError:
        raise
    except Exception as error:  # of damaged files NumPy, zipfile and h5py raise all kinds
        raise MgcdaError(str(path), f"cannot be read: {error}", "is the file whole?") from None
    return names if len(names) > 1 else [""]


def _read(file: MapFile) -> NDArray[Any]:
    suffix = regular(file.path).suffix.lower()
    try:
        if suffix == ".npy":
            # A map must be as large as its header says.
            return _of_bounded_size(np.load(file.path, mmap_mode="r", allow_pickle=False), file)
        if suffix == ".npz":
            with np.load(unpacked(file.path), allow_pickle=False) as archive:
                return archive[file.member or archive.files[0]]
        if suffix in _ARCHIVES:
            return _read_hdf5(file)
        _check_pixels(_pixels_of_picture(file.path), file)
        pixels = cv2.imread(str(file.path), cv2.IMREAD_UNCHANGED)
        if pixels is not None and suffix == ".png" and pixels.dtype == np.uint16:
            return _in_its_range(pixels, file.path)
    except MgcdaError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own bound, of which it warns before
        raise MgcdaError(str(file), f"is refused: {error}", _BOUND) from None
    except Exception as error:  # of damaged files NumPy, zipfile, h5py and OpenCV raise all kinds
        raise MgcdaError(str(file), f"cannot be read: {error}", "is the file whole?") from None
    if pixels is None:
        remedy = "is the file whole? TIFF must hold float32, float64, or integers of 8 or 16 bits"
        raise MgcdaError(str(file), "cannot be decoded", remedy)
    return pixels


def _in_its_range(levels: NDArray[Any], path: Path) -> NDArray[Any]:
    """The scores that the levels of a 16-bit picture stand for, where it has their range."""
    with Image.open(path) as picture:
        text = picture.info
    if LOW_KEY not in text or HIGH_KEY not in text:
        return levels
    low, high = float(text[LOW_KEY]), float(text[HIGH_KEY])
    return low + levels.astype(np.float64) * ((high - low) / 65535)


def _read_hdf5(file: MapFile) -> NDArray[Any]:
    with h5py_module().File(file.path, "r") as archive:
        names = [file.member] if file.member else _hdf5_names(archive)
        if not names:
            raise ValueError("no array in it")
        return np.asarray(_of_bounded_size(archive[names[0]], file)[()])


def _of_bounded_size(array: Any, file: MapFile) -> Any:
    """An array that is still in its file, unless it claims more pixels than are decoded anywhere."""
    _check_pixels(int(array.size), file)
    return array


def _check_pixels(number: int, file: MapFile) -> None:
    if number > MAX_PIXELS:
        raise MgcdaError(str(file), f"claims {number} pixels, over the bound of {MAX_PIXELS}", _BOUND)


def _pixels_of_picture(path: Path) -> int:
    """Pixels that a header claims; OpenCV reserves memory for them before it reads any."""
    try:
        with Image.open(path) as picture:
            return picture.width * picture.height
    except UnidentifiedImageError:
        if path.suffix.lower() == ".png":
            raise
    with path.open("rb") as file:  # TIFF of float64, which Pillow does not decode
        start = file.read(8)
        directory = ImageFileDirectory_v2(start + file.read(8) if start[2:3] == b"+" else start)
        file.seek(directory.next)
        directory.load(file)
        return int(directory[IMAGEWIDTH]) * int(directory[IMAGELENGTH])


def _hdf5_names(archive: Any) -> list[str]:
    """Paths of the arrays in an open HDF5 file."""
    names: list[str] = []

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "shape"):
            names.append(name)

    archive.visititems(visit)
    return names


def _two_dimensional(values: NDArray[Any], file: MapFile) -> NDArray[np.floating[Any]]:
    shape = values.shape
    if values.ndim > 2:
        values = values.reshape([length for length in shape if length != 1] or [1, 1])
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        remedy = "a score map is one floating-point or whole number per pixel, higher = more anomalous"
        raise MgcdaError(str(file), f"an array of shape {shape} and type {values.dtype} is no score map", remedy)
    # Whole numbers of 32 bits and more do not fit into float32.
    wide = values.dtype.itemsize > (4 if values.dtype.kind == "f" else 2)
    return values.astype(np.float64 if wide else np.float32)
