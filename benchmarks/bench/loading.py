"""The loader against a bare loop that decodes and augments the same frames: benchmarks/stream.py, on generated ones."""

from __future__ import annotations

import cv2
import torch

from benchmarks import stream
from benchmarks.bench.ratios import Ratio, note
from benchmarks.bench.setting import Setting
from benchmarks.sections import Findings
from mgcda_dist.data.shards.manifest import Manifest

__all__ = ["loader"]


def loader(setting: Setting, found: Findings) -> None:
    """One loader process against one process that has its bytes in memory."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    manifests = [Manifest.open(setting.shards / name / "train") for name in ("render_a", "render_b")]
    objects = Manifest.open(setting.shards / "objects" / "train")
    whole = stream.build_stream(manifests, objects, "road8", 6 if setting.tiny else 60)
    turns = stream.loading_turns(whole, 1, setting.turns(9, 120.0))
    wall = [turn["loader"][0] / turn["bare"][0] for turn in turns]
    processor = [turn["loader"][1] / turn["bare"][1] for turn in turns]
    note(found, Ratio.over("loader / bare loop of decoding, wall time", wall, "wall time", at_least=0.95))
    note(found, Ratio.over("loader / bare loop of decoding, processor time", processor, "processor time"))
    found.fact("images/s of the loader, best turn", max(turn["loader"][0] for turn in turns))
