"""The angle between the gradients of MDAT and of the detector in the segmenter: with each other, or against.

    python benchmarks/two_players.py runs/RUN [--batches 16]

Of global batches of the run's own streams, at its last checkpoint: the cosine between the gradient of the anomaly side
of the outlier loss and that of MDAT as the segmenter gets it, reversed. Below zero a step of MDAT raises the loss of
anomalies, as where one of two "domains" was the other with objects pasted in: -0.44, below zero in 16 of 16 batches.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mgcda_dist.build.data import global_batches
from mgcda_dist.build.model import mgcda
from mgcda_dist.config.load import load_config
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.method.terms import LossContext


def main() -> None:
    """Measure, and print one line per batch and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of your own: its checkpoint is a pickle")
    parser.add_argument("overrides", nargs="*", help="changes of its configuration, as mdat.target=hard")
    parser.add_argument("--batches", type=int, default=16)
    arguments = parser.parse_args()
    config = load_config(arguments.run / "config.yaml", arguments.overrides).config
    model = mgcda(config).train()
    checkpoint = max(path for path in (arguments.run / "checkpoints").iterdir() if (path / "engine").is_dir())
    (states,) = (checkpoint / "engine").glob("mp_rank_*_model_states.pt")
    model.load_state_dict(torch.load(states, map_location="cpu", weights_only=False)["module"], strict=False)
    cosines = [cosine(model, batch) for batch in global_batches(config, arguments.batches)]
    for number, value in enumerate(cosines):
        print(f"batch {number:2}  {value:+.3f}")
    below = sum(value < 0 for value in cosines)
    print(f"{checkpoint.name}: mean {np.mean(cosines):+.3f}, below zero in {below} of {len(cosines)}")


def cosine(model: MGCDA, batch: Batch) -> float:
    """Cosine of the two gradients over all parameters of the segmenter, at the end of training (p = 1)."""
    assert model.mdat is not None
    counts = model.count([batch])
    prediction = model.segmenter(batch.image)
    name = "outlier_anomaly"
    context = LossContext(batch.step, 1.0, batch.slot, model.seed)
    anomalies = model.segmentation_loss(prediction, batch.label.long(), context)[name] / counts.total()[f"seg/{name}"]
    aligned = model.mdat(prediction, batch, 1.0, counts).local_loss
    detector, alignment = (_gradient(loss, model) for loss in (anomalies, aligned))
    return float(torch.cosine_similarity(detector, alignment, dim=0))


def _gradient(loss: Tensor, model: MGCDA) -> Tensor:
    parameters = [parameter for parameter in model.segmenter.parameters() if parameter.requires_grad]
    parts = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten()
                      for p, g in zip(parameters, parts, strict=True)]).double()  # fmt: skip


if __name__ == "__main__":
    main()
