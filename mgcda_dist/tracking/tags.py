"""Names of tags that several rooms write or read: MLflow's own, and those of this package."""

from __future__ import annotations

from typing import Final

__all__ = ["Tag"]


class Tag:
    """Names of tags."""

    NOTE: Final = "mlflow.note.content"
    """Description of a run, an experiment or a model's version, as Markdown."""
    PARENT: Final = "mlflow.parentRunId"
    COMMIT: Final = "mlflow.source.git.commit"

    COMMAND: Final = "mgcda.command"
    EVALUATION: Final = "mgcda.evaluation"
    """Names of the evaluation sets."""
    GIT_CLEAN: Final = "mgcda.git_clean"
    """`true` if no tracked file differs from the commit."""
    HARDWARE: Final = "mgcda.hardware"
    HOST: Final = "mgcda.host"
    METHOD: Final = "mgcda.method"
    PACKAGES: Final = "mgcda.packages"
    RUN_FOLDER: Final = "mgcda.run_folder"
    SWEEP: Final = "mgcda.sweep"
    """Of the run that stands over the runs of a sweep: the sweep's name. It has no results of its own."""
    VERSION: Final = "mgcda.version"
