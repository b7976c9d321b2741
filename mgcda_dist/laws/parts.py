"""Laws with MDAT, CACL and a teacher around the subject, and with each of them switched off: cases of their own.

The score of a subject tells CACL and the teacher which pixels are hard, and its heads lie on features that MDAT aligns;
what is switched off must leave nothing behind that waits for a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from mgcda_dist.config.schema import Config
from mgcda_dist.laws.findings import Difference, Finding, worst
from mgcda_dist.laws.scenes import Scene
from mgcda_dist.laws.steps import Played, difference, play
from mgcda_dist.laws.subject import Subject, model_of
from mgcda_dist.method.collectives import Collectives

__all__ = ["PartsPlayed", "agreeing", "parts", "play_cases"]

_PARTS = "mdat", "cacl", "teacher"
_SCENES: tuple[Scene, ...] = ("all sides", "labels in one image")
"""In the second three images have no labels: what a teacher is for."""

PartsPlayed = Mapping[str, Mapping[Scene, Played]]
"""Steps by case and scene."""


def play_cases(subject: Subject, size: tuple[int, int], world: Collectives | None = None) -> PartsPlayed:
    """A step of every case and scene; on several ranks a collective. Empty: nothing is on in the configuration."""
    found: dict[str, dict[Scene, Played]] = {}
    for case, config in _cases(subject.around):
        model = model_of(replace(subject, config=config), collectives=world)
        domains = len(config.data.domains)
        found[case] = {scene: play(model, scene, size, subject.num_classes, 1, domains=domains) for scene in _SCENES}
    return found


def agreeing(found: PartsPlayed, expected: PartsPlayed, where: str) -> list[Difference]:
    """Differences of all steps."""
    return [
        difference(found[case][scene], played, f"{case}, {scene}, {where}")
        for case, scenes in expected.items()
        for scene, played in scenes.items()
    ]


def parts(subject: Subject, size: tuple[int, int], played: PartsPlayed) -> Finding:
    """Every case is finite, touches all that learns, and is the same when it is made and played again."""
    law, title = "parts", f"with {', '.join(played)}" if played else "with MGCDA and a teacher"
    if not played:
        return Finding(law, title, "not applicable", said="the configuration has neither MDAT, CACL nor a teacher")
    for case, scenes in played.items():
        for scene, each in scenes.items():
            where = f"{case}, {scene}"
            if each.untouched:
                said = f"{len(each.untouched)} trained parameters get no gradient, first {each.untouched[0]}"
                return Finding(law, title, "broken", float(len(each.untouched)), where, said)
            bad = [name for name, x in each.gradients.items() if not bool(torch.isfinite(x).all())]
            if bad:
                return Finding(law, title, "broken", None, where, f"the gradient of {bad[0]} is not finite")
    number, where = worst(agreeing(play_cases(subject, size), played, "played again"))
    said = "difference of a step that is played again, and no parameter without gradient"
    return Finding(law, title, "kept" if number == 0 else "broken", number, where if number else "", said)


def _cases(config: Config | None) -> Iterator[tuple[str, Config]]:
    """All parts that are on, and without each of them; one by itself is left out, since all else is examined alone."""
    if config is None:
        return
    on = [part for part in _PARTS if getattr(config, part).enabled]
    yield " and ".join(on), config
    for part in on if len(on) > 1 else ():
        content = config.model_dump()
        content[part]["enabled"] = False
        yield f"without {part}", Config.model_validate(content)
