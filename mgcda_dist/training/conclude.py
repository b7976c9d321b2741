"""The end of a run: its model evaluated, its pictures and its report; results.json last, which marks it as finished."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.evaluation.folder import write_evaluation
from mgcda_dist.evaluation.job import run_job
from mgcda_dist.evaluation.results import Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.alignment import draw_alignment
from mgcda_dist.runs.events import evaluation_progress
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.pictures import draw_history, draw_report, draw_results
from mgcda_dist.runs.records import describe_results
from mgcda_dist.runs.room import needed, optional
from mgcda_dist.tracking.tracker import Tracker

__all__ = ["conclude"]


def conclude(
    config: Config,
    run: RunFolder,
    world: Collectives,
    device: torch.device,
    tracker: Tracker,
    selection: Selection | None,
    step: int,
) -> dict[str, float]:
    """Evaluate the bare segmenter of the run, log the numbers and the pictures; a collective.

    Args:
        step: steps done, at which the numbers are logged.

    Returns:
        The logged numbers on rank 0, nothing on others.

    Raises:
        CheckpointError: there was no room for the results.
    """
    leads = world.rank == 0
    if leads and config.evaluation.sets:
        run.say("phase", "evaluating " + ", ".join(entry.name for entry in config.evaluation.sets))
    # What is evaluated is what was written: the bare network, loaded back strictly.
    job = build.evaluation_job(config, run.model)
    evaluation = run_job(job, world, device, evaluation_progress(run.say) if leads else None)
    if not leads:
        return {}
    say: Callable[[str], None] = partial(run.say, "storage")
    limit_s = config.checkpoint.room_wait_s
    results = evaluation.record(selection)
    write = partial(write_evaluation, results, evaluation.results, run.evaluation)
    needed("the evaluation", write, run.evaluation, say, limit_s)
    tracker.log_metrics(results.logged_metrics(), step)
    tracker.log_artifact(run.evaluation, "evaluation")
    pictures = optional("pictures of the evaluation", lambda: draw_results(evaluation, run.pictures), say) or []
    history = optional("the picture of the history", lambda: draw_history(run, config), say)
    path = run.pictures / "alignment.png"
    alignment = None
    if config.tracking.alignment_steps:
        alignment = optional("the picture of the domain gap", lambda: _alignment(config, run.model, path, device), say)
    if alignment is not None:
        tracker.log_metrics(alignment, step)
    for picture in (*pictures, *([history] if history else []), *([path] if alignment is not None else [])):
        tracker.log_picture(picture.name, picture)
    describe_results(config, run, tracker, results)
    # After the description, which a registered version takes over.
    tracker.log_model(run.model, config.tracking.register_model)
    report = draw_report(run) if config.tracking.report else None
    if report is not None:
        tracker.log_artifact(report, "report")
    needed("results.json", lambda: results.save(run.root), run.root, say, limit_s)
    return results.logged_metrics()


def _alignment(config: Config, model: Path, path: Path, device: torch.device) -> dict[str, float]:
    """Draw embeddings of the run's first images before and after training; how well their domains are told apart."""
    networks = {"before training": build.segmenter(config), "after": build.load_model(model)[1]}
    before, after = draw_alignment(
        {heading: network.to(device) for heading, network in networks.items()},
        list(build.scene_batches(config, config.tracking.alignment_steps)),
        path,
        domains=config.data.domains,
        classes=config.data.class_names,
        seed=config.seed,
        title=f"Embeddings of training pixels, {config.name}",
    )
    return {"align/domain_accuracy_before": before, "align/domain_accuracy_after": after}
