"""Faults injected into a real run, and whether it ends as if nothing had happened: `mgcda chaos`."""
