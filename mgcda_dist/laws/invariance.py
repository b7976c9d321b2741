"""Laws 1 and 6: one process, micro-batches and W ranks give the same losses and gradients; if not, the likely cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mgcda_dist.laws.findings import Difference, Finding, relative, worst
from mgcda_dist.laws.probes import Outputs, mean_instead_of_sum, place_in_batch, values
from mgcda_dist.laws.ranks import RankFound
from mgcda_dist.laws.scenes import IMAGES, SCENES, Scene
from mgcda_dist.laws.steps import Played, difference, play
from mgcda_dist.laws.subject import Subject
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["TOLERANCE", "accumulated", "compared", "whole_steps"]

TOLERANCE = 1e-9
"""Relative, in float64, against a rounding of about 1e-14."""


def whole_steps(model: MGCDA, subject: Subject, size: tuple[int, int]) -> dict[Scene, Played]:
    """Every scene in one process and one piece: what all else is compared with."""
    return {scene: play(model, scene, size, subject.num_classes, 1) for scene in SCENES}


def accumulated(
    model: MGCDA, subject: Subject, size: tuple[int, int], whole: Mapping[Scene, Played]
) -> list[Difference]:
    """The same in micro-batches."""
    return [
        difference(play(model, scene, size, subject.num_classes, number), expected, f"{scene}, {number} micro-batches")
        for scene, expected in whole.items()
        for number in (2, IMAGES)
    ]


def compared(
    model: MGCDA,
    seen: Outputs,
    differences: Sequence[Difference],
    everyone: Sequence[RankFound],
) -> Finding:
    """The finding of all that was played.

    Args:
        differences: of micro-batches in one process.
        everyone: by rank; empty: no processes were asked.
    """
    law, worlds = "1, 6", sorted({size for found in everyone for size in found.same})
    shown = ", ".join(str(size) for size in (1, *worlds))
    title = f"W = {shown} and accumulation agree" if worlds else "accumulation agrees; ranks were not asked"
    of_rank, rank_said = _by_rank(values(model, seen, list(range(IMAGES))), everyone)
    of_worlds = [each for found in everyone for each in found.differences]
    of_place, place_said = place_in_batch(model, seen)
    of_mean, mean_said = mean_instead_of_sum(model, seen)
    found = worst([*differences, *of_worlds])
    looks = "; ".join(said for said in (rank_said, place_said, mean_said if not place_said else "") if said)
    if found.number <= TOLERANCE and not looks:
        return Finding(law, title, "kept", found.number, found.where, "largest relative difference, float64")
    if found.number <= TOLERANCE:
        found = worst([of_rank, of_place, of_mean])
    looks = looks or _unexplained(differences)
    return Finding(law, title, "broken", found.number, found.where, looks)


def _by_rank(alone: Mapping[str, float], everyone: Sequence[RankFound]) -> tuple[Difference, str]:
    """The sums of one batch that all ranks were given alike, and what it looks like if they differ."""
    found, said = Difference(0.0, ""), ""
    for rank, each in enumerate(everyone):
        for size, same in each.same.items():
            for name, expected in alone.items():
                number = relative(same[name], expected)
                if number > max(found.number, TOLERANCE):
                    found = Difference(number, f"{name}, the same batch on rank {rank} of {size}")
                    said = (
                        f"{name} of the same images and slots is {expected:.4g} in one process and {same[name]:.4g} on "
                        f"rank {rank} of {size}: it depends on the rank or on the process (dist.get_rank, a generator, "
                        "hash, the clock); use context.slot and context.uniform"
                    )
    return found, said


def _unexplained(micro: Sequence[Difference]) -> str:
    if worst(micro).number > TOLERANCE:
        return (
            "micro-batches differ, though the loss by itself is a sum over images: layers mix the images of a batch "
            "(batch normalisation), or `counts` are no sums"
        )
    return "ranks differ, and micro-batches do not: something asks for the rank, or a collective is missing"
