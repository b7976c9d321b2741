"""Check of one GPU, with measurements of the method and its engine on it: `python -m benchmarks.gpu`."""
