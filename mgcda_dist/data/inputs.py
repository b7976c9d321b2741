"""The data that a run reads: folders of shards and Datasets, each with its role and the identity of its content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from mgcda_dist.errors import MgcdaError
from mgcda_dist.files import write_json_atomically
from mgcda_dist.trust import read_json, validated

__all__ = ["Role", "RunInput", "read_inputs", "write_inputs"]


class Role(StrEnum):
    """The use that a run makes of a folder; the values stand in `manifests.json` and in MLflow."""

    TRAIN = "train"
    PASTE = "paste"
    EVAL = "eval"
    EVAL_PASTE = "eval_paste"
    VALIDATION = "eval_validation"
    VALIDATION_PASTE = "eval_validation_paste"

    @property
    def is_training(self) -> bool:
        """True where the network learns from it."""
        return self in (Role.TRAIN, Role.PASTE)

    @property
    def kind(self) -> Literal["frames", "objects"]:
        """Kind of the shards."""
        return "objects" if self in (Role.PASTE, Role.EVAL_PASTE, Role.VALIDATION_PASTE) else "frames"


@dataclass(frozen=True)
class RunInput:
    """One folder of shards, or a Dataset of the user's program, that a run reads.

    Attributes:
        name: of the stream or evaluation set.
        folder: path or URL; of a Dataset its reference.
        dataset, split, digest: from the manifest of the shards; of a Dataset its class, nothing, and the digest of its
            length, its `fingerprint` and some items.
        shards: of a Dataset 0.
    """

    role: Role
    name: str
    folder: str
    dataset: str
    split: str
    samples: int
    shards: int
    digest: str

    @property
    def key(self) -> str:
        """`ROLE/NAME`."""
        return f"{self.role}/{self.name}"


def write_inputs(inputs: Sequence[RunInput], path: Path) -> None:
    """Write `manifests.json`: the other fields by `ROLE/NAME`."""
    content: dict[str, dict[str, Any]] = {each.key: asdict(each) for each in inputs}
    for fields in content.values():
        del fields["role"], fields["name"]
    write_json_atomically(path, content)


def read_inputs(path: Path) -> list[RunInput]:
    """Read what `write_inputs` wrote; a file that does not exist has none.

    Raises:
        MgcdaError: a file that is damaged.
    """
    if not path.is_file():
        return []
    try:
        content = read_json(path)
        keys = [key.partition("/") for key in content]
        found = [
            {"role": role, "name": name} | fields
            for (role, _, name), fields in zip(keys, content.values(), strict=True)
        ]
        return validated(list[RunInput], found, str(path))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        problem = f"is no list of the data of a run: {error}"
        raise MgcdaError(str(path), problem, "restore it, or remove it: the next launch writes it anew") from None
