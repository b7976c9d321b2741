"""Training: the loop, the DeepSpeed engine, Ray Train, checkpoints, health."""
