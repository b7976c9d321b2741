"""What training has done to the domain gap: pixels of all domains, embedded by the network before and after."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mgcda_dist import build
from mgcda_dist.config.schema import Config
from mgcda_dist.method.batch import ANOMALY, Batch
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.reports.alignment import EmbeddedPixels, alignment_figure, domain_accuracy

__all__ = ["draw_alignment"]

_PIXELS_PER_TYPE = 24  # of one image


def draw_alignment(config: Config, model: Path, path: Path, device: torch.device) -> dict[str, float]:
    """Draw embeddings of the stream's first images; one process does it alone.

    Args:
        config: of the run; `tracking.alignment_steps` says how many global batches are read.
        model: folder of the trained network.
        path: PNG to write.
        device: where to run the networks.

    Returns:
        `align/domain_accuracy_before` and `…_after`: see `domain_accuracy`.
    """
    data = config.data.model_copy(update={"loader_workers": 0, "pin_memory": False})
    optim = config.optim.model_copy(update={"steps": config.tracking.alignment_steps})
    engine = config.engine.model_copy(update={"accumulation": 1})
    batches = list(
        build.training_stream(config.model_copy(update={"data": data, "optim": optim, "engine": engine}), 0, 1)
    )
    _, trained = build.load_model(model)
    networks = {"before training": build.segmenter(config), "after": trained}
    moments = {heading: _embed(network.to(device).eval(), batches, config) for heading, network in networks.items()}
    domains, classes = [domain.name for domain in config.data.domains], config.data.class_names
    alignment_figure(moments, domains, classes, path, title=f"Embeddings of training pixels, {config.name}")
    before, after = (domain_accuracy(pixels, len(domains), len(classes)) for pixels in moments.values())
    return {"align/domain_accuracy_before": before, "align/domain_accuracy_after": after}


@torch.no_grad()
def _embed(network: nn.Module, batches: list[Batch], config: Config) -> EmbeddedPixels:
    """The same pixels for every network: they are chosen by labels and by chance."""
    num_classes = len(config.data.class_names)
    embeddings: list[torch.Tensor] = []
    domains: list[torch.Tensor] = []
    types: list[torch.Tensor] = []
    images: list[torch.Tensor] = []
    seen = [0] * len(config.data.domains)
    device = next(network.parameters()).device
    for batch in batches:
        embedding = F.normalize(network(batch.image.to(device)).embedding.float(), dim=1).cpu()
        size = embedding.shape[2:]
        label = F.interpolate(batch.label[:, None].float(), size=size, mode="nearest-exact")[:, 0].long().flatten(1)
        label = torch.where(label == ANOMALY, num_classes, torch.where(label < num_classes, label, -1))
        generator = torch_generator(config.seed, "alignment", batch.step)
        for image, domain in enumerate(batch.domain.tolist()):
            order = torch.randperm(label.shape[1], generator=generator)
            for kind in label[image].unique().tolist():
                chosen = order[label[image, order] == kind][: _PIXELS_PER_TYPE * (4 if kind < 0 else 1)]
                embeddings.append(embedding[image].flatten(1)[:, chosen].T)
                domains.append(torch.full((len(chosen),), domain))
                types.append(torch.full((len(chosen),), kind))
                images.append(torch.full((len(chosen),), seen[domain]))
            seen[domain] += 1
    return EmbeddedPixels(*(torch.cat(each).numpy() for each in (embeddings, domains, types, images)))
