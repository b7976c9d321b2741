"""Resolution of `auto` in the section `scaling` on the available nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError

__all__ = ["NodeResources", "Wanted", "is_open", "places", "resolve", "shares_in_words", "wanted"]


@dataclass(frozen=True)
class NodeResources:
    """Resources of one node."""

    cpus: float
    gpus: int


@dataclass(frozen=True)
class Wanted:
    """Possible numbers of workers of a run, and the resources of each.

    Attributes:
        numbers: ascending; those that share the global batch evenly.
        cpus, gpus: of one worker.
        placement: strategy of Ray's.
    """

    numbers: tuple[int, ...]
    cpus: float
    gpus: int
    placement: str

    def places(self, nodes: Sequence[NodeResources]) -> int:
        """Number of workers that fit on these nodes."""
        return places(nodes, self.cpus, self.gpus, self.placement)

    def fitting(self, room: int) -> int:
        """The largest number that is not over `room`; 0: none."""
        return max((number for number in self.numbers if number <= room), default=0)

    def largest(self, nodes: Sequence[NodeResources]) -> int:
        """The largest number that finds a place on these nodes; 0: none."""
        return self.fitting(self.places(nodes))

    def in_words(self, nodes: Sequence[NodeResources]) -> str:
        """Available and needed resources, in words."""
        each = f"{self.cpus:g} processors" + (f" and {self.gpus} GPUs" if self.gpus else "")
        strategy = "" if self.placement == "PACK" else f", {self.placement}"
        least = f"{self.numbers[0]} workers" if self.numbers[0] > 1 else "a worker"
        return (
            f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} with room for {self.places(nodes)} workers "
            f"({each} each{strategy}), where {least} must find a place"
        )


def wanted(config: Config) -> Wanted:
    """The numbers of workers that the configuration allows; `scaling.elastic` stands before `scaling.workers`."""
    scaling, batch = config.scaling, config.data.global_batch
    if scaling.elastic is None:
        numbers = (scaling.num_workers,)
    else:
        numbers = scaling.elastic.numbers(batch, config.engine.accumulation)
    return Wanted(numbers, scaling.cpus_per_worker, scaling.num_gpus, scaling.placement)


def shares_in_words(config: Config) -> str:
    """Division of the images of a step among workers, in words: `12 images per step = 2 workers × …`."""
    scaling, batch, accumulation = config.scaling, config.data.global_batch, config.engine.accumulation
    if scaling.elastic is not None:
        numbers, key = scaling.elastic.numbers(batch, accumulation), "scaling.elastic"
    elif scaling.workers == "auto":
        numbers = tuple(n for n in range(1, batch + 1) if batch % (n * accumulation) == 0)
        key = "scaling.workers=auto"
    else:
        share = batch // (scaling.workers * accumulation)
        return f"{batch} images per step = {scaling.workers} workers × {share} images × {accumulation} micro-batches"
    listing = " or ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))
    return (
        f"{batch} images per step, shared in {accumulation} micro-batches by {listing} workers: the most that find a "
        f"place on the cluster ({key})"
    )


def is_open(config: Config) -> bool:
    """True if a field is `auto` or the number of workers is elastic."""
    scaling = config.scaling
    return scaling.elastic is not None or "auto" in (scaling.workers, scaling.gpus_per_worker)


def resolve(config: Config, nodes: Sequence[NodeResources]) -> Config:
    """The configuration with numbers where it says `auto`.

    A worker gets one GPU where there are any. There are as many workers as find their processors and GPUs, under the
    placement that is asked for, and of these the largest number that shares the global batch evenly. Of an elastic run
    it is the number that it starts with.

    Raises:
        ConfigError: not even one worker finds a place.
    """
    scaling, gpus = config.scaling, config.scaling.gpus_per_worker
    if gpus == "auto":
        gpus = int(any(node.gpus for node in nodes))
    workers = scaling.workers
    if scaling.elastic is not None:
        numbers = scaling.elastic.numbers(config.data.global_batch, config.engine.accumulation)
        room = places(nodes, scaling.cpus_per_worker, gpus, scaling.placement)
        workers = max((n for n in numbers if n <= room), default=numbers[0])
    elif workers == "auto":
        room = places(nodes, scaling.cpus_per_worker, gpus, scaling.placement)
        if not room:
            raise ConfigError(
                "scaling.workers",
                f"auto, but no node has {scaling.cpus_per_worker:g} processors and {gpus} GPUs for one worker: "
                + ", ".join(f"{node.cpus:g} and {node.gpus}" for node in nodes),
                "lower scaling.cpus_per_worker or scaling.gpus_per_worker",
            )
        batch, accumulation = config.data.global_batch, config.engine.accumulation
        workers = next((n for n in range(room, 0, -1) if batch % (n * accumulation) == 0), 1)
    update = scaling.model_copy(update={"workers": workers, "gpus_per_worker": gpus})
    # Validated: what cannot be shared is explained as if the number had been written.
    return Config.model_validate(config.model_copy(update={"scaling": update}).model_dump())


def places(nodes: Sequence[NodeResources], cpus_per_worker: float, gpus_per_worker: int, placement: str) -> int:
    """Number of workers whose processors and GPUs fit on the nodes under a placement."""
    on_each = [int(node.cpus // cpus_per_worker) for node in nodes]
    if gpus_per_worker:
        on_each = [min(n, node.gpus // gpus_per_worker) for n, node in zip(on_each, nodes, strict=True)]
    match placement:
        case "STRICT_PACK":
            return max(on_each, default=0)
        case "STRICT_SPREAD":
            return sum(1 for number in on_each if number)
        case _:
            return sum(on_each)
