"""The unlabelled side: an average of the segmenter over training steps, the teacher, labels unlabelled images."""

from mgcda_dist.method.teacher.average import Teacher

__all__ = ["Teacher"]
