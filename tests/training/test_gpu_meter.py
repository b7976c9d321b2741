"""The use of a GPU in the metrics of a step; the numbers of the card are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_dist.cli.train import _progress_line
from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.mgcda import MGCDA
from mgcda_dist.training.gpu_meter import GpuMeter, gpu_meter
from tests.support.configs import plain_config
from tests.support.tiny import PlainSegmentationLoss, energy, tiny_mgcda

GPU = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """An H100 with 3 GiB in use, whose loads are taken from the list."""
    loads = list[int]()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: loads.pop(0))
    monkeypatch.setattr("mgcda_dist.training.gpu_meter._SAMPLED_EVERY_S", 0.0)
    return loads


def test_shares_of_what_the_card_can_do(card: list[int]) -> None:
    meter = GpuMeter(GPU, flops=2e12, peak=1e13)
    card += [90, 70]
    meter.sample()
    meter.sample()
    wanted = {"gpu/peak_memory_gib": 3.0, "time/busy_share": 0.8, "time/tflop_per_s": 4.0, "time/mfu": 0.4}
    assert meter.read(0.5) == pytest.approx(wanted)
    assert "time/busy_share" not in meter.read(0.5), "nothing was sampled since"
    metrics = {"loss/total": 1.0, "time/images_per_s": 5.0, "time/data_wait_share": 0.0, **wanted}
    assert _progress_line(metrics).endswith("data wait 0%  MFU 40%  GPU busy 80%  3.0 GiB")
    assert _progress_line(metrics | {"time/launches": 812.0}).endswith("3.0 GiB  812 launches"), "where it was profiled"
    del metrics["time/mfu"]
    assert _progress_line(metrics).endswith("data wait 0%  4.0 TFLOP/s  GPU busy 80%  3.0 GiB")


def test_a_driver_that_does_not_tell_is_asked_once(card: list[int]) -> None:
    meter = GpuMeter(GPU, flops=None, peak=None)
    meter.sample()  # of an empty list
    card.append(50)
    meter.sample()
    assert meter.read(1.0) == {"gpu/peak_memory_gib": 3.0}


def made(model: MGCDA, said: list[str], device: torch.device = GPU, **sections: Any) -> GpuMeter | None:
    # 8 images, 4 of them unlabelled.
    config = plain_config(data={"crop_px": [16, 24], "streams": streams()}, **sections)
    return gpu_meter(config, config.engine.on(gpu=True), model, device, said.append)


def streams() -> list[dict[str, Any]]:
    return [{"name": n, "shards": f"/{n}", "per_step": 4, "labelled": n == "a"} for n in "ab"]


def test_a_step_has_all_its_micro_batches(card: list[int]) -> None:
    said = list[str]()
    model = tiny_mgcda(teacher_decay=0.9)
    model.stage_sizes(16, 24)
    whole, half = (made(model, said, engine={"accumulation": n}) for n in (1, 2))
    assert whole is not None and half is not None and not said
    one, two = (meter.read(1e-6)["time/tflop_per_s"] for meter in (whole, half))
    assert two == pytest.approx(one, rel=0.05), "less of the contrast, which is a small part"
    assert whole.read(1.0)["time/mfu"] == pytest.approx(whole.read(1.0)["time/tflop_per_s"] / 495), "TF32"


def test_it_says_what_it_cannot_measure(card: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(nn.Module):
        def forward(self, image: Tensor) -> Prediction:
            raise ValueError(f"looks at values\n{float(image.sum())}")

    said = list[str]()
    meter = made(MGCDA(Looking(), PlainSegmentationLoss(), lambda p: energy(p.logits)), said)
    assert meter is not None and "time/tflop_per_s" not in meter.read(1.0)
    assert "are not counted" in said[0] and said[0].count("\n") == 0
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Card")
    meter = made(tiny_mgcda(with_mdat=False), said)
    assert meter is not None and "time/mfu" not in meter.read(1.0) and "time/tflop_per_s" in meter.read(1.0)
    assert len(said) == 2 and "Some Card" in said[1]


def test_processors_have_none() -> None:
    assert made(tiny_mgcda(), [], torch.device("cpu")) is None
