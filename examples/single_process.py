"""MGCDA around your own network, in one process: no launcher, no process group, no configuration.

    python examples/single_process.py

Needed of you: a module that returns `Prediction`, and batches that say which domain each image comes from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mgcda_dist.method.batch import ANOMALY, VOID, Batch, Prediction
from mgcda_dist.method.cacl import CACL, Budget, Selection
from mgcda_dist.method.mdat import MDAT
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.randomness import torch_generator
from mgcda_dist.models.scores import scorer
from mgcda_dist.models.segmentation_loss import segmentation_loss

CLASSES, DOMAINS, STEPS = 3, 3, 20


class Network(nn.Module):
    """Any segmenter: class logits, the feature maps to align, and dense features to contrast."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.SiLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU())
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, image: Tensor) -> Prediction:
        """Images of 0 … 255."""
        stem = self.stem(image / 255 - 0.5)
        features = self.body(stem)
        return Prediction(self.head(features), {"early": stem, "late": features}, features)


def mgcda() -> MGCDA:
    """The network with both alignments; the same parameters on every rank."""
    torch.manual_seed(0)
    return MGCDA(
        Network(),
        segmentation_loss("energy_hinge", CLASSES, limits={"inlier_energy": -3.0, "outlier_energy": -1.0}),
        scorer("energy"),
        mdat=MDAT({"early": 16, "late": 16}, DOMAINS, channels=16),
        cacl=CACL(
            16,
            DOMAINS,
            Budget(CLASSES, anomaly_pixels=8, inlier_pixels=4),
            Selection(num_positives=8, num_negatives=32),
            queue_rows=64,
        ),
    )


def batch(step: int, rank: int = 0, size: int = 1, images: int = 12) -> Batch:
    """A rank's slice of toy batch number `step`: grey levels are classes, tints are domains, domain 2 has no labels."""
    random = torch_generator("toy", step)
    label = torch.randint(CLASSES, (images, 4, 6), generator=random)
    domain = torch.arange(images) % DOMAINS
    tint = 15.0 * torch.eye(DOMAINS)[domain].view(images, 3, 1, 1)
    label = label.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    image = 70.0 * label.unsqueeze(1) + tint + 20 * torch.rand(images, 3, 32, 48, generator=random)
    image[::2, :, 8:18, 10:22] = torch.tensor([230.0, 20.0, 120.0]).view(3, 1, 1)  # what no class looks like
    label[::2, 8:18, 10:22] = ANOMALY
    label[domain == 2] = VOID
    own = slice(rank * images // size, (rank + 1) * images // size)
    return Batch(image[own], label[own], domain[own], torch.arange(images)[own], step)


def main() -> None:
    """Train."""
    model = mgcda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(STEPS):
        outcome = model(batch(step), progress=step / STEPS)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        totals = model.total([outcome])
        model.commit([outcome], totals)  # the memory and the running accuracies move once the step is accepted
        print(step, *(f"{name}={value:.4f}" for name, value in totals.scalars().items()))
    # `model.segmenter` is the bare network again: nothing of MGCDA is left in it.


if __name__ == "__main__":
    main()
