"""Trained networks in use: loading, scoring, export. Needs torch, timm and what they bring; nothing of the training."""
