"""Base of the sections of a configuration, kinds of values, and the decision whether a key may change on resume.

Each field carries its decision as `Annotated[…, FREE]`, OVERRIDE or FIXED. One on a section is that of all fields below
it that have none of their own.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "FIXED",
    "FREE",
    "NAME",
    "OVERRIDE",
    "Count",
    "Name",
    "NonNegative",
    "OnResume",
    "Positive",
    "Probability",
    "Section",
    "Side",
    "StageName",
    "Triple",
    "merged",
]


class OnResume(Enum):
    """Decision whether a value may differ from the one that the checkpoint was trained with."""

    FREE = "free"
    """It does not change what is learned. Folders are free, too: the digests of their shards are compared."""
    OVERRIDE = "override"
    """It changes what is learned, but every state of the checkpoint still fits: the user has to ask for it."""
    FIXED = "fixed"
    """States would not fit, or would mean something else."""


FREE, OVERRIDE, FIXED = OnResume.FREE, OnResume.OVERRIDE, OnResume.FIXED

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
Name = Annotated[str, Field(pattern=NAME)]
"""Of what becomes a folder, a file or a metric."""
StageName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Triple = tuple[float, float, float]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=1 << 15)]
"""Of an image or a window, pixels; what an exported model may say."""


class Section(BaseModel):
    """Base of all sections: an unknown key or infinite number is an error, a value never changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def merged(below: Any, above: Any) -> Any:
    """Sections merge key by key; everything else, lists included, is replaced."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType]
    return above
