"""Number of workers: resolves `auto` and elastic scaling against the nodes of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError, counted

__all__ = ["NodeResources", "WorkerNeeds", "is_open", "resolve", "shares_in_words", "worker_needs"]


@dataclass(frozen=True)
class NodeResources:
    """Resources of one node that Ray may use."""

    cpus: float
    gpus: int


@dataclass(frozen=True)
class WorkerNeeds:
    """The numbers of workers that a run may have, and the resources of one worker.

    Attributes:
        numbers: ascending; those that share the global batch evenly.
        placement: strategy of Ray's.
    """

    numbers: tuple[int, ...]
    cpus: float
    gpus: int
    placement: str

    def places(self, nodes: Sequence[NodeResources]) -> int:
        """Number of workers that these nodes have room for."""
        on_each = [int(node.cpus // self.cpus) for node in nodes]
        if self.gpus:
            on_each = [min(n, node.gpus // self.gpus) for n, node in zip(on_each, nodes, strict=True)]
        match self.placement:
            case "STRICT_PACK":
                return max(on_each, default=0)
            case "STRICT_SPREAD":
                return sum(1 for number in on_each if number)
            case _:
                return sum(on_each)

    def fitting(self, room: int) -> int:
        """The largest possible number up to `room`; 0: none."""
        return max((number for number in self.numbers if number <= room), default=0)

    def largest(self, nodes: Sequence[NodeResources]) -> int:
        """The largest possible number that these nodes have room for; 0: none."""
        return self.fitting(self.places(nodes))

    def in_words(self, nodes: Sequence[NodeResources]) -> str:
        """A sentence with the room on the nodes and the least that is needed."""
        each = f"{self.cpus:g} CPU" + (f" and {self.gpus} GPU" if self.gpus else "")
        strategy = "" if self.placement == "PACK" else f", {self.placement}"
        return (
            f"{counted(len(nodes), 'node')} with room for {counted(self.places(nodes), 'worker')} "
            f"({each} each{strategy}), where {counted(self.numbers[0], 'worker')} must find a place"
        )


def worker_needs(config: Config) -> WorkerNeeds:
    """The numbers of workers that the configuration allows; `scaling.elastic` overrides `scaling.workers`."""
    scaling = config.scaling
    return WorkerNeeds(_numbers(config), scaling.num_cpus, scaling.num_gpus, scaling.placement)


def _numbers(config: Config) -> tuple[int, ...]:
    """Numbers of workers that the configuration allows and that share the batch evenly, ascending."""
    scaling, batch, accumulation = config.scaling, config.data.global_batch, config.engine.accumulation
    if scaling.elastic is not None:
        return scaling.elastic.numbers(batch, accumulation)
    if scaling.workers == "auto":
        return tuple(n for n in range(1, batch + 1) if batch % (n * accumulation) == 0)
    return (scaling.workers,)


def shares_in_words(config: Config) -> str:
    """A sentence on how workers share the images of a step, `12 images per step = 2 workers × …`."""
    scaling, batch, accumulation = config.scaling, config.data.global_batch, config.engine.accumulation
    if scaling.elastic is None and scaling.workers != "auto":
        share = counted(batch // (scaling.workers * accumulation), "image")
        parts = (counted(scaling.workers, "worker"), share, counted(accumulation, "micro-batch"))
        return f"{counted(batch, 'image')} per step = {' × '.join(parts)}"
    numbers, key = _numbers(config), "scaling.elastic" if scaling.elastic is not None else "scaling.workers=auto"
    listing = " or ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))
    which = "the most that find a place on the cluster"
    if scaling.elastic is None and scaling.cpus_per_worker == "auto":
        alone = "one on each node, with all of its processors"
        which = {0: alone, 1: which, "auto": f"one on each GPU, or without any {alone}"}[scaling.gpus_per_worker]
    micro_batches = counted(accumulation, "micro-batch")
    return f"{batch} images per step, shared in {micro_batches} by {listing} workers: {which} ({key})"


def is_open(config: Config) -> bool:
    """True if a number of workers, processors or GPUs is `auto`, or the run is elastic."""
    scaling = config.scaling
    return scaling.elastic is not None or "auto" in (scaling.workers, scaling.cpus_per_worker, scaling.gpus_per_worker)


def resolve(config: Config, nodes: Sequence[NodeResources]) -> Config:
    """The configuration with numbers where it says `auto`.

    A worker gets one GPU where there are any. The number of workers is the largest that the nodes have room for under
    the placement and that shares the global batch evenly; of an elastic run, the number that it starts with. Without
    GPUs, and where the processors of a worker are `auto`, too, a node has one worker: threads share what workers send.
    `auto` processors are then the most that every worker can have.

    Raises:
        ConfigError: not even one worker finds a place.
    """
    scaling, gpus = config.scaling, config.scaling.gpus_per_worker
    if gpus == "auto":
        gpus = int(any(node.gpus for node in nodes))
    is_auto = scaling.cpus_per_worker == "auto"
    needs = WorkerNeeds(_numbers(config), 1 if is_auto else scaling.num_cpus, gpus, scaling.placement)
    workers = scaling.workers
    if scaling.elastic is not None:
        workers = needs.largest(nodes) or needs.numbers[0]
    elif workers == "auto":
        if not needs.places(nodes):
            raise ConfigError(
                "scaling.workers",
                f"auto, but no node has {needs.cpus:g} CPU and {gpus} GPU for one worker: "
                + ", ".join(f"{node.cpus:g} and {node.gpus}" for node in nodes),
                "lower scaling.cpus_per_worker or scaling.gpus_per_worker",
            )
        room = needs.places(nodes)
        if is_auto and not gpus:
            room = 1 if needs.placement == "STRICT_PACK" else sum(node.cpus >= needs.cpus for node in nodes)
        workers = needs.fitting(room) or 1
    cpus = _most_processors(replace(needs, numbers=(workers,)), nodes) if is_auto else scaling.num_cpus
    update = scaling.model_copy(update={"workers": workers, "cpus_per_worker": cpus, "gpus_per_worker": gpus})
    # Validated, so that an uneven share is explained as for a number in the file.
    return Config.model_validate(config.model_copy(update={"scaling": update}).model_dump())


def _most_processors(needs: WorkerNeeds, nodes: Sequence[NodeResources]) -> float:
    """The most whole processors that each of the workers finds; 1 where they do not even find that."""
    (workers,) = needs.numbers
    most = int(max((node.cpus for node in nodes), default=1))
    return float(next((n for n in range(most, 1, -1) if replace(needs, cpus=n).places(nodes) >= workers), 1))
