"""The domain gap under several runs: how well a linear probe tells the domain of a pixel from its embedding.

    python benchmarks/domain_gap.py runs/A runs/B … [--batches 12] [--out gap.png]

All are shown the same images, the scenes of the first run's streams without pasted objects, class mix or styles, and so
is the network that none of them has trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import nn

from mgcda_dist import build
from mgcda_dist.config.load import load_config
from mgcda_dist.runs.alignment import draw_alignment


def main() -> None:
    """Measure, print a line per network, and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs on the same domains")
    parser.add_argument("--batches", type=int, default=12, help="global batches of images")
    parser.add_argument("--out", type=Path, default=Path("domain_gap.png"), help="picture to write")
    arguments = parser.parse_args()
    config = load_config(arguments.runs[0] / "config.yaml", []).config
    networks: dict[str, nn.Module] = {"before training": build.segmenter(config)}
    for run in arguments.runs:
        networks[run.name if run.name not in networks else str(run)] = build.load_model(run / "model")[1]
    accuracies = draw_alignment(
        networks,
        list(build.scene_batches(config, arguments.batches)),
        arguments.out,
        domains=config.data.domains,
        classes=config.data.class_names,
        seed=config.seed,
        title="Embeddings of the same pixels",
    )
    for name, accuracy in zip(networks, accuracies, strict=True):
        print(f"{name:24} {accuracy:.1%}")
    print(f"chance {1 / len(config.data.domains):.0%}; {arguments.out}")


if __name__ == "__main__":
    main()
