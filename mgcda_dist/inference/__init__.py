"""Use of trained networks: loading, prediction, export. Needs torch, timm, pydantic and what they need, no training code."""
