"""What the sections of a configuration are made of: their base, and the kinds of values that many of them have."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Count", "NonNegative", "Positive", "Probability", "Section", "StageName", "Triple"]

StageName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Triple = tuple[float, float, float]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of all sections: an unknown key is an error, a value never changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
