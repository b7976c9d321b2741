"""One rank of an examination: `python -m mgcda_dist.laws.rank FOLDER RANK`, started by `ranks.py`."""

from __future__ import annotations

import pickle
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mgcda_dist.files import write_atomically
from mgcda_dist.laws.parts import agreeing, play_cases
from mgcda_dist.laws.probes import outputs, values
from mgcda_dist.laws.ranks import RankFound, Request
from mgcda_dist.laws.scenes import IMAGES, SCENES
from mgcda_dist.laws.steps import difference, play
from mgcda_dist.laws.subject import model_of
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.references import told

__all__ = ["main"]

_COLLECTIVE = timedelta(seconds=120)


def main(folder: Path, rank: int) -> None:
    """Do what the request says; write what was found, or the error in words."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    request: Request = pickle.loads((folder / "request").read_bytes())
    result: tuple[str, Any]
    try:
        result = "found", _found(request, folder, rank)
    except Exception as error:  # a user's code raises every kind
        result = "failed", told(error)
    write_atomically(folder / f"found-{rank}", pickle.dumps(result))


def _found(request: Request, folder: Path, rank: int) -> RankFound:
    found, number = RankFound(), max(request.worlds)
    _join(folder / "all", rank, number)
    groups: dict[int, Any] = {size: None if size == number else dist.new_group(range(size)) for size in request.worlds}
    for size, group in groups.items():
        if rank < size:
            _play(request, found, size, Collectives(group), folder)
    dist.barrier()
    dist.destroy_process_group()
    if request.zero_stages and rank < 2:
        from mgcda_dist.laws.zero import train_sharded

        _join(folder / "two", rank, 2)
        for stage in request.zero_stages:
            _tell(folder, rank, f"ZeRO {stage} on 2 ranks")
            found.trained[stage] = train_sharded(request.subject, stage, request.size)
        dist.barrier()
        dist.destroy_process_group()
    return found


def _play(request: Request, found: RankFound, size: int, world: Collectives, folder: Path) -> None:
    subject, model = request.subject, model_of(request.subject, collectives=world)
    found.same[size] = values(model, outputs(model, request.size, subject.num_classes), list(range(IMAGES)))
    for scene in SCENES:
        for accumulation in (1, 2) if size == 2 else (1,):
            _tell(folder, world.rank, f"{size} ranks, {scene}")
            played = play(model, scene, request.size, subject.num_classes, accumulation)
            where = f"{scene}, rank {world.rank} of {size}" + f", {accumulation} micro-batches" * (accumulation > 1)
            found.differences.append(difference(played, request.whole[scene], where))
    if size == 2 and request.around:
        _tell(folder, world.rank, "2 ranks, with and without MDAT, CACL, teacher")
        where = f"rank {world.rank} of 2"
        found.differences += agreeing(play_cases(subject, request.size, world), request.around, where)


def _join(store: Path, rank: int, number: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=number, timeout=_COLLECTIVE)


def _tell(folder: Path, rank: int, doing: str) -> None:
    if rank == 0:
        write_atomically(folder / "doing", doing)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
