"""Pictures and report of a run: panels, PR and ROC curves, previews while it trains, its history, and its page."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.job import Evaluation, EvaluationJob, run_job
from mgcda_dist.evaluation.set_result import SetResult
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.reports.figures import panel_figure, plots_figure
from mgcda_dist.reports.findings import Shown, findings_figure
from mgcda_dist.reports.html import write_report
from mgcda_dist.reports.plots import curve_plots, history_plots
from mgcda_dist.reports.runs import find_runs
from mgcda_dist.runs.folder import RunFolder
from mgcda_dist.runs.room import optional
from mgcda_dist.tracking.jsonl import read_history

__all__ = ["Previews", "draw_history", "draw_report", "draw_results"]

_FINDINGS_ROWS = 4
"""Of a sheet, beside the worst frame."""


def draw_results(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Draw a panel and the findings of each set, and PR and ROC curves of those with anomalies; returns the PNGs."""
    folder.mkdir(parents=True, exist_ok=True)
    name, results = evaluation.job.name, evaluation.results
    pictures = [
        _draw_panel(evaluation, result, folder / f"panel_{result.name}.png", f"{name} on {result.name}")
        for result in results
        if result.panel
    ]
    ranked = [result for result in results if "ap" in result.metrics()]
    pictures += [_draw_findings(evaluation, result, folder) for result in ranked if _shown(result)]
    if ranked:
        pr, *roc = curve_plots([(r.name, index, r.curves, r.metrics()) for index, r in enumerate(ranked)])
        pictures.append(plots_figure([pr], folder / "pr_curve.png", name, cell=(6.4, 5.2)))
        pictures.append(plots_figure(roc, folder / "roc_curve.png", name, cell=(5.2, 5.0)))
    return pictures


def _draw_findings(evaluation: Evaluation, result: SetResult, folder: Path) -> Path:
    """Draw what is reported at the best F1, rather that of pasted objects, as `mgcda predict` does; returns the PNG."""
    pasted = [each for each in evaluation.results if each.data.paste is not None and "best_f1" in each.metrics()]
    chosen = (pasted or [result])[0]
    return findings_figure(
        _shown(result),
        folder / f"findings_{result.name}.png",
        threshold=chosen.pixel.best_f1_threshold,
        source=f"best F1 on {chosen.name}",
        score_name=str(evaluation.job.settings.score),
        title=f"Findings of {evaluation.job.name} on {result.name}",
    )


def _shown(result: SetResult) -> list[Shown]:
    """Some frames of a set, evenly taken, and the worst one by AP."""
    rows = result.panel[:: max(1, -(-len(result.panel) // _FINDINGS_ROWS))]
    shown = [Shown(row.key, row.image, row.score, row.label) for row in rows]
    for worst in result.pictured[:1]:
        note = f"worst of {len(result.frames)} by AP"
        shown = [each for each in shown if each.key != worst.frame.key]
        shown.append(Shown(worst.frame.key, worst.image, worst.score, worst.label, note))
    return shown


def _draw_panel(evaluation: Evaluation, result: SetResult, path: Path, title: str) -> Path:
    """Draw the frames of a set that were kept to be looked at; returns the PNG file."""
    score_name = f"anomaly score ({evaluation.job.settings.score})"
    return panel_figure(result.panel, evaluation.job.class_names, path, score_name=score_name, title=title)


class Previews:
    """Panels of a set's first frames, drawn while training goes on.

    The ranks share the evaluation; rank 0 draws in a thread, because all ranks would wait for it in the next step. A
    picture that cannot be drawn or written is left out.

    Args:
        job: the frames of one set, kept for a panel.
        folder: receives `preview_SET.png`; the next preview replaces it.
        log: takes name, PNG and step of a picture, in the thread that calls `settle`.
        say: takes a sentence about a preview that is left out.
    """

    def __init__(
        self,
        job: EvaluationJob,
        folder: Path,
        log: Callable[[str, Path, int], None],
        say: Callable[[str], None],
    ) -> None:
        self._job, self._folder, self._log, self._say = job, folder, log, say
        self._drawer = ThreadPoolExecutor(1, "preview")
        self._drawn: tuple[int, Future[Path | None]] | None = None

    def draw(self, network: nn.Module, step: int, world: Collectives, device: torch.device) -> None:
        """Begin the picture of a network as it is after `step` steps, in evaluation mode on `device`; a collective."""
        evaluation = run_job(self._job, world, device, network=network)
        if world.rank != 0:
            return
        self.settle()
        (result,) = evaluation.results
        title = f"{self._job.name} on {result.name}, step {step}"
        path = self._folder / f"preview_{result.name}.png"
        paint = partial(_draw_panel, evaluation, result, path, title)
        self._drawn = step, self._drawer.submit(optional, f"the preview of step {step}", paint, self._say)

    def settle(self, *, wait: bool = True) -> None:
        """Log the picture that was begun; without `wait`, if it is done."""
        if self._drawn is None or not (wait or self._drawn[1].done()):
            return
        (step, drawn), self._drawn = self._drawn, None
        picture = drawn.result()
        if picture is not None:
            self._log(picture.stem, picture, step)


def draw_history(run: RunFolder, config: Config) -> Path:
    """Draw losses, health signals, rates and throughput over the steps; returns the PNG file."""
    plots = [plot for _, plot in history_plots([(config.name, read_history(run.metrics))])]
    return plots_figure(plots, run.pictures / "history.png", f"History, {config.name}")


def draw_report(run: RunFolder) -> Path | None:
    """Write the page of a run at its end; returns it, or None after a failure, which is an event and not an error."""
    try:
        records, _ = find_runs([str(run.root.absolute())])
        # Its results are written after everything else, so its status is not FINISHED yet.
        return write_report([replace(records[0], status="FINISHED")], run.report).path
    except (MgcdaError, OSError, ValueError, KeyError, TypeError) as error:
        logging.getLogger(__name__).exception("no report")
        run.say("note", f"there is no report ({type(error).__name__}: {error}); `mgcda report {run.root}` tries again")
        return None
