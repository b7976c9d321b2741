"""Use of trained networks: loading, prediction, export. Needs torch, timm and their dependencies, no training code."""
