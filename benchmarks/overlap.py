"""One training step of two ranks under torch.profiler, as a picture: what computes while what is on its way.

    python benchmarks/overlap.py [--out docs/pictures/overlap.png] [--trace FOLDER]

A toy network with both alignments, plain gradient averaging, gloo on processors. With --trace the Chrome
traces are kept, one per rank.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.profiler import ProfilerActivity, profile, record_function

from mgcda_dist.cacl import CACL, Budget, Selection
from mgcda_dist.collectives import Collectives
from mgcda_dist.mdat import MDAT
from mgcda_dist.mgcda import MGCDA
from mgcda_dist.models.scores import energy
from mgcda_dist.models.segmentation_loss import segmentation_loss

CLASSES, DOMAINS, IMAGES = 3, 3, 12
LANES = ("forward", "discriminators", "contrast", "backward", "collectives")
COLOURS = ("#4477AA", "#66CCEE", "#228833", "#CCBB44", "#AA3377")


def _train(rank: int, size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    from examples.single_process import Network, batch

    torch.manual_seed(0)
    mdat = MDAT({"early": 64, "late": 64}, DOMAINS, channels=64)
    cacl = CACL(64, DOMAINS, Budget(CLASSES, 64, 32, 0.5, True), Selection(32, 512, 0.5, True), queue_rows=512)
    model = MGCDA(
        Network(64), segmentation_loss("energy_hinge"), energy, mdat=mdat, cacl=cacl, collectives=Collectives()
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    _name(mdat, "discriminators")
    share = cacl.share

    def named_share(*arguments: Any) -> Any:
        with record_function("contrast"):
            return share(*arguments)

    cacl.share = named_share
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for step in range(4):
            own = batch(step, rank, size, images=IMAGES)
            dist.barrier()
            with record_function("forward"):
                outcome = model(own, progress=step / 4)
                outcome.terms()
            optimizer.zero_grad()
            with record_function("backward"):
                outcome.loss.backward()
                for parameter in model.parameters():
                    dist.all_reduce(parameter.grad)
            optimizer.step()
            model.commit(outcome)
    profiler.export_chrome_trace(f"{folder}/rank-{rank}.json")
    dist.destroy_process_group()


def _name(module: torch.nn.Module, name: str) -> None:
    forward = module.forward

    def named(*arguments: Any) -> Any:
        with record_function(name):
            return forward(*arguments)

    module.forward = named


def _last_step(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Spans (start, duration; ms) per lane of the last step, from its first event."""
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("ph") == "X"]
    start = max(e["ts"] for e in events if e["name"] == "forward")
    lanes: dict[str, list[tuple[float, float]]] = {lane: [] for lane in LANES}
    for event in events:
        name = event["name"]
        lane = name if name in LANES else "collectives" if name.startswith("gloo:") else None
        if lane and event["ts"] >= start:
            lanes[lane].append(((event["ts"] - start) / 1e3, event["dur"] / 1e3))
    return lanes


def _draw(ranks: list[dict[str, list[tuple[float, float]]]], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 4.2), layout="constrained")
    labels: list[str] = []
    for rank, lanes in enumerate(ranks):
        for lane, colour in zip(LANES, COLOURS, strict=True):
            row = len(labels)
            axes.broken_barh(lanes[lane], (row - 0.4, 0.8), facecolor=colour, edgecolor="white", linewidth=0.5)
            labels.append(f"rank {rank}: {lane}")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("ms since the step began")
    axes.set_title("One step of two ranks (gloo): computation, and collectives from their start to their arrival")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Train four steps, draw the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures/overlap.png"))
    parser.add_argument("--trace", type=Path, default=None)
    arguments = parser.parse_args()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.trace or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        mp.spawn(_train, (2, port, str(folder)), 2)
        _draw([_last_step(folder / f"rank-{rank}.json") for rank in range(2)], arguments.out)


if __name__ == "__main__":
    main()
