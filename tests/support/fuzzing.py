"""Damaged documents, and the rule for whatever reads them: a result or an error of the project, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgcda_dist.errors import MgcdaError

__all__ = ["SECONDS_OR_MINUTES", "changed", "damaged", "fuzz"]

SECONDS_OR_MINUTES = pytest.mark.parametrize(
    "examples", [pytest.param(50, id="seconds"), pytest.param(5000, id="minutes", marks=pytest.mark.extended)]
)
"""`make test` tries the same few inputs each time, `make test-cluster` many new ones."""

_ODD: list[Any] = [
    None, True, -1, 0, 3, 0.5, 1e308, 2**63, -(2**63), 10**30, float("nan"), float("inf"), "", "1", "x", "x" * 300,
    "a/b", "../a", "/etc/passwd", "\0", "\x1b[2J", "\ud800", "ä", "{}", [], {}, [[]], [None], {"": None}, [1, "x"],
    {"x": [{}]},
]  # fmt: skip


def fuzz(
    examples: int, inputs: st.SearchStrategy[Any], put: Callable[[Any], object], *reads: Callable[[], object]
) -> None:
    """Put many inputs in their place; of each, every reader gives a result or an error of the project."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples < 1000,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
    @given(inputs)
    def check(value: Any) -> None:
        put(value)
        for read in reads:
            try:
                read()
            except MgcdaError:
                continue

    check()


@st.composite
def damaged(draw: st.DrawFn, *originals: bytes) -> bytes:
    """One of the files with a few of its bytes overwritten, removed, repeated or put in, or cut off."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        # Headers decide most: half of the damage is done to the first bytes.
        start = draw(st.integers(0, min(len(data), draw(st.sampled_from([64, len(data)])))))
        stop = min(len(data), start + draw(st.integers(0, 16)))
        kind = draw(st.sampled_from(["overwrite", "remove", "repeat", "insert", "cut"]))
        if kind == "overwrite":
            data[start:stop] = draw(st.binary(min_size=stop - start, max_size=stop - start))
        elif kind == "remove":
            del data[start:stop]
        elif kind == "repeat":
            data[start:start] = data[start:stop] * draw(st.integers(1, 40))
        elif kind == "insert":
            data[start:start] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[start:]
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, *originals: Any) -> Any:
    """One of the documents with a few of its values removed, or replaced by odd ones or by others of its own."""
    new = copy.deepcopy(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(new))
        if not places:
            break
        parent, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["remove", "odd", "odd", "other", "wrap", "text"]))
        if kind == "remove":
            del parent[key]
        elif kind == "odd":
            parent[key] = copy.deepcopy(draw(st.sampled_from(_ODD)))
        elif kind == "other":
            other, place = draw(st.sampled_from(places))
            parent[key] = copy.deepcopy(other[place])
        else:
            parent[key] = [parent[key]] if kind == "wrap" else str(parent[key])
    return new


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value that a list or mapping holds, as that and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)
