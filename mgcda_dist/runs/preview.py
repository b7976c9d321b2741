"""Pictures while training goes on: some frames of the first evaluation set, as the newest checkpoint sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.pictures import draw_panel

__all__ = ["draw_preview"]


def draw_preview(
    job: EvaluationJob,
    network: Callable[[], nn.Module],
    step: int,
    folder: Path,
    world: Collectives,
    device: torch.device,
) -> Path | None:
    """Draw the panel of a network's first frames; a collective, because the ranks share the frames.

    Args:
        job: the frames of one set, kept for a panel.
        network: gives it as training has it after `step` steps, in evaluation mode on `device`.
        step: shown in the title.
        folder: receives `preview_SET.png`; the next preview replaces it.
        world: the ranks.
        device: where to run the network.

    Returns:
        The PNG file on rank 0, None on others.
    """
    evaluation = run_job(job, world, device, network=network())
    if world.rank != 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    (result,) = evaluation.results
    title = f"{job.name} on {result.name}, step {step}"
    return draw_panel(evaluation, result, folder / f"preview_{result.name}.png", title)
