"""Pictures of what was measured: reads run records only, never torch."""
