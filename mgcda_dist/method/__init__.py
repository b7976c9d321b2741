"""The method: MGCDA around any segmenter. Pure torch; usable in any other project without the rest of the package."""

from mgcda_dist.method.batch import Batch, Prediction
from mgcda_dist.method.cacl import CACL
from mgcda_dist.method.mdat import MDAT
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["CACL", "MDAT", "MGCDA", "Batch", "Prediction"]
