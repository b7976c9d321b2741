"""A set of a billion samples in a million shards: opens at once, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from mgcda_dist.data.shards.manifest import Manifest
from mgcda_dist.data.shards.tables import SHARD_TABLE, ShardRow, shard_name, shard_table

NUM_SHARDS = 1_000_000
OPEN = """
import sys, time
from mgcda_dist.data.shards.manifest import Manifest
start = time.perf_counter()
manifest = Manifest.open(sys.argv[1])
total = int(manifest.shard_sizes.sum(dtype="int64"))
path = manifest.shard_path(999_999)
seconds = time.perf_counter() - start
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(total, path.name, seconds, int(peak) / 1024)
"""


def test_a_million_shards(tmp_path: Path) -> None:
    dtype = shard_table([ShardRow(shard_name(0), 1, 1, bytes(32))]).dtype
    table = np.zeros(NUM_SHARDS, dtype)
    table["name"] = [shard_name(i).encode() for i in range(NUM_SHARDS)]
    table["num_samples"], table["num_bytes"] = 1000, 10**8
    np.save(tmp_path / SHARD_TABLE, table)
    Manifest(tmp_path, "frames", "toy", "train", "binary", 10**9, NUM_SHARDS, 10**14, "0").save()
    run = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], check=True, capture_output=True, text=True)
    total, name, seconds, peak_mb = run.stdout.split()
    assert (int(total), name) == (10**9, "shard-999999.tar")
    assert float(seconds) < 2 and float(peak_mb) < 200
