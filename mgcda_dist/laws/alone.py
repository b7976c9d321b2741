"""Laws that one process can tell: accumulation, randomness, empty sides, buffers, and a resume."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import torch

from mgcda_dist import build
from mgcda_dist.laws.findings import Difference, Finding, relative, worst
from mgcda_dist.laws.probes import STEP, Outputs, drawn_from, sums, values
from mgcda_dist.laws.scenes import EMPTY, IMAGES, Scene, cut, scene_batch
from mgcda_dist.laws.steps import PROGRESS
from mgcda_dist.laws.subject import Subject, model_of
from mgcda_dist.method.mgcda import MGCDA

__all__ = ["buffers", "empty_sides", "randomness", "resume"]

_STEPS, _HALF = 4, 2


def randomness(subject: Subject, model: MGCDA, seen: Outputs) -> Finding:
    """Law 2: nothing is drawn from a global generator, and a call says the same twice, and after other steps."""
    law, title = "2", "randomness keyed by seed, step and slot"
    everyone = list(range(IMAGES))
    generators = drawn_from(lambda: sums(model, seen, everyone))
    first, again = values(model, seen, everyone), values(model, seen, everyone)
    found = worst(Difference(relative(again[n], x), f"{n}, the same call twice") for n, x in first.items())
    if generators:
        said = (
            f"draws from the global generator of {' and '.join(generators)}, whose numbers another number of ranks "
            "or a resume changes; draw with context.uniform(purpose, …)"
        )
        return Finding(law, title, "broken", found.number, found.where, said)
    if found.number > 0:
        said = "the same step gives other numbers when it is asked again: it remembers calls, or draws by the clock"
        return Finding(law, title, "broken", found.number, found.where, said)
    # A resume goes on from a new object at a later step.
    for step in range(STEP):
        sums(model, seen, everyone, step)
    late = values(model, seen, everyone)
    fresh = values(model_of(subject), seen, everyone)
    found = worst(Difference(relative(late[n], x), f"{n}, step {STEP} of a new object") for n, x in fresh.items())
    if found.number > 0:
        said = "a step gives other numbers after earlier steps than after a resume: the loss holds state of its own"
        return Finding(law, title, "broken", found.number, found.where, said)
    return Finding(law, title, "kept", 0.0, "", "difference of a call that is repeated, or resumed at")


def empty_sides(model: MGCDA, subject: Subject, size: tuple[int, int]) -> Finding:
    """Law 3: images without a side give finite numbers, and a gradient, perhaps 0, of every trained parameter."""
    law, title, count = "3", "empty sides: finite, and every parameter touched", 0
    named = {name: x for name, x in model.named_parameters() if x.requires_grad}
    for scene in EMPTY:
        whole = scene_batch(scene, 0, size, subject.num_classes)
        parts = [cut(whole, i, IMAGES) for i in range(IMAGES)]
        counts = model.count(parts)
        for i, part in enumerate(parts):
            where = f"{scene}, a rank with image {i}"
            loss = model(part, PROGRESS, counts).loss
            if not bool(loss.isfinite()):
                said = f"the loss is {float(loss.detach())}: a mean over nothing, or a logarithm of 0; a sum is 0"
                return Finding(law, title, "broken", float(loss.detach()), where, said)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True) if loss.requires_grad else ()
            untouched = [name for name, x in zip(named, found, strict=True) if x is None] if found else list(named)
            if untouched:
                said = (
                    f"{len(untouched)} of {len(named)} trained parameters get no gradient, first {untouched[0]}: where "
                    "there is nothing to sum, return a 0 that still touches the graph (torch.where(mask, x, 0).sum())"
                )
                return Finding(law, title, "broken", float(len(untouched)), where, said)
            for name, x in zip(named, found, strict=True):
                if x is not None and not bool(x.isfinite().all()):
                    said = "a gradient is not finite: mind logarithms, roots and quotients at 0, masked or not"
                    return Finding(law, title, "broken", None, f"gradient of {name}, {where}", said)
            count += 1
    return Finding(law, title, "kept", 0.0, "", f"parameters without gradient, in {count} parts of {len(EMPTY)} scenes")


def buffers(model: MGCDA, subject: Subject, size: tuple[int, int]) -> Finding:
    """Law 4: a forward and backward pass leaves all buffers as they were."""
    law, title = "4", "no buffer changes in a forward pass"
    before = {name: x.clone() for name, x in model.named_buffers()}
    model.train()
    model(scene_batch("all sides", 0, size, subject.num_classes), PROGRESS).loss.backward()
    model.zero_grad()
    moved = [name for name, x in model.named_buffers() if not torch.equal(x, before[name])]
    if moved:
        number = relative(dict(model.named_buffers())[moved[0]], before[moved[0]])
        said = "state that a checkpoint holds must move once per step, and on all ranks alike; use a norm of one image"
        return Finding(law, title, "broken", number, ", ".join(moved[:3]), f"relative change; {said}")
    return Finding(law, title, "kept", 0.0, "", f"change of {len(before)} buffers")


def resume(subject: Subject, size: tuple[int, int]) -> Finding:
    """Law 4: training on from a snapshot ends in the same bits."""
    law, title = "4", "resume from a snapshot is bitwise equal"
    model, optimizer = _begun(subject)
    snapshot = b""
    for step in range(_STEPS):
        if step == _HALF:
            snapshot = pickle.dumps((model.state_dict(), optimizer.state_dict()))
        _train(model, optimizer, step, subject, size)
    resumed, its_optimizer = _begun(subject)
    state, optimizer_state = pickle.loads(snapshot)
    resumed.load_state_dict(state)
    its_optimizer.load_state_dict(optimizer_state)
    for step in range(_HALF, _STEPS):
        _train(resumed, its_optimizer, step, subject, size)
    found = worst(_states(resumed, model))
    if any(not torch.equal(x, resumed.state_dict()[name]) for name, x in model.state_dict().items()):
        said = f"after {_STEPS} steps; something that the state dict does not hold decides what a step does"
        return Finding(law, title, "broken", found.number, found.where, said)
    return Finding(law, title, "kept", 0.0, "", f"difference after {_STEPS} steps, resumed after {_HALF}")


def _begun(subject: Subject) -> tuple[MGCDA, torch.optim.Optimizer]:
    model = model_of(subject, torch.float32)
    return model, build.optimizer(subject.config, model)


def _train(model: MGCDA, optimizer: torch.optim.Optimizer, step: int, subject: Subject, size: tuple[int, int]) -> None:
    scene: Scene = "all sides"
    model.train()
    model(scene_batch(scene, step, size, subject.num_classes), step / _STEPS).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _states(found: MGCDA, expected: MGCDA) -> Iterator[Difference]:
    state = found.state_dict()
    for name, x in expected.state_dict().items():
        yield Difference(relative(state[name], x), name)
