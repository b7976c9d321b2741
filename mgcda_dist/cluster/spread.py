"""Work in pieces over the processors of all nodes: a function applied to many items by Ray tasks, results in order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mgcda_dist.cluster.connect import open_ray, prepare_environment
from mgcda_dist.errors import MgcdaError
from mgcda_dist.processors import usable_processors

__all__ = ["Spread"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Spread:
    """The cluster of `RAY_ADDRESS`, else a one-node Ray on this machine.

    Attributes:
        pieces: how many results so far came from which node, by its address.
    """

    def __init__(self) -> None:
        prepare_environment()
        open_ray(usable_processors())
        self.pieces = Counter[str]()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in the order of the items, with a bounded number of items in flight, one processor each.

        A piece whose node is lost is made again on another: the function may run twice for an item, even at one time.

        Raises:
            MgcdaError: that of the function; or the last node for a piece was lost.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(_with_address)
        running: deque[Any] = deque()

        def oldest() -> Result:
            try:
                address, result = ray.get(running.popleft())
            except RayTaskError as error:
                if isinstance(error.cause, MgcdaError):
                    raise error.cause from None
                raise
            except RayError as error:
                raise MgcdaError("cluster", f"a piece of the work was lost: {error}", "run it again") from error
            self.pieces[address] += 1
            return result

        try:
            for item in items:
                running.append(task.remote(function, item))
                if len(running) > 2 * max(1, int(ray.cluster_resources().get("CPU", 1))):
                    yield oldest()
            while running:
                yield oldest()
        finally:
            for pending in running:
                ray.cancel(pending)


def _with_address(function: Callable[[Item], Result], item: Item) -> tuple[str, Result]:
    import ray

    return ray.util.get_node_ip_address(), function(item)
