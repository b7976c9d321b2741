"""Evaluation: pixel, component and instance metrics, mIoU, intervals over images, and the record of results."""
