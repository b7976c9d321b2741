"""CACL, sample level: anomaly-aware, cross-domain contrastive learning with a memory."""

from mgcda_dist.method.cacl.loss import CACL
from mgcda_dist.method.cacl.queue import MemoryQueue, PixelMetadata
from mgcda_dist.method.cacl.sampler import Budget
from mgcda_dist.method.cacl.selection import Selection

__all__ = ["CACL", "Budget", "MemoryQueue", "PixelMetadata", "Selection"]
