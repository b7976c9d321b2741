"""Ray: connects to a cluster, starts the workers of a run, watches and recovers them, and runs sweeps."""
