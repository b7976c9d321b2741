"""The pictures of a run: panel, PR and ROC curves per evaluation set, and the history of losses and health."""

from __future__ import annotations

from pathlib import Path

from mgcda_dist.config.schema import Config
from mgcda_dist.evaluation.job import Evaluation
from mgcda_dist.evaluation.set_result import SetResult
from mgcda_dist.reports.figures import curves_figure, panel_figure, pr_curve_figure, roc_figure
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.tracking.jsonl import read_history

__all__ = ["draw_history", "draw_panel", "draw_results"]


def draw_results(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw a panel per set, and one PR and one ROC figure over the sets that have anomalies.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name, results = evaluation.job.name, evaluation.results
    pictures = [
        draw_panel(evaluation, result, folder / f"panel_{result.name}.png", f"{name} on {result.name}")
        for result in results
        if result.panel
    ]
    ranked = [result for result in results if "ap" in result.metrics()]
    if ranked:
        pr = {r.name: (r.curves.recall, r.curves.precision, r.pixel.ap) for r in ranked}
        roc = {r.name: (r.curves.fpr, r.curves.tpr, r.pixel.auroc, r.pixel.fpr95) for r in ranked}
        pictures.append(pr_curve_figure(pr, folder / "pr_curve.png", title=f"Precision and recall, {name}"))
        pictures.append(roc_figure(roc, folder / "roc_curve.png", title=f"ROC, {name}"))
    return pictures


def draw_panel(evaluation: Evaluation, result: SetResult, path: Path, title: str) -> Path:
    """Draw the frames of a set that were kept to be looked at; returns the PNG file."""
    score_name = f"anomaly score ({evaluation.job.settings.score})"
    return panel_figure(result.panel, evaluation.job.class_names, path, score_name=score_name, title=title)


def draw_history(run: RunFolder, config: Config) -> Path:
    """Draw losses, health signals, rates and throughput over the steps; returns the PNG file."""
    return curves_figure(read_history(run.metrics), run.pictures / "history.png", title=f"History, {config.name}")
