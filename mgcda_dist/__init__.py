"""MGCDA, distributed: multi-granularity cross-domain alignment for road anomaly segmentation (arXiv 2308.08696).

    import mgcda_dist as mg

    run = mg.train("configs/demo.yaml")
    print(run.results.sets["real_val"].metrics["ap"])

What `__all__` names is the public API, and follows semantic versioning: docs/python.md. All else may change between
any two versions. A name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mgcda_dist.api.comparison import compare
    from mgcda_dist.api.configuration import load_config
    from mgcda_dist.api.evaluation import evaluate
    from mgcda_dist.api.exporting import export
    from mgcda_dist.api.prediction import ImagePrediction, load_model, predict, predict_files
    from mgcda_dist.api.run import Run
    from mgcda_dist.api.training import train
    from mgcda_dist.api.wrap import wrap
    from mgcda_dist.callbacks import Callback, StopTraining
    from mgcda_dist.config.schema import Config
    from mgcda_dist.errors import (
        CheckpointError,
        ConfigError,
        MgcdaError,
        NodesLostError,
        SampleError,
        ShardError,
        StoppedError,
    )
    from mgcda_dist.evaluation.results import EvaluationResults
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.inference.predict import Predicted
    from mgcda_dist.method.batch import Batch, Prediction
    from mgcda_dist.method.cacl.loss import CACL
    from mgcda_dist.method.forwards import ForwardContext
    from mgcda_dist.method.mdat.loss import MDAT
    from mgcda_dist.method.mgcda import MGCDA
    from mgcda_dist.method.terms import LossContext, Term
    from mgcda_dist.models.external import ExternalNetwork
    from mgcda_dist.models.scores import Score
    from mgcda_dist.models.segmentation_loss import OutlierLoss
    from mgcda_dist.models.taps import Taps
    from mgcda_dist.reports.compare import Comparison

__version__ = "0.1.0"
__all__ = [
    "CACL",
    "MDAT",
    "MGCDA",
    "Batch",
    "Callback",
    "CheckpointError",
    "Comparison",
    "Config",
    "ConfigError",
    "EvaluationResults",
    "ExportedModel",
    "ExternalNetwork",
    "ForwardContext",
    "ImagePrediction",
    "LossContext",
    "MgcdaError",
    "NodesLostError",
    "OutlierLoss",
    "Predicted",
    "Prediction",
    "Run",
    "SampleError",
    "Score",
    "ShardError",
    "StopTraining",
    "StoppedError",
    "Taps",
    "Term",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "load_config",
    "load_model",
    "predict",
    "predict_files",
    "train",
    "wrap",
]
_PLACES = {
    "Batch": "method.batch",
    "CACL": "method.cacl.loss",
    "Callback": "callbacks",
    "CheckpointError": "errors",
    "Comparison": "reports.compare",
    "Config": "config.schema",
    "ConfigError": "errors",
    "EvaluationResults": "evaluation.results",
    "ExportedModel": "inference.model",
    "ExternalNetwork": "models.external",
    "ForwardContext": "method.forwards",
    "ImagePrediction": "api.prediction",
    "LossContext": "method.terms",
    "MDAT": "method.mdat.loss",
    "MGCDA": "method.mgcda",
    "MgcdaError": "errors",
    "NodesLostError": "errors",
    "OutlierLoss": "models.segmentation_loss",
    "Predicted": "inference.predict",
    "Prediction": "method.batch",
    "Run": "api.run",
    "SampleError": "errors",
    "Score": "models.scores",
    "ShardError": "errors",
    "StopTraining": "callbacks",
    "StoppedError": "errors",
    "Taps": "models.taps",
    "Term": "method.terms",
    "compare": "api.comparison",
    "evaluate": "api.evaluation",
    "export": "api.exporting",
    "load_config": "api.configuration",
    "load_model": "api.prediction",
    "predict": "api.prediction",
    "predict_files": "api.prediction",
    "train": "api.training",
    "wrap": "api.wrap",
}
"""Public name → module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
