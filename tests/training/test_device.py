"""The GPU of a worker is the one that Ray gives it, for torch and for DeepSpeed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import ray
import ray.train.torch
import torch

from mgcda_dist.cluster import trainer
from mgcda_dist.errors import ConfigError
from mgcda_dist.training import worker
from mgcda_dist.training.engine import DeepSpeedEngine, deepspeed_config
from tests.support.configs import plain_config
from tests.support.engine import one_group
from tests.support.tiny import tiny_mgcda


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rank 0 of a node whose GPU 2 Ray has given it, among several that it sees; GPUs that were made current."""
    current: list[int] = []

    def set_device(device: torch.device) -> None:
        current.append(device.index)

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: ["5"])
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda", 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1] if current else 0)
    return current


def test_a_worker_takes_the_gpu_that_ray_gives_it(
    given: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[torch.device] = []

    def task(on_gpu: bool) -> None:
        seen.append(worker._device(on_gpu))  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(worker, "task", task, raising=False)
    for on_gpu in (True, False):
        arguments = {"task": "task", "fatal": str(tmp_path / "fatal"), "arguments": {"on_gpu": on_gpu}}
        trainer._on_worker(arguments)  # pyright: ignore[reportPrivateUsage]
    assert seen == [torch.device("cuda", 2), torch.device("cpu")] and given == [2, 2]


def test_deepspeed_takes_the_same_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def initialize(**_: Any) -> None:
        raise Seen(os.environ["LOCAL_RANK"])

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(deepspeed, "initialize", initialize)
    model = tiny_mgcda()
    config = deepspeed_config(micro_batch=1, accumulation=1, zero_stage=0, precision="fp32", clip_norm=0)
    for device, index in (("cuda:2", "2"), ("cpu", "0")):
        with pytest.raises(Seen, match=index):
            DeepSpeedEngine(model, torch.optim.SGD(one_group(model)), config, torch.device(device))
        assert os.environ["LOCAL_RANK"] == "0", "the rank within the node is what it was"


def test_a_worker_without_its_gpu_does_not_train_on_the_processor(tmp_path: Path) -> None:
    config = plain_config(runs=str(tmp_path), scaling={"gpus_per_worker": 1})
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"scaling\.gpus_per_worker: a worker on .* has no GPU that torch can use"):
        worker.train(config)
