"""One training step of two ranks under torch.profiler, as a picture: what computes while what is on its way.

    python benchmarks/overlap.py [--out docs/pictures/overlap.png] [--trace FOLDER]

A toy network with both alignments, plain gradient averaging, gloo on processors. It also prints how long CACL's rows
travel, and for how much of that nothing is computed. With --trace the Chrome traces are kept, one per rank.
"""

from __future__ import annotations

import argparse
import json
import socket
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.profiler import ProfilerActivity, profile, record_function

from mgcda_dist.method.batch import Batch
from mgcda_dist.method.cacl import CACL, Budget, Selection
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.method.mdat import MDAT
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.models.scores import scorer
from mgcda_dist.models.segmentation_loss import segmentation_loss

CLASSES, DOMAINS, IMAGES, STEPS, ENLARGED = 3, 3, 12, 4, 4
LANES = {
    "forward": "#4477AA", "discriminators": "#66CCEE", "contrast": "#228833", "backward": "#CCBB44",
    "gradients": "#BBBBBB", "rows travel": "#AA3377", "waits for rows": "#000000", "sums travel": "#EE6677",
}  # fmt: skip
"""Lane → colour."""
WAITS = ("_WaitGather", "_StartGatherBackward")
"""The profiler's names of the forward and backward pass that wait for rows (`mgcda_dist.method.collectives`)."""
Spans = dict[str, list[tuple[float, float]]]
"""Lane → (start, duration), ms."""


def _train(rank: int, size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    from examples.single_process import Network, batch

    torch.manual_seed(0)
    mdat = MDAT({"early": 64, "late": 64}, DOMAINS, channels=128)
    cacl = CACL(64, DOMAINS, Budget(CLASSES, 64, 32, 0.5, True), Selection(32, 512, 0.5, True), queue_rows=512)
    model = MGCDA(
        Network(64),
        segmentation_loss("energy_hinge", CLASSES),
        scorer("energy"),
        mdat=mdat,
        cacl=cacl,
        collectives=Collectives(),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    _name(mdat, "forward", "discriminators")
    _name(cacl, "contrast", "contrast")
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for step in range(STEPS):
            own = _enlarged(batch(step, rank, size, images=IMAGES))
            dist.barrier()
            with record_function("forward"):
                outcome = model(own, progress=step / STEPS)
                totals = model.total([outcome])
                totals.scalars()
            optimizer.zero_grad()
            with record_function("backward"):
                outcome.loss.backward()
            with record_function("gradients"):
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    dist.all_reduce(parameter.grad)
            optimizer.step()
            model.commit([outcome], totals)
    profiler.export_chrome_trace(f"{folder}/rank-{rank}.json")
    dist.destroy_process_group()


def _enlarged(batch: Batch) -> Batch:
    """Frames of 128×192: of a thumbnail the discriminators would be done before anything can travel."""
    image = batch.image.repeat_interleave(ENLARGED, dim=2).repeat_interleave(ENLARGED, dim=3)
    label = batch.label.repeat_interleave(ENLARGED, dim=1).repeat_interleave(ENLARGED, dim=2)
    return replace(batch, image=image, label=label)


def _name(module: torch.nn.Module, method: str, name: str) -> None:
    original = getattr(module, method)

    def named(*arguments: Any) -> Any:
        with record_function(name):
            return original(*arguments)

    setattr(module, method, named)


def _last_step(path: Path) -> Spans:
    """Spans per lane of the last step, from its first event."""
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e.get("ph") == "X"]
    began = {name: max(e["ts"] for e in events if e["name"] == name) for name in ("forward", "backward", "gradients")}
    lanes: Spans = {lane: [] for lane in LANES}
    for event in events:
        name, start = event["name"], event["ts"]
        if start < began["forward"]:
            continue
        if name.startswith("gloo:"):
            # gloo makes a reduce-scatter of an all-reduce; in the backward pass there is no other.
            rows = name == "gloo:all_gather" or began["backward"] < start < began["gradients"]
            name = "rows travel" if rows else "sums travel"
        elif name in WAITS:
            name = "waits for rows"
        if name in lanes:
            lanes[name].append(((start - began["forward"]) / 1e3, event["dur"] / 1e3))
    return lanes


def _waited(lanes: Spans) -> str:
    """Duration of the all-gather, and the part of it in which nothing else is computed."""
    travels, waits = (sum(duration for _, duration in lanes[lane]) for lane in ("rows travel", "waits for rows"))
    return f"rows travel for {travels:.1f} ms, {waits:.1f} ms of them nothing is computed"


def _draw(ranks: list[Spans], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5.6), layout="constrained")
    labels: list[str] = []
    for rank, lanes in enumerate(ranks):
        for lane, colour in LANES.items():
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
        spawn(_train, (2, port, str(folder)), 2)
        ranks = [_last_step(folder / f"rank-{rank}.json") for rank in range(2)]
        for rank, lanes in enumerate(ranks):
            print(f"rank {rank}: {_waited(lanes)}")
        _draw(ranks, arguments.out)


if __name__ == "__main__":
    main()
