"""Pictures while training goes on: some frames of the first evaluation set, as the newest checkpoint sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mgcda_dist.config.schema import Config
from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.pictures import draw_panel

__all__ = ["draw_preview"]


def draw_preview(
    config: Config, network: Callable[[], nn.Module], step: int, folder: Path, world: Collectives, device: torch.device
) -> Path | None:
    """Draw the panel of a network's first frames; a collective, because the ranks share the frames.

    Args:
        config: of the run; `tracking.preview_frames` says how many frames.
        network: gives it as training has it after `step` steps, in evaluation mode on `device`.
        step: shown in the title.
        folder: receives `preview_SET.png`; the next preview replaces it.
        world: the ranks.
        device: where to run the network.

    Returns:
        The PNG file on rank 0, None on others, or where nothing is to be shown.
    """
    num_frames, sets = config.tracking.preview_frames, config.evaluation.sets
    if not num_frames or not sets:
        return None
    entry = sets[0].model_copy(update={"max_frames": min(num_frames, sets[0].max_frames or num_frames)})
    section = config.evaluation.model_copy(update={"sets": [entry], "panel_frames": num_frames, "kept_frames": 0})
    job = EvaluationJob.of_model(config.model_copy(update={"evaluation": section}), folder)
    evaluation = run_job(job.model_copy(update={"digest": f"step {step}"}), world, device, network=network())
    if world.rank != 0:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{config.name} on {entry.name}, step {step}"
    return draw_panel(evaluation, evaluation.results[0], folder / f"preview_{entry.name}.png", title)
