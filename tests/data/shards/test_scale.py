"""A set of a billion samples in a million shards: opens in seconds, is planned at any step, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from mgcda_dist.data.shards.manifest import Manifest, manifest_digest
from mgcda_dist.data.shards.tables import SHARD_TABLE, ShardRow, shard_name, shard_table

NUM_SHARDS = 1_000_000
OPEN = """
import sys, time
from mgcda_dist.data.plan import StreamPlan, Plan
from mgcda_dist.data.reader import ShardReader
from mgcda_dist.data.shards.manifest import Manifest
def resident_mb(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1]) / 1024
before, start = resident_mb("VmRSS"), time.process_time()
manifest = Manifest.open(sys.argv[1])
reader = ShardReader(manifest)
plan = Plan([StreamPlan("a", manifest.shard_sizes, 16), StreamPlan("b", manifest.shard_sizes, 8)], 0, 8)
drawn = [ref.sample for t in (0, 10**6, 10**9) for ref in plan.step(t)]
seconds = time.process_time() - start
assert len(reader) == plan.stream_sizes[0] and all(0 <= sample < len(reader) for sample in drawn)
print(len(reader), manifest.shard_path(999_999).name, seconds, resident_mb("VmHWM") - before)
"""


def test_a_million_shards(tmp_path: Path) -> None:
    dtype = shard_table([ShardRow(shard_name(0), 1, 1, bytes(32))]).dtype
    table = np.zeros(NUM_SHARDS, dtype)
    table["name"] = [shard_name(i).encode() for i in range(NUM_SHARDS)]
    table["num_samples"], table["num_bytes"] = 1000, 10**8
    np.save(tmp_path / SHARD_TABLE, table)
    digest = manifest_digest(table, "frames", "toy", "train", "binary")
    Manifest(tmp_path, "frames", "toy", "train", "binary", 10**9, NUM_SHARDS, 10**14, digest).save()
    run = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], check=True, capture_output=True, text=True)
    total, name, seconds, grown_mb = run.stdout.split()
    assert (int(total), name) == (10**9, "shard-999999.tar")
    # What the libraries themselves take is not counted: torch alone has several hundred megabytes.
    assert float(seconds) < 5 and float(grown_mb) < 200
