"""The GPU of a worker is the one that Ray gives it, for torch and for DeepSpeed; torch's settings for it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed
import pytest
import ray
import ray.train.torch
import torch

from mgcda_dist import build
from mgcda_dist.cluster import trainer
from mgcda_dist.config.run import EngineConfig
from mgcda_dist.errors import ConfigError
from mgcda_dist.training import worker
from mgcda_dist.training.deepspeed_start import deepspeed_config
from mgcda_dist.training.device import set_up
from mgcda_dist.training.engine import DeepSpeedEngine
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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="for x86")
def test_on_a_processor_onednn_computes_the_network_and_that_of_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def initialize(**_: Any) -> None:
        raise Seen

    monkeypatch.setattr(deepspeed, "initialize", initialize)
    for place, dilation in (("cpu", (2, 2)), ("cuda:0", (1, 1))):
        model = tiny_mgcda(dtype=torch.float32, teacher_decay=0.9)
        config = deepspeed_config(micro_batch=1, accumulation=1, zero_stage=0, precision="fp32", clip_norm=0)
        with pytest.raises(Seen):
            DeepSpeedEngine(model, torch.optim.SGD(one_group(model)), config, torch.device(place))
        assert model.teacher is not None
        for part in (model.segmenter, model.teacher.network, model.mdat):
            assert part is not None
            found = [m.dilation for m in part.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (1, 1)]
            assert found and set(found) == {dilation}


def test_a_worker_without_its_gpu_does_not_train_on_the_processor(tmp_path: Path) -> None:
    config = plain_config(runs=str(tmp_path), scaling={"gpus_per_worker": 1})
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"scaling\.gpus_per_worker: a worker on .* has no GPU that torch can use"):
        worker.train(config)


def _switches() -> tuple[bool, ...]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    deterministic = torch.are_deterministic_algorithms_enabled()
    return cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, deterministic


@pytest.fixture
def _restored() -> Iterator[None]:
    before = _switches()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before[2:4]
    torch.use_deterministic_algorithms(before[4])


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(
    ("asked", "switches"),
    [
        ({}, (True, True, True, False, False)),
        ({"tf32": False}, (False, False, True, False, False)),
        ({"cudnn_benchmark": False}, (True, True, False, False, False)),
        ({"deterministic": True}, (True, True, False, True, True)),
    ],
)
def test_the_switches_of_torch_for_a_gpu(
    asked: dict[str, Any], switches: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before, engine = _switches(), EngineConfig(**asked)
    set_up(torch.device("cpu"), engine.on(gpu=False))
    assert _switches() == before, "nothing changes on processors"
    set_up(torch.device("cuda", 0), engine.on(gpu=True))
    assert _switches() == switches
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if asked.get("deterministic") else None)
    assert torch.get_float32_matmul_precision() == ("high" if switches[0] else "highest"), (
        "torch's compiler asks for it"
    )


@pytest.mark.parametrize("gpu", [True, False])
def test_what_stands_for_null(gpu: bool) -> None:
    found = EngineConfig().on(gpu=gpu)
    assert (found.overlap_comm, found.fused_optimizer, found.export_masters) == (gpu, gpu, gpu)
    asked = EngineConfig(overlap_comm=not gpu, fused_optimizer=not gpu, export_masters=not gpu).on(gpu=gpu)
    assert (asked.overlap_comm, asked.fused_optimizer, asked.export_masters) == (not gpu, not gpu, not gpu)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_fused_optimizer_steps_as_the_other(kind: str) -> None:
    config = plain_config(
        model={"backbone": "test_resnet"}, mdat={"enabled": False}, cacl={"enabled": False}, optim={"optimizer": kind}
    )
    after: list[torch.Tensor] = []
    for fused in (False, True):
        model = build.mgcda(config)
        optimizer = build.optimizer(config, model, fused=fused)
        assert bool(optimizer.defaults["fused"]) == fused
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        after.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(after[0], after[1])
