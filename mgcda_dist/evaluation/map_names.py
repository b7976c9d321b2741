"""Frames and the files named after them: whole names first, then shorter ones, and each file for one frame.

A file is named as its frame, with or without the folders, or below more of them, and may end as methods end names
(`_anomaly`, `_score` …). What is shorter than the whole name counts only where one frame and one file have it, and
folders that both sides have must be equal: the map of `a/0001` is never that of `b/0001`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from mgcda_dist.data.shards.keys import original_name

__all__ = ["match_names"]

_ENDING = re.compile(r"[_.-](anomaly|score|scores|uncertainty|heatmap|leftImg8bit|rgb)$")
_MOST_ENDINGS = 3


def match_names(keys: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The file of every frame, where one can be its own, and why there is none where several could.

    Args:
        keys: of the frames, as `safe_key` makes them.
        names: of the files, with folders, without suffixes.

    Returns:
        Key → name, and key → problem, of keys that are not in the first.
    """
    frames = {key: original_name(key) for key in keys}
    matching = _Matching(frames, {name: original_name(name) for name in names})
    matching.run()
    folder = os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""
    if folder and not matching.by_folder:  # all files lie in a folder of another name, that of a method for instance
        matching.files = {name: plain.removeprefix(f"{folder}/") for name, plain in matching.files.items()}
        matching.run()
    unclear = {key: problem for key, problem in matching.unclear.items() if key not in matching.found}
    return matching.found, unclear


class _Matching:
    """Frames and files, and what is matched of them.

    Attributes:
        frames: key → name of every frame.
        files: name → the same below some folder, of files that no frame could own so far.
        by_folder: a frame was found by a name with a folder, so folders have a meaning.
    """

    def __init__(self, frames: Mapping[str, str], files: Mapping[str, str]) -> None:
        self.frames, self.files = frames, dict(files)
        self.found, self.unclear, self.by_folder = dict[str, str](), dict[str, str](), False

    def run(self) -> None:
        for exact in (True, False):
            for of_frame, of_file in _levels():
                self._level(of_frame, of_file, exact=exact)

    def _level(self, of_frame: Callable[[str], str], of_file: Callable[[str], str], *, exact: bool) -> None:
        frames = _Index({key: of_frame(name) for key, name in self.frames.items()})
        files = _Index({name: of_file(plain) for name, plain in self.files.items()})
        for key, form in frames.forms.items():
            if key in self.found or not (fitting := files.fitting(form, exact=exact)):
                continue
            called = files.forms[fitting[0]]
            rivals = frames.fitting(called, exact=exact)
            if len(fitting) == len(rivals) == 1:
                self.found[key] = fitting[0]
                self.by_folder |= "/" in form and "/" in called
            else:
                problem = f"{len(fitting)} maps and {len(rivals)} frames are called {called!r}"
                self.unclear.setdefault(key, problem)
        # A file that is named as some frame is not offered to others under a shorter name.
        for name, form in files.forms.items():
            if frames.fitting(form, exact=exact):
                del self.files[name]


class _Index:
    """Names by their forms, empty ones left out, and by the ends of these that begin at a folder.

    Attributes:
        forms: name → form.
    """

    def __init__(self, forms: Mapping[str, str]) -> None:
        self.forms = {name: form for name, form in forms.items() if form}
        self._whole, self._ends = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for name, form in self.forms.items():
            self._whole[form].append(name)
            for end in _ends(form):
                self._ends[end].append(name)

    def fitting(self, form: str, *, exact: bool) -> list[str]:
        """Names of that form; or also those that end with it, or that it ends with."""
        if exact:
            return self._whole.get(form, [])
        shorter = (name for end in _ends(form) for name in self._whole.get(end, ()))
        return list(dict.fromkeys([*self._ends.get(form, ()), *shorter]))


def _ends(form: str) -> list[str]:
    parts = form.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _levels() -> Iterator[tuple[Callable[[str], str], Callable[[str], str]]]:
    """Forms of the names of frames and files, from whole ones to short ones; an empty form is compared with none."""
    for number in range(_MOST_ENDINGS + 1):
        yield str, lambda name, number=number: _without_endings(name, number)
    yield _without_endings, _without_endings
    yield _number, lambda name: plain if _last(plain := _without_endings(name)).isdigit() else ""
    yield str, _squeezed


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _without_endings(name: str, number: int = _MOST_ENDINGS) -> str:
    for _ in range(number):
        name = _ENDING.sub("", name)
    return name


def _number(name: str) -> str:
    """The number that names in Fishyscapes begin with, which is all that a submission's files are called by."""
    folder, slash, last = name.rpartition("/")
    number, rest, _ = last.partition("_")
    return f"{folder}{slash}{number}" if number.isdigit() and rest else ""


def _squeezed(name: str) -> str:
    """The name as keys were made of it before November 2026; empty where keys are still the same."""
    squeezed = re.sub(r"[^A-Za-z0-9_/-]+", "_", plain := _without_endings(name))
    return squeezed if squeezed != plain else ""
