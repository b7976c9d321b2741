"""Real processes over gloo, started once: rank 0 … W-1 play what the laws ask for, and leave what they found in files.

Each is `python -m mgcda_dist.laws.rank FOLDER RANK`; worlds smaller than the largest are process groups within it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgcda_dist.errors import MgcdaError
from mgcda_dist.laws.findings import Difference
from mgcda_dist.laws.parts import PartsPlayed
from mgcda_dist.laws.scenes import Scene
from mgcda_dist.laws.steps import Played
from mgcda_dist.laws.subject import Subject

__all__ = ["NoAnswerError", "RankError", "RankFound", "Request", "run_ranks"]

_ANSWER_S = 600.0
_GRACE_S = 3.0
"""For the others to report, once a rank has failed."""
_POLL_S = 0.1


@dataclass(frozen=True)
class Request:
    """The work that ranks are asked to do.

    Attributes:
        subject: of the laws.
        worlds: numbers of ranks.
        size: of the images, pixels.
        whole: steps of one process, which each rank compares its own with: gradients of all scenes are not sent back.
        zero_stages: of DeepSpeed to train with on two ranks; none: DeepSpeed is not imported.
        around: steps of one process with MDAT, CACL and teacher, which two ranks compare their own with.
    """

    subject: Subject
    worlds: tuple[int, ...]
    size: tuple[int, int]
    whole: dict[Scene, Played]
    zero_stages: tuple[int, ...] = ()
    around: PartsPlayed = field(default_factory=dict)


@dataclass
class RankFound:
    """Findings of one rank.

    Attributes:
        differences: of its steps from those of one process, for every scene, W and number of micro-batches.
        same: W → sums of the loss for one batch that all ranks are given alike.
        trained: ZeRO stage → losses of the steps, and the parameters after them.
    """

    differences: list[Difference] = field(default_factory=list[Difference])
    same: dict[int, dict[str, float]] = field(default_factory=dict)
    trained: dict[int, tuple[list[float], dict[str, Any]]] = field(default_factory=dict)


class NoAnswerError(MgcdaError):
    """A process died, or did not answer in time: nothing is known about a law."""


class RankError(Exception):
    """A rank raised: `rank`, and in words what."""

    def __init__(self, rank: int, text: str) -> None:
        self.rank, self.text = rank, text
        super().__init__(f"rank {rank}: {text}")


def run_ranks(request: Request, tell: Callable[[str], None]) -> list[RankFound]:
    """Start the processes, and wait for what they find; by rank. None is left behind.

    Args:
        tell: is told what the first rank is doing.

    Raises:
        RankError: the code of the subject failed on a rank.
        NoAnswerError: a process died, or the time is over.
    """
    number = max(request.worlds)
    with tempfile.TemporaryDirectory(prefix="mgcda-laws-") as name:
        folder = Path(name)
        (folder / "request").write_bytes(pickle.dumps(request))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(number):
                with (folder / f"log-{rank}").open("wb") as log:
                    command = [sys.executable, "-m", "mgcda_dist.laws.rank", name, str(rank)]
                    own = environment | {"LOCAL_RANK": str(rank), "PYTHONHASHSEED": str(rank + 1)}
                    processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=own))
            return _collected(folder, processes, tell, time.monotonic() + _ANSWER_S)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()


def _collected(
    folder: Path, processes: list[subprocess.Popen[bytes]], tell: Callable[[str], None], deadline: float
) -> list[RankFound]:
    found: dict[int, RankFound] = {}
    failed, died = dict[int, str](), dict[int, str]()
    doing = ""
    while len(found) + len(failed) < len(processes) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if (folder / "doing").is_file() and (now := (folder / "doing").read_text(encoding="utf-8")) != doing:
            tell(doing := now)
        for rank, process in enumerate(processes):
            if rank in found or rank in failed:
                continue
            ended, path = process.poll() is not None, folder / f"found-{rank}"
            if path.is_file():  # it is renamed to this when it is whole
                kind, content = pickle.loads(path.read_bytes())
                if kind == "found":
                    found[rank] = content
                    continue
                failed[rank] = content
            elif ended:
                said = (folder / f"log-{rank}").read_text(encoding="utf-8", errors="replace").strip().splitlines()
                failed[rank] = f"died, exit code {process.returncode}: {said[-1] if said else 'without a word'}"
                died[rank] = failed[rank]
            else:
                continue
            deadline = min(deadline, time.monotonic() + _GRACE_S)
    if died:
        rank, text = next(iter(died.items()))
        raise NoAnswerError(
            f"rank {rank}", text, "code -9: the system killed it, mostly for memory; ask for fewer ranks"
        )
    if failed:
        # The first cause: the others fail because it left.
        rank = next((r for r, text in failed.items() if "gloo" not in text and "Connection" not in text), min(failed))
        raise RankError(rank, failed[rank])
    if len(found) < len(processes):
        missing = ", ".join(str(rank) for rank in range(len(processes)) if rank not in found)
        raise NoAnswerError(
            "ranks", f"no answer of rank {missing} in time", "a rank that waits has left out a collective"
        )
    return [found[rank] for rank in range(len(processes))]
