"""Objects of a program that have to reach the workers: refused before a run, if they cannot."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from mgcda_dist.cluster.connect import prepare_environment
from mgcda_dist.errors import ConfigError
from mgcda_dist.references import PREFIX

__all__ = ["check_travels"]

_REMEDY = (
    "give what can be pickled: a class or function that opens or makes the rest where it is used; or move it to a "
    "module that every worker can import, and give `python:MODULE:NAME`"
)


def check_travels(objects: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an object, by reference, that cannot be sent to a worker, as an open file or a lock."""
    prepare_environment()
    import torch
    from ray.cloudpickle.cloudpickle import Pickler as CloudPickler

    class Pickler(CloudPickler):
        def persistent_id(self, obj: Any) -> None:
            # Its content would be pickled, and a worker would read a copy of what was there.
            if isinstance(obj, io.IOBase) and not isinstance(obj, io.BytesIO | io.StringIO):
                raise TypeError(f"it holds an open file, {getattr(obj, 'name', '')}")
            # It would be unpickled onto a device that a worker may not have.
            if isinstance(obj, torch.Tensor) and obj.device.type != "cpu":
                raise TypeError(f"it holds a tensor on {obj.device}, and workers choose their own device: use .cpu()")

    for reference, given in objects.items():
        try:
            Pickler(io.BytesIO()).dump(given)
        except Exception as error:  # `__reduce__` of others raises every kind
            name = reference.removeprefix(PREFIX).removeprefix("given:")
            problem = f"the {type(given).__name__} cannot be sent to the workers: {error}"
            raise ConfigError(name, problem, _REMEDY) from error
