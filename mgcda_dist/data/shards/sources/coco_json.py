"""The annotation file of COCO, and of the tools that export its format: one schema, whose errors carry annotation ids.

Ids may be numbers or text. Of an annotation the outline counts; `area` and `bbox` follow from it and are not read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    FiniteFloat,
    PositiveInt,
    StringConstraints,
    Tag,
    ValidationError,
)
from pydantic_core import from_json

from mgcda_dist.errors import ShardError, counted
from mgcda_dist.trust import Name, RelativePath, read_bytes

__all__ = ["Annotation", "Annotations", "Photo", "Polygon", "read_annotations"]

_MARGIN = 0.1
"""Share of a photo's side by which an outline may reach beyond it, where it is cut."""
_MOST_BYTES = 4 << 30
"""COCO's own largest file has 0.45 GB."""
_ENTRIES = {"images": "image", "annotations": "annotation", "categories": "category"}
_SHOWN = 3
_REMEDY = "export or download the annotations again"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})")


def _number_in_text(value: Any) -> Any:
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _of_pairs(polygon: list[float]) -> list[float]:
    if len(polygon) % 2:
        raise ValueError(f"{len(polygon)} numbers are not pairs of x and y")
    return polygon


def _nested(value: Any) -> Any:
    """A list of polygons, also of one that is written without the outer list."""
    return [value] if isinstance(value, list) and value and isinstance(value[0], int | float) else value


Id = Annotated[int | str, BeforeValidator(_number_in_text)]
Polygon = Annotated[list[FiniteFloat], AfterValidator(_of_pairs)]
"""x, y, x, y … in pixels."""
Outline = Annotated[list[Polygon], BeforeValidator(_nested), Tag("outline")]
RunLengths = Annotated[dict[str, Any], Tag("run lengths")]


class Category(BaseModel):
    """A kind of object that an annotation may be of."""

    id: Id
    name: Annotated[Name, StringConstraints(strip_whitespace=True, min_length=1)]


class Photo(BaseModel):
    """A photo, and its size when it was annotated.

    Attributes:
        license: id in `licenses`; only read where photos are chosen by it.
        flickr_url: where it comes from; the number before the first `_` of the name is that of the photo's page.
    """

    id: Id
    file_name: Annotated[RelativePath, StringConstraints(min_length=1)]
    width: PositiveInt
    height: PositiveInt
    license: Any = None
    flickr_url: Any = None


class Annotation(BaseModel):
    """One object of a photo.

    Attributes:
        segmentation: the outline; a dict where the mask is run-length coded; None: neither.
        iscrowd: several objects under one mask.
    """

    id: Id
    image_id: Id
    category_id: Id
    segmentation: (
        Annotated[Outline | RunLengths, Discriminator(lambda it: "run lengths" if isinstance(it, dict) else "outline")]
        | None
    ) = None
    iscrowd: bool | None = None

    def polygons(self) -> list[Polygon]:
        """Those of the outline that have an area: three points and more."""
        return [each for each in self.segmentation if len(each) >= 6] if isinstance(self.segmentation, list) else []


class Annotations(BaseModel):
    """The content of the file.

    Attributes:
        licenses: list of `id` and `name`; many tools write none, or empty ones: see `licences`.
    """

    images: list[Photo]
    annotations: list[Annotation]
    categories: list[Category]
    licenses: Any = None

    def licences(self) -> dict[str, str]:
        """Id → name of those that have both."""
        entries = self.licenses if isinstance(self.licenses, list) else []
        named = [each for each in entries if isinstance(each, dict) and isinstance(each.get("name"), str)]
        return {str(each["id"]): each["name"] for each in named if each["name"] and "id" in each}


def read_annotations(file: Path, layout: str) -> Annotations:
    """The content of a file: ids are unique, whatever is referred to is there, outlines lie in their photos.

    Args:
        layout: where the file was expected, for the error.

    Raises:
        ShardError: no such file, not JSON of this schema, or a content that contradicts itself.
    """
    try:
        data = read_bytes(file, _MOST_BYTES)
    except OSError as error:
        raise ShardError(str(file), (error.strerror or str(error)).lower(), f"expected {layout}") from None
    try:
        encoding = json.detect_encoding(data[:4])
        content = Annotations.model_validate_json(data if encoding == "utf-8" else data.decode(encoding))
    except ValidationError as error:
        raise ShardError(str(file), _explained(error, data), _REMEDY) from None
    except UnicodeDecodeError as error:
        raise ShardError(str(file), f"not readable ({error})", _REMEDY) from None
    _check_ids(file, content)
    _check_outlines(file, content)
    return content


def _explained(error: ValidationError, data: bytes) -> str:
    """The first problems, each with the id of its entry."""
    items = error.errors(include_url=False)
    if items[0]["type"] == "json_invalid":
        return f"not readable ({items[0]['msg']})"
    raw = from_json(data.removeprefix(b"\xef\xbb\xbf")) if any(len(item["loc"]) > 1 for item in items) else None
    shown = [f"{_place(item['loc'], raw)}: {_message(item)}" for item in items[:_SHOWN]]
    rest = len(items) - len(shown)
    return "; ".join(shown) + (f"; and {counted(rest, 'problem')} more" if rest else "")


def _message(item: Mapping[str, Any]) -> str:
    if item["type"] == "missing":
        return "is missing"
    message = item["msg"].removeprefix("Value error, ").replace("an instance of Annotations", "an object with its keys")
    value = repr(item["input"])
    return f"{message} (found {value if len(value) <= 60 else value[:57] + '…'})"


def _place(path: Sequence[int | str], raw: Any) -> str:
    """`annotation 7, segmentation.0` for the path of a value."""
    if len(path) < 2:
        return repr(path[0]) if path else "the file"
    entry = raw[path[0]][path[1]]
    name = entry.get("id", "") if isinstance(entry, dict) else ""
    which = f"{_ENTRIES[str(path[0])]} {name}" if name != "" else f"{path[0]}.{path[1]}"
    inner = ".".join(str(part) for part in path[2:] if part not in ("outline", "run lengths", "int", "str"))
    return f"{which}, {inner}" if inner else which


def _check_ids(file: Path, content: Annotations) -> None:
    for key, name in _ENTRIES.items():
        for each, count in Counter(entry.id for entry in getattr(content, key)).items():
            if count > 1:
                raise ShardError(str(file), f"{name} id {each!r} is given {count} times", "make the ids unique")
    photos, categories = {photo.id for photo in content.images}, {each.id for each in content.categories}
    for note in content.annotations:
        if note.image_id not in photos:
            problem = f"annotation {note.id} is of photo {note.image_id!r}, which is not listed"
            raise ShardError(str(file), problem, _REMEDY)
        if note.category_id not in categories:
            problem = f"annotation {note.id} is of category {note.category_id!r}, which is not listed"
            raise ShardError(str(file), problem, _REMEDY)


def _check_outlines(file: Path, content: Annotations) -> None:
    """Refuse coordinates of another size than the photo's."""
    photos = {photo.id: photo for photo in content.images}
    largest = 0.0
    for note in content.annotations:
        photo = photos[note.image_id]
        for polygon in note.polygons():
            for values, size in ((polygon[0::2], photo.width), (polygon[1::2], photo.height)):
                low, high = min(values), max(values)
                largest = max(largest, high)
                if low < -_MARGIN * size or high > (1 + _MARGIN) * size:
                    problem = f"annotation {note.id} reaches out of its photo of {photo.width}×{photo.height} px"
                    raise ShardError(
                        str(file),
                        f"{problem} ({low:g} … {high:g})",
                        "coordinates are pixels of the annotated photo, whose size `images` gives",
                    )
    if 0 < largest <= 1:
        raise ShardError(
            str(file), "all coordinates lie in 0 … 1", "they look normalised: multiply them by width and height"
        )
