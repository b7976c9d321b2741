"""CACL, sample level: anomaly-aware, cross-domain contrastive learning with a memory."""

from mgcda_dist.cacl.loss import CACL
from mgcda_dist.cacl.queue import MemoryQueue, Rows
from mgcda_dist.cacl.sampler import Budget
from mgcda_dist.cacl.selection import Negatives, Selection

__all__ = ["CACL", "Budget", "MemoryQueue", "Negatives", "Rows", "Selection"]
