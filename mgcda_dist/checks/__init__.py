"""Checks before a run: networks, losses, scores, crops, data and switches that do not fit the configuration."""

from mgcda_dist.checks.data import DataProblem, check_data, check_dataset
from mgcda_dist.checks.model import check_model, doubts

__all__ = ["DataProblem", "check_data", "check_dataset", "check_model", "doubts"]
