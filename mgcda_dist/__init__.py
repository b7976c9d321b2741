"""MGCDA, distributed: multi-granularity cross-domain alignment for road anomaly segmentation (arXiv 2308.08696)."""

__version__ = "0.1.0"
__all__ = ["__version__"]
