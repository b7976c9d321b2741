"""Source samples → a shard folder: parallel, in order, atomic, resumable, the same bytes for the same input."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mgcda_dist import __version__
from mgcda_dist.choices import ShardKind
from mgcda_dist.data.ledger import LEDGER, ledger_lines
from mgcda_dist.data.shards.encode import EncodeOptions
from mgcda_dist.data.shards.job import MapJobs, ReadySample, ShardJob, prepare, run_job, write_shard
from mgcda_dist.data.shards.journal import FinishedShard, Journal, is_there
from mgcda_dist.data.shards.manifest import MANIFEST, Manifest, manifest_digest
from mgcda_dist.data.shards.record import LazySamples, SourceSample
from mgcda_dist.data.shards.tables import SHARD_TABLE, ShardRow, index_path, save_table, shard_name, shard_table
from mgcda_dist.errors import ShardError
from mgcda_dist.files import prepare_folder
from mgcda_dist.processors import usable_processors

__all__ = ["finish_manifest", "write_shards"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def write_shards(
    samples: Iterable[SourceSample],
    folder: Path | str,
    *,
    dataset: str,
    split: str,
    label_format: str,
    kind: ShardKind = "frames",
    samples_per_shard: int = 256,
    provenance: Mapping[str, Any] | None = None,
    options: EncodeOptions | None = None,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    elsewhere: MapJobs | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Write shards and their manifest.

    A killed write continues when it is run again with the same arguments; the finished folder is byte-identical to
    that of an uninterrupted write.

    Args:
        samples: in order; a `LazySamples` is also read in parallel.
        folder: created if absent.
        dataset, split, label_format, kind, provenance: recorded in the manifest; provenance must be JSON-able.
        samples_per_shard: of every shard but the last.
        options: resizing and encoding of the images.
        progress: called with the number of samples finished since the last call.
        workers: threads that read and encode; None: one per processor.
        elsewhere: makes whole shards of a `LazySamples` on other machines instead, which see the same files.
        overwrite: replace a finished folder.

    Raises:
        ShardError: no sample, two samples with one key, a sample that cannot be encoded, a finished folder, or a
            source that changed between an interrupted write and this one.
        MgcdaError: the folder is a file, or cannot be written to.
    """
    folder = Path(folder).absolute()
    options = options or EncodeOptions()
    if isinstance(samples, LazySamples):
        samples.check(samples.items)
    prepare_folder(folder)
    header = {
        "dataset": dataset, "split": split, "label_format": label_format, "kind": kind,
        "samples_per_shard": samples_per_shard, "options": asdict(options),
    }  # fmt: skip
    journal = Journal(folder, header, anew=overwrite)
    complete = False
    try:
        (folder / MANIFEST).unlink(missing_ok=True)
        if elsewhere is None:
            finished = _write_all(samples, folder, journal, options, kind, samples_per_shard, progress, workers)
        else:
            assert isinstance(samples, LazySamples)
            finished = _write_elsewhere(samples, folder, journal, options, kind, samples_per_shard, progress, elsewhere)
        rows = [ShardRow(s.name, s.num_samples, s.num_bytes, bytes.fromhex(s.sha256)) for s in finished]
        if not rows:
            passed_over = ledger_lines(provenance[LEDGER]) if provenance and LEDGER in provenance else ()
            problem = "\n".join((f"{dataset} {split} has no samples", *passed_over))
            raise ShardError(str(folder), problem, "check the source folder and the split")
        _remove_strays({row.name for row in rows}, folder)
        histogram: dict[int, int] = {}
        for shard in finished:
            for raw, count in shard.histogram.items():
                histogram[int(raw)] = histogram.get(int(raw), 0) + count
        manifest = finish_manifest(
            rows, folder, dataset=dataset, split=split, label_format=label_format, kind=kind, histogram=histogram,
            options=asdict(options) | {"samples_per_shard": samples_per_shard}, provenance=dict(provenance or {}),
        )  # fmt: skip
        complete = True
    finally:
        journal.close(remove=complete)
    return manifest


def finish_manifest(
    rows: list[ShardRow],
    folder: Path,
    *,
    dataset: str,
    split: str,
    label_format: str,
    kind: ShardKind,
    histogram: dict[int, int],
    options: dict[str, Any],
    provenance: dict[str, Any],
) -> Manifest:
    """Write the shard table and, last, the manifest."""
    table = shard_table(rows)
    save_table(table, folder / SHARD_TABLE)
    manifest = Manifest(
        folder=folder,
        kind=kind,
        dataset=dataset,
        split=split,
        label_format=label_format,
        num_samples=sum(row.num_samples for row in rows),
        num_shards=len(rows),
        num_bytes=sum(row.num_bytes for row in rows),
        digest="",
        label_histogram=dict(sorted(histogram.items())),
        options=options,
        provenance=provenance,
        tool_version=__version__,
    )
    manifest = replace(manifest, digest=manifest_digest(table, *manifest.identity))
    manifest.save()
    return manifest


def _write_all(
    samples: Iterable[SourceSample],
    folder: Path,
    journal: Journal,
    options: EncodeOptions,
    kind: ShardKind,
    samples_per_shard: int,
    progress: Callable[[int], None] | None,
    workers: int | None,
) -> list[FinishedShard]:
    """All shards, those of an earlier, interrupted write included."""
    reused = list(journal.finished)
    num_reused = sum(shard.num_samples for shard in reused)

    def job(item: tuple[int, Callable[[], SourceSample]]) -> ReadySample:
        position, load = item
        return prepare(load(), options, kind, encode=position >= num_reused)

    ready = _in_order(job, enumerate(_loaders(samples)), workers or usable_processors())
    ready = _checked(ready, folder, progress)
    for shard in reused:
        source = hashlib.sha256(b"".join(item.fingerprint for item in islice(ready, shard.num_samples))).hexdigest()
        if source != shard.source:
            raise _changed(folder, shard.name)
    while (
        shard := write_shard(islice(ready, samples_per_shard), folder / shard_name(len(journal.finished)))
    ) is not None:
        if journal.finished and journal.finished[-1].num_samples < samples_per_shard:
            raise _changed(folder, journal.finished[-1].name)  # the former last shard is no longer the last
        journal.add(shard)
    return journal.finished


def _write_elsewhere(
    samples: LazySamples,
    folder: Path,
    journal: Journal,
    options: EncodeOptions,
    kind: ShardKind,
    samples_per_shard: int,
    progress: Callable[[int], None] | None,
    elsewhere: MapJobs,
) -> list[FinishedShard]:
    """All shards, those of an earlier, interrupted write included; each made by a job of its own."""
    reused, seen = list(journal.finished), set[str]()
    starts = range(0, len(samples), samples_per_shard)
    if len(reused) > len(starts):
        raise _changed(folder, reused[len(starts)].name)
    jobs = (
        ShardJob(samples.part(start, start + samples_per_shard), folder / shard_name(i), options, kind, i < len(reused))
        for i, start in enumerate(starts)
    )
    for i, (keys, source, shard) in enumerate(elsewhere(run_job, jobs)):
        for key in keys:
            _refuse_double(key, seen, folder)
        if shard is None:
            if source != reused[i].source:
                raise _changed(folder, reused[i].name)
        elif not is_there(shard, folder):
            remedy = "write to storage that all nodes see under the same path"
            raise ShardError(str(folder / shard.name), "a node has written it, and it is not here", remedy)
        else:
            journal.add(shard)
        if progress is not None:
            progress(len(keys))
    return journal.finished


def _checked(
    ready: Iterator[ReadySample], folder: Path, progress: Callable[[int], None] | None
) -> Iterator[ReadySample]:
    """The same items, with progress reported and duplicate keys refused."""
    seen: set[str] = set()
    for item in ready:
        _refuse_double(item.key, seen, folder)
        yield item
        if progress is not None:
            progress(1)


def _refuse_double(key: str, seen: set[str], folder: Path) -> None:
    if key in seen:
        raise ShardError(f"{folder.name}/{key}", "two samples have this key", "keys must be unique in a split")
    seen.add(key)


def _changed(folder: Path, shard: str) -> ShardError:
    remedy = "choose `overwrite` to start anew"
    return ShardError(str(folder), f"the source changed since the interrupted write (at {shard})", remedy)


def _loaders(samples: Iterable[SourceSample]) -> Iterator[Callable[[], SourceSample]]:
    if isinstance(samples, LazySamples):
        return samples.loaders()
    return ((lambda sample=sample: sample) for sample in samples)


def _in_order(job: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Results in the order of the items, with a bounded number of items in flight."""
    with ThreadPoolExecutor(workers, thread_name_prefix="shards") as pool:
        running: deque[Future[Result]] = deque()
        try:
            for item in items:
                running.append(pool.submit(job, item))
                if len(running) > 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _remove_strays(written: set[str], folder: Path) -> None:
    """Remove shards of an earlier write of the same folder, and temporary files of killed writes."""
    for path in folder.glob("shard-*.tar"):
        if path.name not in written:
            path.unlink()
            index_path(path).unlink(missing_ok=True)
    for path in folder.glob(".*.part"):
        path.unlink()
