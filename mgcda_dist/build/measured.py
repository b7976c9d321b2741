"""A trained model with a head that is measured on frames: a bank of features beside the weights, for a score of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mgcda_dist.build.evaluation import evaluation_frames
from mgcda_dist.build.model import load_model
from mgcda_dist.config.model import HeadConfig
from mgcda_dist.config.run import EvaluationSetConfig
from mgcda_dist.data.pixels import InputSize
from mgcda_dist.errors import ConfigError
from mgcda_dist.references import expanded
from mgcda_dist.trust import validated

if TYPE_CHECKING:
    from torch import Tensor

    from mgcda_dist.models.heads import HeadSpec

__all__ = ["add_measured_head"]


def add_measured_head(
    model: Path,
    out: Path,
    head: Mapping[str, Any],
    score: str,
    data: EvaluationSetConfig,
    device: Any = "cpu",
    show: Callable[[int, int], None] = lambda done, of: None,
) -> HeadConfig:
    """Measure a head and write the model with it to `out`, whose scores are then `score`.

    Args:
        model: folder of the exported model, which stays as it is.
        head: an entry of `model.heads`, with the class of `models.measured.MeasuredHead`.
        score: that reads the head; `plugin:NAME` or `python:MODULE:NAME`.
        data: labelled frames, best of the training data.
        device: that the network runs on.
        show: called with the number of frames done, and of those of both passes.

    Returns:
        The head as it was made.

    Raises:
        ConfigError: a head that cannot be measured, frames of which nothing can be, or a score that reads other heads.
    """
    import torch

    from mgcda_dist.models.exported import read_metadata, save_segmenter
    from mgcda_dist.models.measured import with_measured_head
    from mgcda_dist.models.scores import check_reads, scorer

    chosen = validated(HeadConfig, expanded(dict(head), "head"), "head", error=ConfigError)
    reference: str = expanded(score, "score")
    config, network = load_model(model)
    size = InputSize(config.evaluation.height_px, config.evaluation.longest_side_px)
    frames = evaluation_frames(data, config.data, size)
    of, passed = 2 * len(frames), iter(range(1, 1 << 62))

    def images() -> Iterator[tuple[Tensor, Tensor]]:
        for frame in (frames[i] for i in range(len(frames))):
            image = torch.from_numpy(frame.image).permute(2, 0, 1).unsqueeze(0)
            yield image.to(device), torch.from_numpy(frame.label).long().unsqueeze(0).to(device)
            show(next(passed), of)

    spec: HeadSpec = {"use": chosen.use, "stage": chosen.stage, "arguments": chosen.arguments}
    headed, specs = with_measured_head(network.to(device), chosen.name, spec, images, "head")
    with torch.no_grad():
        image = torch.zeros(1, 3, *headed.example_size, dtype=torch.uint8, device=device)
        reader = scorer(reference)
        check_reads("the score", "score", reader.reads, headed(image).extra, getattr(reader, "remedy", ""))
    assert frames.manifest is not None
    origin = {
        "frames": len(frames), "height_px": size.height_px, "longest_side_px": size.longest_side_px,
        "dataset": frames.manifest.dataset, "split": frames.manifest.split, "manifest_digest": frames.manifest.digest,
    }  # fmt: skip
    was = read_metadata(model)
    content = was.config | {"model": was.config["model"] | {"score": reference}}
    metadata = replace(
        was,
        score=reference,
        config=content,
        architecture=was.architecture | {"heads": specs},
        operating_points=(),
        measured_heads=(was.measured_heads or {}) | {chosen.name: origin},
    )
    save_segmenter(headed, metadata, out)
    return chosen.model_copy(update={"arguments": specs[chosen.name].get("arguments", {})})
