"""The training engine: one DeepSpeed engine around one module, the gradient reversal included.

DeepSpeed is known here and in `deepspeed_start`, nowhere else.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mgcda_dist.choices import Exported
from mgcda_dist.errors import CheckpointError
from mgcda_dist.method.batch import Batch
from mgcda_dist.method.mgcda import MGCDA, Outcome
from mgcda_dist.method.reduce import NamedSum, StepCounts
from mgcda_dist.models.pointwise import by_onednn
from mgcda_dist.training.checkpoint.snapshot import HostCopy, write_state, write_tensors
from mgcda_dist.training.deepspeed_start import go_on_at_the_least_scale, start_deepspeed
from mgcda_dist.training.masters import Masters
from mgcda_dist.training.reduction import GradientReduction
from mgcda_dist.training.unfused import OneLookStep

__all__ = ["DeepSpeedEngine", "to_universal"]

_TAG = "engine"
_NORM = "trainer/gradient_norm"
_NOWHERE = "checkpoint"  # a folder that is never made


class DeepSpeedEngine:
    """A thin layer over DeepSpeed: forward, backward, step, learning rates, save, load.

    Args:
        model: on the CPU; moved to `device`.
        optimizer: torch optimiser over the model's parameters, one group per learning rate (`base_lr` in each group).
        config: from `deepspeed_config`.
        export_masters: with bf16 or fp16, the float32 of the optimiser begins with the weights before they were
            rounded, and is what is exported.

    Attributes:
        waits_after_backward: DeepSpeed lets the host wait for a GPU at the end of each backward pass.
    """

    def __init__(
        self,
        model: MGCDA,
        optimizer: torch.optim.Optimizer,
        config: dict[str, Any],
        device: torch.device,
        *,
        export_masters: bool = False,
    ) -> None:
        self.model, self.device = model, device
        _broadcast_buffers(model, device)
        self._zero_stage = int(config["zero_optimization"]["stage"])
        overlaps = bool(config["zero_optimization"].get("overlap_comm"))
        self.waits_after_backward = self._zero_stage == 3 or (self._zero_stage > 0 and overlaps)
        rounds = any(config[name]["enabled"] for name in ("bf16", "fp16"))
        self._scales = bool(config["fp16"]["enabled"])
        self._engine_checks = self._zero_stage > 0
        self._clip_norm = float(config["gradient_clipping"])
        if not self._engine_checks:
            # There DeepSpeed looks parameter by parameter, or not at all, and stumbles where none has a gradient.
            config = {**config, "gradient_clipping": 0.0}
        if not rounds:
            for part in (model, model.teacher.network if model.teacher else nn.Identity()):
                by_onednn(part, device)
        export_masters = export_masters and rounds
        given = {id(p): p.detach().clone() for p in model.parameters() if export_masters and p.requires_grad}
        self._engine, self._optimizer = start_deepspeed(model, optimizer, config, device)
        self._one_look: OneLookStep | None = None
        if self._zero_stage == 0 and rounds:
            self._one_look = OneLookStep(self._engine.optimizer, self._clip_norm)
        self._masters: Masters | None = None
        if export_masters:
            self._masters = Masters(self._engine.optimizer, self._zero_stage)
            self._masters.set(given)
        self._reduction: GradientReduction | None = None
        bucket = config["zero_optimization"].get("reduce_bucket_size")
        if self._zero_stage == 0 and bucket is not None and model.collectives.size > 1:
            self._engine.enable_backward_allreduce = False
            self._reduction = GradientReduction(model.parameters(), bucket * _element_size(model), model.collectives)
        self._norm, self._is_first_of_step = 0.0, True
        self._statistics, self._before = list[Tensor](), list[Tensor]()

    def close(self) -> None:
        """Let go of what DeepSpeed holds beside the engine; nothing is called after it."""
        self._engine.destroy()

    def forward(self, batch: Batch, progress: float, counts: StepCounts | None = None) -> Outcome:
        """Loss of one micro-batch; `counts` of the step, where it has several."""
        if self._is_first_of_step:
            self._keep_statistics()
            self._is_first_of_step = False
        return self._engine(batch.to(self.device), progress, counts)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of this rank's part of the loss; with the last micro-batch, sum it over ranks."""
        if self._reduction is None:
            self._engine.backward(loss)
            return
        self._reduction.begin(is_last=bool(self._engine.is_gradient_accumulation_boundary()))
        self._engine.backward(loss)
        self._reduction.end()

    def step(self, rate: float | Callable[[Mapping[str, Any]], float], totals: NamedSum | None = None) -> None:
        """Advance by one micro-batch; the last one of a step moves the parameters at `rate` × base rates.

        A gradient that is not finite is refused, on all ranks: parameters, optimiser state and the running statistics
        of normalisation stay as they were, and `gradient_norm` is infinite.

        Args:
            rate: of the schedule; or a function that gives that of a group.
            totals: of the step; the host reads its scalars with the norm, in the one look that it takes at a step.
        """
        for group in self._groups():
            group["lr"] = group["base_lr"] * (rate(group) if callable(rate) else rate)
        self._is_first_of_step = self._engine.is_gradient_accumulation_boundary()
        if self._is_first_of_step and self._one_look is not None:
            self._norm = self._one_look.look(partial(_read, totals=totals))
        elif self._is_first_of_step and not self._engine_checks:
            self._norm = self._clip_or_drop(totals)
        self._engine.step()
        if self._is_first_of_step and self._engine_checks:
            # From the sum over ranks that clipping needs; DeepSpeed looks at it before it touches a parameter.
            norm = _read(self._engine.get_global_grad_norm(), totals)
            self._norm = norm if math.isfinite(norm) and norm >= 0 else math.inf
        if self._is_first_of_step and self._norm == math.inf and self._statistics:
            torch._foreach_copy_(self._statistics, self._before)  # pyright: ignore[reportPrivateImportUsage]

    def _keep_statistics(self) -> None:
        self._statistics = _statistics(self.model)
        if len(self._before) != len(self._statistics):
            self._before = [torch.empty_like(buffer) for buffer in self._statistics]
        if self._statistics:
            torch._foreach_copy_(self._before, self._statistics)  # pyright: ignore[reportPrivateImportUsage]

    def _clip_or_drop(self, totals: NamedSum | None) -> float:
        """The norm of the gradients, which are reduced already, so that every rank finds the same."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        value = _read(norm, totals)
        if math.isfinite(value):
            if self._clip_norm > 0:
                clip_grads_with_norm_(parameters, self._clip_norm, norm)
            return value
        for parameter in parameters:
            parameter.grad = None  # without gradients torch's optimisers do nothing
        return math.inf

    def commit(self, outcomes: Sequence[Outcome], totals: NamedSum) -> None:
        """Accept the step on all ranks, in the method.

        A teacher averages whole parameters: with ZeRO 3 that costs an all-gather of those of the segmenter.
        """
        if self.model.teacher is None:
            self.model.commit(outcomes, totals)
            return
        with self.whole_parameters(self.model.segmenter):
            self.model.commit(outcomes, totals)

    def gradient_norm(self) -> float:
        """Global gradient norm of the last optimiser step, before clipping; infinite when the step was refused."""
        return self._norm

    def loss_scale(self) -> float | None:
        """Factor on the loss of the next step, with fp16; None: there is none."""
        if not self._scales:
            return None
        # Not the engine's own `loss_scale`, which is that of its configuration.
        optimizer: Any = self._optimizer
        return float(optimizer.loss_scale)

    def learning_rates(self) -> dict[str, float]:
        """Current rate by name of the groups; of several with one name, as with layer decay, the highest."""
        rates: dict[str, float] = {}
        for group in self._groups():
            rates[f"lr/{group['name']}"] = max(rates.get(f"lr/{group['name']}", 0.0), float(group["lr"]))
        return rates

    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]

    def snapshot(self, earlier: Mapping[str, HostCopy] | None = None) -> dict[str, HostCopy]:
        """Host copies of everything that this rank saves of model, optimiser and buffers; a collective.

        Args:
            earlier: a snapshot that is written; its memory is taken over.

        Returns:
            Relative file name → what writes it. Nothing has touched a disk yet: `save_checkpoint` fails on one rank and
            leaves the others waiting where a disk is full, and writes while the step waits.
        """
        states: dict[str, HostCopy] = {}
        with _collecting(self._engine, states, earlier or {}):
            self._engine.save_checkpoint(_NOWHERE, tag=_TAG, save_latest=False)
        buffers = {name: HostCopy(write_tensors, state, (earlier or {}).get(name)) for name, state in self._buffers()}
        return states | buffers

    def save(self, folder: Path) -> None:
        """Write model, optimiser and buffers; every rank its own files, and all of them are there on return."""
        for name, write in self.snapshot().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write(folder / name)
        if dist.is_initialized():
            dist.barrier()

    def load(self, folder: Path) -> None:
        """Read what `save` wrote at the same world size, or with ZeRO 0; else what `to_universal` made of it.

        Raises:
            CheckpointError: DeepSpeed found nothing to read; it would go on with the weights it has.
        """
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self._groups()]
        # Buffers of the teacher are in our own file alone.
        strict = self.model.teacher is None
        found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=strict)
        if found is None:
            raise CheckpointError(str(folder), "DeepSpeed finds no state in it", "remove it to use the one before")
        go_on_at_the_least_scale(self._engine.optimizer)  # the scaler, too, is that of the checkpoint
        # DeepSpeed's universal load of ZeRO 3 gives all groups the settings of the first, and all parameters one tensor
        # that counts steps, which each of them would advance.
        for group, own in zip(self._groups(), settings, strict=True):
            group.update(own)
        # A fused step wants them on the device, where the checkpoint of one that was not has them on the host.
        place = self.device if any(group.get("fused") for group in self._groups()) else torch.device("cpu")
        for state in self._optimizer.state.values():  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(place, copy=True)
        self._load_buffers(folder)

    def _buffers(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        # Files of our own: DeepSpeed's universal form loads parameters only, and knows no state that differs by rank.
        world = self.model.collectives
        if world.rank == 0:
            yield "buffers.safetensors", self._shared_buffers()
        if self.model.cacl is not None and self.model.cacl.queue.is_sharded:
            name = f"memory-{world.rank:05d}-of-{world.size:05d}.safetensors"
            yield name, self.model.cacl.queue.shard_state()

    def _load_buffers(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found, wanted = load_file(folder / "buffers.safetensors"), self._shared_buffers()
            if found.keys() != wanted.keys():
                raise ValueError(f"its buffers are not the model's: {sorted(found.keys() ^ wanted.keys())}")
            for name, buffer in wanted.items():
                buffer.copy_(found[name])
            if self.model.cacl is not None and self.model.cacl.queue.is_sharded:
                self.model.cacl.queue.load_shards(load_file(f) for f in sorted(folder.glob("memory-*.safetensors")))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(str(folder), str(error), "remove it to use the one before") from None

    def _shared_buffers(self) -> dict[str, Tensor]:
        """The buffers that are equal on every rank."""
        persistent = self.model.state_dict(keep_vars=True).keys()
        return {name: buffer for name, buffer in self.model.named_buffers() if name in persistent}

    @contextmanager
    def whole_parameters(self, part: nn.Module | None = None) -> Iterator[MGCDA]:
        """The model with all its parameters present, or with those of a part (ZeRO 3 holds slices); a collective."""
        if self._zero_stage < 3:
            yield self.model
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list((part or self.model).parameters()), modifier_rank=None):
            yield self.model

    @contextmanager
    def exported(self, kind: Exported) -> Iterator[nn.Module]:
        """The network that is validated and exported, with whole parameters, within the block; a collective."""
        with self.whole_parameters() as model:
            network = model.network(kind)
            own = [parameter for parameter in network.parameters() if parameter.requires_grad]
            masters = self._masters.of(own) if self._masters is not None else []
            rounded = [(parameter, parameter.data) for parameter, _ in masters]
            for parameter, master in masters:
                parameter.data = master
            try:
                yield network
            finally:
                for parameter, data in rounded:
                    parameter.data = data


def _read(norm: Any, totals: NamedSum | None) -> float:
    """The value of a norm, which waits for the device; the scalars of a step are read with it."""
    if totals is None or not isinstance(norm, Tensor):
        return float(norm)
    return totals.scalars({_NORM: norm})[_NORM]


@contextmanager
def _collecting(engine: Any, files: dict[str, HostCopy], earlier: Mapping[str, HostCopy]) -> Iterator[None]:
    """Let DeepSpeed's `save_checkpoint` hand over copies instead of writing, through its own seam for such engines."""
    from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

    class Collector(TorchCheckpointEngine):
        def makedirs(self, path: str, exist_ok: bool = False) -> None:
            pass

        def save(self, state_dict: Mapping[str, Any], path: str) -> None:
            name = os.path.relpath(path, _NOWHERE)
            if getattr(engine.module, "teacher", None) is not None and "module" in state_dict:
                # With ZeRO 3 every rank writes all buffers: of a teacher, that would be a whole network per rank.
                kept = {key: value for key, value in state_dict["module"].items() if not key.startswith("teacher.")}
                state_dict = {**state_dict, "module": kept}
            files[name] = HostCopy(write_state, state_dict, earlier.get(name))

    before = engine.checkpoint_engine
    engine.checkpoint_engine = Collector()
    # A script beside each checkpoint that turns it into weights; `model/` has them already.
    engine._copy_recovery_script = lambda save_path: None
    try:
        yield
    finally:
        engine.checkpoint_engine = before


def to_universal(source: Path, target: Path) -> None:
    """Convert what `save` wrote with ZeRO 1 to 3 into a form that loads at any number of ranks; for one process.

    Raises:
        CheckpointError: DeepSpeed's converter failed; the message ends with what it said last.
    """
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(source / _TAG), "--output_folder", str(target / _TAG)]
    # Its own process: it prints, and forks workers that must not inherit a process group or a GPU.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        problem = f"cannot be converted for another number of workers: {said}"
        raise CheckpointError(str(source), problem, "resume with the number of workers that wrote it")
    for file in source.glob("*.safetensors"):
        shutil.copy2(file, target / file.name)


def _element_size(model: nn.Module) -> int:
    return next(parameter for parameter in model.parameters() if parameter.requires_grad).element_size()


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running statistics that a forward pass moves; frozen and group norm have none."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    return [buffer for norm in norms if norm.track_running_stats for buffer in norm.buffers(recurse=False)]


def _broadcast_buffers(model: nn.Module, device: torch.device) -> None:
    """Start every rank from rank 0's buffers: DeepSpeed synchronises parameters only."""
    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        moved = buffer.data.to(device)
        dist.broadcast(moved, src=0)
        buffer.data.copy_(moved)
