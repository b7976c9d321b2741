"""The start of DeepSpeed's engine: buckets, the limit of its collectives, and GPUs without numbers."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mgcda_dist.method.collectives import Collectives
from mgcda_dist.training.deepspeed_start import _with_fitting_buckets, _without_numbers_of_gpus, deepspeed_config
from mgcda_dist.training.engine import DeepSpeedEngine
from tests.support.commands import run_without
from tests.support.distributed import run_distributed
from tests.support.engine import one_group
from tests.support.tiny import tiny_mgcda

LIMIT = timedelta(seconds=1234)


def test_a_worker_does_not_wait_for_packages_that_it_has_no_use_for() -> None:
    run_without(
        (),
        """
import importlib, sys
import torch
import mgcda_dist.training.worker
from mgcda_dist.training.deepspeed_start import load_deepspeed
assert load_deepspeed(torch.device("cpu")) is importlib.import_module("deepspeed")
assert not {"mlflow", "pandas", "triton"} & set(sys.modules), "seconds of each start"
import mlflow
assert mlflow.__version__
""",
    )


@pytest.mark.parametrize(
    ("asked", "sizes", "reduced", "gathered"),
    [
        ({}, [10, 5, 2], 18, 18),  # nothing asked for: all of them, an even number
        ({"reduce_bucket_size": 4, "allgather_bucket_size": 4}, [3, 2], 4, 4),
        ({"reduce_bucket_size": 4, "allgather_bucket_size": 4}, [9, 2], 10, 4),  # the largest would be sent beside it
    ],
)
def test_a_bucket_holds_the_largest_gradient(
    asked: dict[str, Any], sizes: list[int], reduced: int, gathered: int
) -> None:
    found = _with_fitting_buckets({"stage": 2, **asked}, sizes)
    assert found == {"stage": 2, "reduce_bucket_size": reduced, "allgather_bucket_size": gathered}


@pytest.mark.parametrize(("names", "asks"), [("0,1", True), ("", True), ("GPU-89,GPU-1", False), ("MIG-1", False)])
def test_gpus_that_are_named_are_taken_for_no_numbers(names: str, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepspeed.accelerator import cuda_accelerator

    library = SimpleNamespace()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    monkeypatch.setattr(cuda_accelerator, "pynvml", library)
    _without_numbers_of_gpus()
    assert cuda_accelerator.pynvml is (library if asks else None)


def _limits() -> list[timedelta]:
    """Limits of the groups in which DeepSpeed sums gradients, of two engines after each other."""
    from deepspeed.utils import groups

    found: list[timedelta] = []
    config = deepspeed_config(micro_batch=1, accumulation=1, zero_stage=1, precision="fp32", clip_norm=1.0)
    for _ in range(2):
        model = tiny_mgcda(collectives=Collectives(timeout=LIMIT))
        DeepSpeedEngine(model, torch.optim.SGD(one_group(model)), config, torch.device("cpu")).close()
        group: Any = groups._get_data_parallel_group()
        assert group is not dist.group.WORLD
        found.append(group._get_backend(torch.device("cpu")).options._timeout)
    return found


def test_deepspeed_waits_as_long_as_everything_else() -> None:
    """Its own group would have torch's limit, ten minutes with NCCL: less than a first step that compiles may take."""
    assert run_distributed(_limits, 1) == [[LIMIT, LIMIT]]
