"""One shard from its source samples: their checksum, their encoding, and the file; here or on another node."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgcda_dist.choices import ShardKind
from mgcda_dist.data.shards.encode import EncodedSample, EncodeOptions, encode_sample
from mgcda_dist.data.shards.journal import FinishedShard
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.tar import ShardWriter
from mgcda_dist.errors import ShardError

__all__ = ["MapJobs", "ReadySample", "ShardJob", "WrittenShard", "prepare", "run_job", "write_shard"]


class ReadySample(NamedTuple):
    """A sample ready to be written: key, checksum of the source, and its encoding unless its shard is there."""

    key: str
    fingerprint: bytes
    encoded: EncodedSample | None


@dataclass(frozen=True)
class ShardJob:
    """The facts that a node needs to make one shard; picklable.

    Attributes:
        samples: those of the shard.
        path: of the tar file, absolute, on storage that all nodes see.
        options, kind: as for the whole write.
        written: the shard is there; its source is only read, to see that it is still the same.
    """

    samples: LazySamples
    path: Path
    options: EncodeOptions
    kind: ShardKind
    written: bool


class WrittenShard(NamedTuple):
    """Keys of the samples of a shard, checksum (hex) of their source, and the shard unless it was there before."""

    keys: list[str]
    source: str
    shard: FinishedShard | None


MapJobs = Callable[[Callable[[ShardJob], WrittenShard], Iterable[ShardJob]], Iterator[WrittenShard]]
"""Applies a function to jobs, anywhere and in any order; the results in the order of the jobs."""


def run_job(job: ShardJob) -> WrittenShard:
    """Make the shard of a job, or only the checksum of its source.

    Raises:
        ShardError: as `write_shards`; or a file that this node does not see.
    """
    keys, digest = list[str](), hashlib.sha256()

    def samples() -> Iterator[ReadySample]:
        for load in job.samples.loaders():
            ready = prepare(load(), job.options, job.kind, encode=not job.written)
            keys.append(ready.key)
            digest.update(ready.fingerprint)
            yield ready

    try:
        shard = write_shard(samples(), job.path)
    except OSError as error:
        raise ShardError(
            f"{platform.node()}: {error.filename or job.path}",
            error.strerror or str(error),
            "the data set and the shards must lie under the same path on all nodes",
        ) from None
    return WrittenShard(keys, digest.hexdigest(), shard)


def prepare(sample: SourceSample, options: EncodeOptions, kind: ShardKind, *, encode: bool) -> ReadySample:
    """The sample with its checksum; without `encode` it is read only to see that it is still the same."""
    return ReadySample(sample.key, _fingerprint(sample), encode_sample(sample, options, kind) if encode else None)


def write_shard(ready: Iterable[ReadySample], path: Path) -> FinishedShard | None:
    """One shard of all the given samples; None if none is encoded."""
    writer, fingerprints, histogram = None, hashlib.sha256(), np.zeros(256, np.int64)
    try:
        for _, fingerprint, encoded in ready:
            if encoded is not None:
                writer = writer or ShardWriter(path)
                writer.add(encoded)
                histogram += encoded.histogram
            fingerprints.update(fingerprint)
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    if writer is None:
        return None
    row = writer.finish()
    counts = {str(raw): int(count) for raw, count in enumerate(histogram) if count}
    return FinishedShard(row.name, row.num_samples, row.num_bytes, row.sha256.hex(), fingerprints.hexdigest(), counts)


def _fingerprint(sample: SourceSample) -> bytes:
    digest = hashlib.sha256()
    for part in (
        sample.key.encode(),
        sample.image,
        sample.label or b"",
        json.dumps(sample.meta, sort_keys=True).encode(),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
