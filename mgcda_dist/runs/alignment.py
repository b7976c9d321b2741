"""The domain gap before and after training: pixels of all domains, embedded by both networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from mgcda_dist.choices import ANOMALY
from mgcda_dist.method.batch import Batch, label_on_grid
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.reports.alignment import EmbeddedPixels, alignment_figure, domain_accuracy

__all__ = ["draw_alignment"]

_PIXELS_PER_TYPE = 24  # of one image
_NO_CLASS, _FOREIGN = -1, -2


def draw_alignment(
    networks: Mapping[str, nn.Module],
    batches: Sequence[Batch],
    path: Path,
    *,
    domains: Sequence[str],
    classes: Sequence[str],
    seed: int,
    title: str,
) -> list[float]:
    """Draw embeddings of the same pixels by several networks, in one process; returns `domain_accuracy` of each.

    Args:
        networks: by heading, each on the device where it is to run.
        batches: images of all domains.
        path: PNG to write.
        domains: their names, in the order of their numbers.
        classes: inlier classes in train-id order.
        seed: chooses the pixels.
    """
    moments = {
        heading: _embed(network.eval(), batches, len(domains), len(classes), seed)
        for heading, network in networks.items()
    }
    alignment_figure(moments, list(domains), tuple(classes), path, title=title)
    return [domain_accuracy(pixels, len(domains), len(classes)) for pixels in moments.values()]


@torch.no_grad()
def _embed(
    network: nn.Module, batches: Sequence[Batch], num_domains: int, num_classes: int, seed: int
) -> EmbeddedPixels:
    """The same pixels for every network: they are chosen by labels and by chance.

    Pixels of another image, which class mix has put there, would show the wrong domain: they are left out.
    """
    embeddings: list[torch.Tensor] = []
    domains: list[torch.Tensor] = []
    types: list[torch.Tensor] = []
    images: list[torch.Tensor] = []
    seen = [0] * num_domains
    device = next(network.parameters()).device
    for batch in batches:
        embedding = F.normalize(network(batch.image.to(device)).embedding.float(), dim=1).cpu()
        size = embedding.shape[2], embedding.shape[3]
        label, foreign = (label_on_grid(each, size).flatten(1) for each in (batch.label, batch.is_foreign))
        label = torch.where(label == ANOMALY, num_classes, torch.where(label < num_classes, label, _NO_CLASS))
        label = torch.where(foreign == 1, _FOREIGN, label)
        generator = torch_generator(seed, "alignment", batch.step)
        for image, domain in enumerate(batch.domain.tolist()):
            order = torch.randperm(label.shape[1], generator=generator)
            for kind in label[image].unique().tolist():
                if kind == _FOREIGN:
                    continue
                chosen = order[label[image, order] == kind][: _PIXELS_PER_TYPE * (4 if kind == _NO_CLASS else 1)]
                embeddings.append(embedding[image].flatten(1)[:, chosen].T)
                domains.append(torch.full((len(chosen),), domain))
                types.append(torch.full((len(chosen),), kind))
                images.append(torch.full((len(chosen),), seen[domain]))
            seen[domain] += 1
    return EmbeddedPixels(*(torch.cat(each).numpy() for each in (embeddings, domains, types, images)))
