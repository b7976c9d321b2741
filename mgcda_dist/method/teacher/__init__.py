"""The unlabelled side: an average of the segmenter over training steps, the teacher."""

from mgcda_dist.method.teacher.average import Teacher

__all__ = ["Teacher"]
