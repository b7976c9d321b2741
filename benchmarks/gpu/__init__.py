"""What one GPU says of the method and its engine: `python -m benchmarks.gpu`."""
