"""The average of the segmenter: its recursion, its precision, and what an engine sees of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mgcda_dist.method.batch import Prediction
from mgcda_dist.method.teacher.average import Teacher, decay_at
from tests.support.tiny import TinySegmenter, tiny_batch, tiny_mgcda


def test_the_first_steps_forget_the_untrained_network() -> None:
    assert [decay_at(step, 0.7) for step in range(5)] == [0.0, 0.5, pytest.approx(2 / 3), 0.7, 0.7]


def test_the_average_is_that_of_the_recursion() -> None:
    student = TinySegmenter().to(torch.float64)
    teacher = Teacher(TinySegmenter(), student, 0.7).to(torch.float64)
    expected = {name: x.detach().clone() for name, x in student.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for step in range(6):
        for name, parameter in student.named_parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            decay = min(0.7, 1 - 1 / (step + 1))
            expected[name] = decay * expected[name] + (1 - decay) * parameter.data
        teacher.follow(student, step)
    for name, x in teacher.network.named_parameters():
        torch.testing.assert_close(x.data, expected[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_follows_in_a_few_operations_however_many_tensors_there_are(dtype: torch.dtype) -> None:
    class Counted(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(func._schema.name)
            return func(*args, **(kwargs or {}))

    names, student = list[str](), TinySegmenter()
    teacher = Teacher(TinySegmenter(), student, 0.7)
    student.to(dtype)
    with Counted():
        teacher.follow(student, 3)
    made = {"aten::detach", "aten::empty_like"}  # no work of the device
    assert len([name for name in names if name not in made]) <= 3 < len(student.state_dict())


def test_only_an_accepted_step_moves_it() -> None:
    model = tiny_mgcda(teacher_decay=0.9)
    assert model.teacher is not None
    before = copy.deepcopy(model.teacher.state_dict())
    outcome = model(tiny_batch(0), 0.1)
    outcome.loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    totals = model.total([outcome])
    assert all(torch.equal(x, before[name]) for name, x in model.teacher.state_dict().items())
    model.commit([outcome], totals)
    for name, x in model.segmenter.state_dict().items():
        assert torch.equal(model.network("ema").state_dict()[name], x), "at step 0 it is the segmenter"


def test_an_engine_sees_buffers_and_no_parameters() -> None:
    model, plain = tiny_mgcda(teacher_decay=0.9), tiny_mgcda()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert [name for name, _ in model.named_modules() if name.startswith("teacher")] == ["teacher"]
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added == {f"teacher.average/{name.replace('.', '/')}" for name in plain.segmenter.state_dict()}


def test_it_stays_wide_where_the_segmenter_becomes_narrow() -> None:
    """A step of a thousandth of a difference of 2^-8 is far below the resolution of bf16."""
    student = TinySegmenter()
    exact = {name: x.detach().clone() for name, x in student.named_parameters()}
    teacher = Teacher(TinySegmenter(), student, 0.999).bfloat16()
    for name, x in teacher.network.named_parameters():
        assert x.dtype == torch.float32 and torch.equal(x, exact[name])
    student.bfloat16()
    moved = {name: x.clone() for name, x in teacher.network.named_parameters()}
    teacher.follow(student, 10**6)
    for name, x in student.named_parameters():
        expected = 0.999 * moved[name] + 0.001 * x.float()
        torch.testing.assert_close(teacher.network.get_parameter(name), expected, rtol=1e-6, atol=1e-7)
    assert any(bool((x != moved[name]).any()) for name, x in teacher.network.named_parameters())


def test_a_state_that_is_loaded_is_the_networks() -> None:
    one, other = (Teacher(TinySegmenter(), TinySegmenter()).double() for _ in range(2))
    other.load_state_dict(one.state_dict())
    image = tiny_batch(0).image
    here: Prediction = one.network(image)
    assert torch.equal(here.logits, other.network(image).logits)
    assert not here.logits.requires_grad


def test_a_copy_moves_by_itself() -> None:
    teacher, student = Teacher(TinySegmenter(), TinySegmenter()), TinySegmenter()
    before = copy.deepcopy(teacher.network.state_dict())
    copied = copy.deepcopy(teacher)
    copied.follow(student, 0)
    for name, x in student.state_dict().items():
        assert torch.equal(copied.network.state_dict()[name], x)
        assert torch.equal(teacher.network.state_dict()[name], before[name])


class _Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.layer(x))


def test_running_statistics_are_copied_and_not_moved_by_the_teacher() -> None:
    student = _Normed().train()
    teacher = Teacher(_Normed(), student).train()
    student(torch.randn(8, 3, generator=torch.Generator().manual_seed(1)))
    teacher.follow(student, 7)
    teacher.network(torch.ones(8, 3))
    statistics = {name: x for name, x in student.state_dict().items() if name.startswith("norm.")}
    assert int(statistics["norm.num_batches_tracked"]) == 1
    for name, x in statistics.items():
        assert torch.equal(teacher.network.state_dict()[name], x)


def test_without_a_teacher_there_is_no_average_to_export() -> None:
    model = tiny_mgcda()
    assert model.network("student") is model.segmenter
    with pytest.raises(ValueError, match="no teacher"):
        model.network("ema")
