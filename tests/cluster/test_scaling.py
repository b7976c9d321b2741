"""`auto`: as many workers as find a place and share the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mgcda_dist.cluster.scaling import NodeResources, resolve, shares_in_words, worker_needs
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import ConfigError
from mgcda_dist.runs.evaluation_request import EvaluationRequest
from tests.support.configs import plain_config


def _config(**scaling: Any) -> Config:
    return plain_config({"a": 16, "b": 8}, scaling={"workers": "auto", "gpus_per_worker": "auto"} | scaling)


@pytest.mark.parametrize(
    ("scaling", "nodes", "workers", "gpus"),
    [
        ({}, [(8, 0), (3, 0)], 8, 0),  # 11 places, and 24 images go into 8
        ({"cpus_per_worker": 4}, [(8, 0), (3, 0)], 2, 0),
        ({}, [(0, 0), (48, 4), (48, 4)], 8, 1),
        ({"cpus_per_worker": 24}, [(48, 4), (48, 4)], 4, 1),  # processors are the bound
        ({"gpus_per_worker": 1, "cpus_per_worker": 8}, [(48, 4), (48, 5)], 8, 1),
        ({"placement": "STRICT_PACK"}, [(48, 4), (48, 2)], 4, 1),
        ({"placement": "STRICT_SPREAD"}, [(48, 4), (48, 2), (0.5, 2)], 2, 1),
        ({"workers": 3}, [(2, 0)], 3, 0),  # a number stays
        ({"elastic": {"min": 2, "max": 7}}, [(3, 0), (2, 0)], 4, 0),  # the number that it starts with
        ({"elastic": {"min": 2, "max": 7}}, [(1, 0)], 2, 0),  # and waits for
    ],
)
def test_auto_becomes_a_number(
    scaling: dict[str, Any], nodes: list[tuple[float, int]], workers: int, gpus: int
) -> None:
    found = resolve(_config(**scaling), [NodeResources(*node) for node in nodes]).scaling
    assert (found.num_workers, found.num_gpus) == (workers, gpus)


@pytest.mark.parametrize(
    ("scaling", "nodes", "workers", "cpus"),
    [
        ({}, [(2, 0)], 1, 2),  # threads, not workers
        ({}, [(16, 0), (8, 0), (0, 0)], 2, 8),  # one on each node, and the smaller one bounds both
        ({"placement": "STRICT_PACK"}, [(16, 0), (8, 0)], 1, 16),
        ({}, [(0, 0), (48, 4), (48, 4)], 8, 12),  # a worker a GPU
        ({}, [(4, 8)], 4, 1),
        ({"workers": 2}, [(8, 0)], 2, 4),
        ({"workers": 3}, [(2, 0)], 3, 1),  # as before, and Ray says what it lacks
        ({"workers": 1, "gpus_per_worker": 0}, [(6.5, 2)], 1, 6),
        ({"elastic": {"min": 2, "max": 8}}, [(8, 0), (8, 0)], 8, 2),
    ],
)
def test_auto_processors_are_all_that_each_worker_can_have(
    scaling: dict[str, Any], nodes: list[tuple[float, int]], workers: int, cpus: float
) -> None:
    found = resolve(_config(**{"cpus_per_worker": "auto"} | scaling), [NodeResources(*node) for node in nodes])
    assert (found.scaling.num_workers, found.scaling.num_cpus) == (workers, cpus)


@pytest.mark.parametrize("value", [0, -1, True, "all", float("inf"), float("nan")])
def test_what_is_no_number_of_processors_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"cpus_per_worker[\s\S]*neither a number above 0 nor `auto`"):
        _config(cpus_per_worker=value)


def test_without_room_for_one_worker_it_says_what_nodes_have() -> None:
    with pytest.raises(ConfigError, match="no node has 9 CPU and 0 GPU for one worker: 8 and 0"):
        resolve(_config(cpus_per_worker=9), [NodeResources(8, 0)])


@pytest.mark.parametrize("number", [2, 8])
def test_several_gpus_for_one_worker_are_refused_with_what_to_do(number: int) -> None:
    """One would be used, and which one without regard to the others."""
    with pytest.raises(
        ValueError, match=rf"gpus_per_worker[\s\S]*{number}: a worker trains on one GPU.*workers to the"
    ):
        _config(gpus_per_worker=number)


def test_more_workers_than_images_are_answered_with_the_one_larger_batch() -> None:
    """Numbers in between: config/test_load.py."""
    with pytest.raises(ValueError, match=r"per_step values that add up to 48(?! or)"):
        _config(workers=48)


def test_elastic_runs_have_the_numbers_of_workers_that_share_the_batch() -> None:
    found = worker_needs(_config(workers=1, gpus_per_worker=0, elastic={"min": 2, "max": 7}))
    assert found.numbers == (2, 3, 4, 6)
    assert [found.largest([NodeResources(cpus, 0)]) for cpus in (1, 2, 5, 6, 100)] == [0, 2, 4, 6, 6]
    assert found.in_words([NodeResources(1, 0)]) == (
        "1 node with room for 1 worker (1 CPU each), where 2 workers must find a place"
    )
    with pytest.raises(ValueError, match=r"no number of workers from 9 to 11 shares 24 images × 1 micro-batch evenly"):
        _config(workers=1, elastic={"min": 9, "max": 11})


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({"workers": 4}, "24 images per step = 4 workers × 6 images × 1 micro-batch"),
        (
            {"workers": "auto"},
            "24 images per step, shared in 1 micro-batch by 1, 2, 3, 4, 6, 8, 12 or 24 workers: the most that find "
            "a place on the cluster (scaling.workers=auto)",
        ),
        (
            {"workers": "auto", "cpus_per_worker": "auto"},
            "24 images per step, shared in 1 micro-batch by 1, 2, 3, 4, 6, 8, 12 or 24 workers: one on each GPU, or "
            "without any one on each node, with all of its processors (scaling.workers=auto)",
        ),
        (
            {"workers": "auto", "cpus_per_worker": "auto", "gpus_per_worker": 0},
            "24 images per step, shared in 1 micro-batch by 1, 2, 3, 4, 6, 8, 12 or 24 workers: one on each node, with "
            "all of its processors (scaling.workers=auto)",
        ),
        (
            {"elastic": {"min": 3, "max": 5}},
            "24 images per step, shared in 1 micro-batch by 3 or 4 workers: the most that find a place on the "
            "cluster (scaling.elastic)",
        ),
    ],
)
def test_the_share_of_each_worker_in_words(scaling: dict[str, Any], words: str) -> None:
    assert shares_in_words(_config(**scaling)) == words


def test_an_evaluation_has_the_workers_that_were_asked_for_also_of_an_elastic_run() -> None:
    job: Any = None
    request = EvaluationRequest(job, Path(), scaling=_config(workers=1, elastic={"min": 2, "max": 7}).scaling)
    scaling = request.scaling_for(3)
    assert (scaling.workers, scaling.elastic) == (3, None)
