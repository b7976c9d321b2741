"""Checkpoints: snapshots in host memory, a background writer, a store with atomic commit, and resuming."""
