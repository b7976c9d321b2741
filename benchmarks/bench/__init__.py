"""Ratios of the system on processors, compared with a committed table: `python -m benchmarks.bench`."""
