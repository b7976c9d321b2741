"""Decision of every key of a configuration on resume: free, override or fixed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin

from pydantic import BaseModel

from mgcda_dist.config.fields import OnResume
from mgcda_dist.config.keys import on_resume, section_of
from mgcda_dist.config.schema import Config


def _leaves(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted key of every value; `*` stands for positions in lists and names in mappings."""
    for name, info in section.model_fields.items():
        below, kinds = section_of(section, name), (info.annotation, *get_args(info.annotation))
        many = any(get_origin(kind) in (list, tuple, dict) for kind in kinds)
        key = f"{prefix}{name}" + (".*" if many else "")
        yield from [key] if below is None else _leaves(below, f"{key}.")


def test_every_key_has_a_decision() -> None:
    undecided = [key for key in _leaves(Config) if on_resume(key.replace("*", "0")) is None]
    assert not undecided, f"annotate them with FREE, OVERRIDE or FIXED: {', '.join(undecided)}"


def test_a_key_that_the_schema_does_not_know_has_the_decision_of_its_section() -> None:
    assert on_resume("tracking.of_an_older_version") is OnResume.FREE
    assert on_resume("mdat.of_an_older_version") is None


def test_keys_that_change_shapes_are_fixed() -> None:
    """Abstention gives the classifier one more logit, so not even the outlier loss can be overridden."""
    for key in (
        "loss.outlier",
        "model.backbone",
        "mdat.channels",
        "cacl.queue_rows",
        "cacl.contrast",
        "data.streams.0.name",
    ):
        assert on_resume(key) is OnResume.FIXED
