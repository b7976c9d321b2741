"""A map-style Dataset of the user's program as frames by number, beside shards: opened, read, and recognised.

The Dataset answers by index, and the same each time: which samples make a step, their crops and their objects are
functions of (seed, step, slot), as they are over shards, so a run resumes exactly and is the same at every number of
workers. Random changes belong to the augmentation, whose draws are keyed; an item that differs when it is read again
is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset

from mgcda_dist.choices import ANOMALY, INLIER, VOID
from mgcda_dist.data.items import ITEM, Item, as_ids, as_image, key_of, split
from mgcda_dist.data.labels import ClassSpace, mapped_ids
from mgcda_dist.data.pixels import Pixels, as_pixels
from mgcda_dist.data.reader import RawFrame
from mgcda_dist.errors import ConfigError, MgcdaError, SampleError, ShardError
from mgcda_dist.references import resolve, told

__all__ = ["DatasetReader", "LabelIds", "MapDataset", "make_dataset"]

_CHUNK = 1 << 20
_METHODS = "a map-style Dataset has `__len__()` and `__getitem__(index)`"


class MapDataset(Protocol):
    """Anything with a length and items by index, torch's Dataset for instance."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class LabelIds:
    """The ids that the labels of a Dataset may hold.

    Attributes:
        mapped: train id by id.
        meaning, remedy: for messages: what the ids are, and what to do about another one.
    """

    mapped: Mapping[int, int]
    meaning: str
    remedy: str

    @classmethod
    def train_ids(cls, num_classes: int) -> LabelIds:
        """Ids that need no table: 0 … C-1, and normal of unknown class, anomaly, void."""
        ids = (*range(num_classes), INLIER, ANOMALY, VOID)
        remedy = (
            f"train ids are 0 … {num_classes - 1}, {INLIER} (normal, class unknown), {ANOMALY} (anomaly), {VOID} "
            "(void); of other ids name the stream's label_format"
        )
        return cls({i: i for i in ids}, "a train id of the run's classes", remedy)

    @classmethod
    def of_format(cls, label_format: str, class_space: str | ClassSpace) -> LabelIds:
        """Raw ids of a label format.

        Raises:
            ConfigError: no such format, or a class space that cannot read it.
        """
        remedy = (
            f"name the right label_format, or say in data.class_space.ids.{label_format} what it is (`void`: nothing)"
        )
        return cls(mapped_ids(label_format, class_space), f"an id that {label_format} knows", remedy)

    @property
    def table(self) -> NDArray[np.uint8]:
        """Train id by id, 256 bytes."""
        table = np.full(256, VOID, np.uint8)
        table[list(self.mapped)] = list(self.mapped.values())
        return table


def make_dataset(where: str, reference: str, arguments: Mapping[str, Any]) -> MapDataset:
    """The Dataset that a configuration refers to.

    Args:
        where: for messages, the stream or set.
        reference: `python:MODULE:NAME` of a Dataset, or of a class or function that makes it.
        arguments: of that class or function.

    Raises:
        ConfigError: nothing of that name, arguments that do not fit, or no map-style Dataset.
    """
    found: Any = resolve(where, reference)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "__getitem__")):
        try:
            signature(found).bind(**arguments)
        except TypeError as error:
            raise ConfigError(where, f"{reference}: {error}", "give them as dataset_arguments") from None
        except ValueError:
            pass  # a class of C has no signature
        try:
            made: Any = found(**arguments)
        except MgcdaError:
            raise
        except Exception as error:
            problem = f"{reference} cannot be made: {told(error)}"
            remedy = "see dataset_arguments; paths in them are absolute or begin with ./, since workers run elsewhere"
            raise ConfigError(where, problem, remedy) from error
    else:
        made = found
    if made is found and arguments:
        problem = f"{reference} is a {type(found).__name__} already, and takes no dataset_arguments"
        raise ConfigError(where, problem, "leave them out, or name the class or a function that makes it")
    if isinstance(made, IterableDataset):
        remedy = f"{_METHODS}; what can only be read in order is written as shards"
        raise ConfigError(where, f"{reference} is an IterableDataset, whose items have no index", remedy)
    lacking = [name for name in ("__len__", "__getitem__") if not hasattr(type(made), name)]
    if lacking:
        problem = f"{reference} is a {type(made).__name__} without {' and '.join(lacking)}"
        raise ConfigError(where, problem, _METHODS)
    return made


class DatasetReader:
    """The items of a Dataset as frames: a `FrameReader`.

    Args:
        dataset: of the user.
        where: for messages, the stream or set.
        ids: that labels may hold.

    Raises:
        ConfigError: a length that cannot be asked for.
        ShardError: no item.
    """

    def __init__(self, dataset: MapDataset, where: str, ids: LabelIds) -> None:
        self.dataset, self.where, self.ids = dataset, where, ids
        try:
            self._length = len(dataset)
        except Exception as error:
            raise ConfigError(where, f"the length of the Dataset: {told(error)}", _METHODS) from error
        if self._length == 0:
            raise ShardError(
                where, "the Dataset holds no item", "check its arguments (paths: absolute, or ./PATH), or leave it out"
            )
        self._is_unknown = np.ones(256, np.uint8)
        self._is_unknown[list(ids.mapped)] = 0

    def __len__(self) -> int:
        return self._length

    @property
    def shard_sizes(self) -> NDArray[np.int64]:
        """Sizes for the plan: all items are shuffled together, those of a very large Dataset in chunks."""
        starts = np.arange(0, self._length, _CHUNK)
        return np.minimum(self._length - starts, _CHUNK)

    def frame(self, index: int, *, labelled: bool = True) -> RawFrame:
        """One item as a frame; without `labelled` its label is not looked at.

        Raises:
            SampleError: the Dataset raises an error, or its item is not of the form that `items.ITEM` says.
        """
        item, where = self._item(index)
        image, ids = as_image(item.image, where), None
        if labelled and item.label is not None:
            ids = self._checked(as_ids(item.label, image.shape[:2], where), where)
        return RawFrame(key_of(index), image, ids, where)

    def prefetch(self, index: int) -> None:
        """Nothing: what a Dataset reads ahead is its own affair."""

    @property
    def probes(self) -> list[int]:
        """The first, the middle and the last item, which stand for all where reading all would take too long."""
        return sorted({0, self._length // 2, self._length - 1})

    def digest(self) -> str:
        """SHA-256 (hex) over the length, the attribute `fingerprint` if there is one, and the content of `probes`.

        Raises:
            ShardError: an item that is another one when it is read again.
        """
        identity = ["dataset", self._length, str(getattr(self.dataset, "fingerprint", ""))]
        digest = hashlib.sha256(json.dumps(identity).encode())
        for index in self.probes:
            content = self._content(index)
            if content != self._content(index):
                raise ShardError(
                    f"{self.where}: item {index}",
                    "differs when it is read a second time, so no run could be resumed or repeated",
                    "an item is a function of its index; random changes are for data.augment",
                )
            digest.update(content)
        return digest.hexdigest()

    def _content(self, index: int) -> bytes:
        """Digest of an item; all damaged ones have the same."""
        digest = hashlib.sha256()
        try:
            item, where = self._item(index)
            image = as_image(item.image, where)
            for array in (image, _plain(item.label)):
                digest.update(f"{array.shape}".encode() + array.tobytes())
        except SampleError:
            return hashlib.sha256(b"damaged").digest()
        return digest.digest()

    def _item(self, index: int) -> tuple[Item, str]:
        where = f"{self.where}: item {index}"
        try:
            item = self.dataset[index]
        except (MgcdaError, MemoryError):
            raise
        except Exception as error:
            raise SampleError(where, told(error), "the Dataset raised it; `skip` leaves the item out") from error
        if item is None:
            raise SampleError(where, "the Dataset gave None", ITEM)
        return split(item, where), where

    def _checked(self, ids: Pixels, where: str) -> Pixels:
        unknown = as_pixels(cv2.LUT(ids, self._is_unknown))
        if unknown.any():
            first, share = int(ids[unknown > 0][0]), np.count_nonzero(unknown) / unknown.size
            problem = f"the label holds {first}, which is not {self.ids.meaning}; {share:.2%} of its pixels are unknown"
            raise SampleError(where, problem, self.ids.remedy)
        return ids


def _plain(label: Any) -> NDArray[Any]:
    """A label for the digest: its numbers if it has any, however wrong they are."""
    if isinstance(label, torch.Tensor):
        label = label.detach().cpu().numpy()
    elif isinstance(label, Image.Image):
        label = np.asarray(label)
    if not isinstance(label, np.ndarray) or label.dtype.kind not in "buif":
        return np.empty(0)
    return label.astype(np.int64) if label.dtype.kind in "bui" else label
