"""Checks of a cluster before a run: every node, what the nodes share, and how fast they communicate."""
