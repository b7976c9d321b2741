"""Looks at a cluster before hours are spent on it: every node, what they share, and how fast they talk."""
