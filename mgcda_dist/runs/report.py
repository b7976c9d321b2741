"""The report of a run at its end: a page beside its results, and in MLflow under `report/`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from mgcda_dist.errors import MgcdaError
from mgcda_dist.reports.html import write_report
from mgcda_dist.reports.runs import find_runs
from mgcda_dist.runs.folder import RunFolder

__all__ = ["draw_report"]


def draw_report(run: RunFolder) -> Path | None:
    """Write the page; a failure is an event of the run and not an error.

    Returns:
        The HTML file, or None.
    """
    try:
        records, _ = find_runs([str(run.root.absolute())])
        # Its results are written after everything else, so its status is not FINISHED yet.
        return write_report([replace(records[0], status="FINISHED")], run.report).path
    except (MgcdaError, OSError, ValueError, KeyError, TypeError) as error:
        logging.getLogger(__name__).exception("no report")
        run.say("note", f"there is no report ({type(error).__name__}: {error}); `mgcda report {run.root}` tries again")
        return None
