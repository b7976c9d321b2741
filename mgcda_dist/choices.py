"""What a label can be besides a class: the three values that are the same in every class space."""

from __future__ import annotations

__all__ = ["ANOMALY", "INLIER", "VOID"]

ANOMALY = 254
"""Label of an anomalous pixel."""
VOID = 255
"""Label of a pixel that nobody judges: neither trained nor evaluated."""
INLIER = 253
"""Label of a normal pixel whose class is unknown: evaluated as normal, never trained, not counted in mIoU."""
