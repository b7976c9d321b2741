"""Modules in memory as segmenters that can be evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mgcda_dist.build.evaluation import bare_set
from mgcda_dist.choices import CLASS_SPACES, SCORE, KnownClassSpace
from mgcda_dist.config.run import EvaluationConfig, EvaluationSetConfig
from mgcda_dist.errors import ConfigError
from mgcda_dist.evaluation.job import EvaluationJob
from mgcda_dist.evaluation.results import EvaluationSettings, NetworkSettings
from mgcda_dist.evaluation.test_time import TestTimeAugmentation
from mgcda_dist.method.batch import Prediction
from mgcda_dist.runs.evaluation_request import EvaluationOptions, section_of

__all__ = ["as_segmenter", "module_job"]


class _Logits(nn.Module):
    """A module that returns logits, or `Prediction`, as one that returns `Prediction`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Prediction:
        found = self.network(image)
        if isinstance(found, Prediction):
            return found
        if not isinstance(found, Tensor) or found.ndim != 4:
            shown = "×".join(map(str, found.shape)) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ConfigError(
                type(self.network).__name__, f"returns {shown}", "return logits N×C×h×w, or `Prediction`; see `wrap`"
            )
        return Prediction(found, {}, found)


def as_segmenter(network: nn.Module) -> tuple[nn.Module, torch.device]:
    """The module as a segmenter, and the device of its parameters."""
    first = next(network.parameters(), None)
    return _Logits(network), torch.device("cpu") if first is None else first.device


def module_job(
    network: nn.Module,
    sets: Sequence[EvaluationSetConfig],
    options: EvaluationOptions,
    name: str,
    class_space: KnownClassSpace | None,
) -> EvaluationJob:
    """The evaluation of a module, which is given to `run_job` beside it.

    Raises:
        ConfigError: no set, or an option that cannot be.
    """
    if not sets:
        raise ConfigError("shards", "a module names no sets to evaluate on", "give the shards")
    section = section_of(EvaluationConfig(), sets, options)
    how = TestTimeAugmentation(tuple(section.scales), section.flip, section.window_px, section.window_overlap)
    return EvaluationJob(
        name=name,
        path="",
        sets=tuple(bare_set(entry, len(CLASS_SPACES[class_space]) if class_space else 0) for entry in section.sets),
        settings=EvaluationSettings(
            conventions=tuple(section.conventions),
            score=options.score or SCORE,
            components=section.components,
            instances=section.instances,
            threshold=section.threshold,
            network=NetworkSettings(section.height_px, how, section.blur),
        ),
        class_space=class_space,
        class_names=CLASS_SPACES[class_space] if class_space else (),
        kept_frames=section.kept_frames,
        digest=_digest(network),
    )


def _digest(network: nn.Module) -> str:
    """SHA-256 of its tensors, by name."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
