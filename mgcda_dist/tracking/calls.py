"""Schema of the calls in record.jsonl: a record may come from others, and says what is sent to a server.

The calls are described in `mgcda_dist.tracking.jsonl`. What else a line holds is left out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from mgcda_dist.tracking.tracker import Status
from mgcda_dist.trust import Name, RelativePath, validated

__all__ = ["checked"]

_Texts = dict[str, str]
_Time = Annotated[float, Field(ge=0, le=1e11, allow_inf_nan=False)]


class _Start(TypedDict):
    time: _Time
    call: Literal["start"]
    experiment: Name
    name: Name
    uri: str | None


class _Params(TypedDict):
    time: _Time
    call: Literal["params"]
    params: _Texts


class _Tags(TypedDict):
    time: _Time
    call: Literal["tags"]
    tags: _Texts


class _Dataset(TypedDict):
    time: _Time
    call: Literal["dataset"]
    name: Name
    digest: Name
    source: str
    context: Name


class _Artifact(TypedDict):
    time: _Time
    call: Literal["artifact"]
    path: RelativePath
    folder: RelativePath


class _Picture(TypedDict):
    time: _Time
    call: Literal["picture"]
    name: RelativePath
    path: RelativePath
    step: Annotated[int, Field(ge=0, lt=1 << 63)] | None


class _Model(TypedDict):
    time: _Time
    call: Literal["model"]
    path: RelativePath
    register_as: Name | None


class _End(TypedDict):
    time: _Time
    call: Literal["end"]
    status: Status


_Call = Annotated[
    _Start | _Params | _Tags | _Dataset | _Artifact | _Picture | _Model | _End, Field(discriminator="call")
]


def checked(call: dict[str, Any], where: str) -> dict[str, Any]:
    """A call with the fields of its kind, each as the schema says.

    Raises:
        MgcdaError: another call, or a field that is missing or does not fit; `where`: the record.
    """
    return validated(_Call, call, where)
