"""Use of trained networks: loading, prediction, export. Needs torch, timm and pydantic, and no training code."""
