"""The record of a run: a jsonl file always, MLflow when it is there; neither can stop the training."""
