"""The pictures of a run: panel, PR and ROC curves per evaluation set, and the history of losses and health."""
from pathlib import Path
def draw(results, config, folder): return []
def draw_history(run): return run.metrics
