"""MDAT, scene level: multi-source domain adversarial training with dynamic label smoothing."""

from mgcda_dist.method.mdat.loss import MDAT
from mgcda_dist.method.mdat.smoothing import LabelSmoothing

__all__ = ["MDAT", "LabelSmoothing"]
