"""Augmentation of a user's own: a function of a crop, its label and draws that are keyed like all others.

`change(image, label, generator, **arguments)` returns both; or a class, made with the arguments, whose objects are
called with the three. It is the last change of a crop, after pasting, colour and style.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mgcda_dist.data.pixels import Pixels
from mgcda_dist.errors import ConfigError
from mgcda_dist.method.batch import ANOMALY, INLIER, VOID
from mgcda_dist.references import register, registered, resolve, told

__all__ = ["OwnAugment"]

_FORM = (
    "it is given uint8 height×width×3, uint8 height×width and a numpy Generator, and returns such an image and label"
)


class OwnAugment:
    """A change of crops by reference.

    Args:
        reference: `python:MODULE:NAME` of a function or class.
        arguments: by name.
        where: config path, for messages.
    """

    def __init__(self, reference: str, arguments: Mapping[str, Any], where: str) -> None:
        self.reference, self.arguments, self.where = reference, dict(arguments), where

    def __reduce__(self) -> tuple[Any, tuple[str, dict[str, Any], str, dict[str, Any]]]:
        # A loader process makes its own object: what users write in a module need not be picklable. What a program gave
        # is known in a forked process; to another it is sent.
        return _remade, (self.reference, self.arguments, self.where, registered([self.reference]))

    def __call__(self, image: Pixels, label: Pixels, generator: np.random.Generator) -> tuple[Pixels, Pixels]:
        """The changed crop; the arguments are not changed.

        Raises:
            ConfigError: the user's code fails, or returns something else.
        """
        try:
            found: Any = self._change(np.array(image), np.array(label), generator)
        except Exception as error:  # a user's code raises every kind
            raise ConfigError(self.where, f"{self.reference} fails: {told(error)}", _FORM) from error
        if not isinstance(found, tuple) or len(found) != 2:  # pyright: ignore[reportUnknownArgumentType]
            raise ConfigError(self.where, f"{self.reference} returned a {type(found).__name__}", _FORM)  # pyright: ignore[reportUnknownArgumentType]
        for name, given, own in (("image", found[0], image), ("label", found[1], label)):
            if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.shape != own.shape:
                problem = f"{self.reference} returned the {name} as {_described(given)}, not {_described(own)}"
                raise ConfigError(self.where, problem, _FORM)
        return found

    def tried(self, crop_px: tuple[int, int], num_classes: int) -> None:
        """Try it on a crop.

        Raises:
            ConfigError: as when called; or it is no function of its arguments, or gives labels that there are not.
        """
        image = np.random.default_rng(0).integers(0, 256, (*crop_px, 3), np.uint8)
        ids = np.array([*range(num_classes), INLIER, ANOMALY, VOID], np.uint8)
        label = np.random.default_rng(1).choice(ids, crop_px)
        states = _global_states()
        first, again = (self(image, label, np.random.default_rng(2)) for _ in range(2))
        if states != _global_states():
            remedy = "draw from the generator that it is given, which is keyed by seed, step and image"
            raise ConfigError(self.where, f"{self.reference} draws from a global generator", remedy)
        if not all(np.array_equal(x, y) for x, y in zip(first, again, strict=True)):
            problem = f"{self.reference} gives another crop when it is called again with the same draws"
            raise ConfigError(self.where, problem, "it keeps nothing between calls, and draws from its generator alone")
        strange = sorted({int(each) for each in np.unique(first[1])} - {int(each) for each in ids})
        if strange:
            known = f"0 to {num_classes - 1}, {INLIER} (unknown class), {ANOMALY} (anomaly) and {VOID} (void)"
            raise ConfigError(self.where, f"{self.reference} makes labels {strange[:5]}", f"labels are {known}")

    @cached_property
    def _change(self) -> Any:
        found, arguments = resolve(self.where, self.reference), self.arguments
        if isinstance(found, type):
            return found(**arguments)
        if not callable(found):
            raise TypeError(f"a {type(found).__name__} cannot be called")
        return lambda image, label, generator: found(image, label, generator, **arguments)


def _remade(reference: str, arguments: dict[str, Any], where: str, objects: dict[str, Any]) -> OwnAugment:
    register(objects)
    return OwnAugment(reference, arguments, where)


def _described(x: Any) -> str:
    return f"{x.dtype} {'×'.join(map(str, x.shape))}" if isinstance(x, np.ndarray) else f"a {type(x).__name__}"


def _global_states() -> tuple[Any, ...]:
    """Of the global generators: Python's, NumPy's and torch's."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    states: NDArray[Any] = np.asarray(keys)
    return random.getstate(), kind, states.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()
