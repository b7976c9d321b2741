"""One worker of a run, as Ray Train starts it: build, resume, fit, evaluate, save."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mgcda_dist import build, checks, references
from mgcda_dist.config.phases import Phase
from mgcda_dist.config.run import EngineConfig
from mgcda_dist.config.schema import Config
from mgcda_dist.errors import CheckpointError, ConfigError, LeavingError
from mgcda_dist.evaluation.evaluate import EvaluationProgress
from mgcda_dist.evaluation.folder import write_evaluation
from mgcda_dist.evaluation.job import EvaluationJob, run_job
from mgcda_dist.method.collectives import Collectives
from mgcda_dist.runs.events import EVENTS, append_event, evaluation_progress
from mgcda_dist.runs.folder import RunFolder, mlflow_uri
from mgcda_dist.runs.pictures import Previews, draw_results
from mgcda_dist.runs.records import open_trackers
from mgcda_dist.runs.room import optional
from mgcda_dist.tracking.mlflow_system import NodeMonitor
from mgcda_dist.tracking.tracker import Status, Tracker, Trackers
from mgcda_dist.training.border import keep_phase, keep_width, phase_of, started
from mgcda_dist.training.callbacks import Callbacks
from mgcda_dist.training.checkpoint.resume import Found, Saver, find, keep_model, resume
from mgcda_dist.training.checkpoint.store import CheckpointStore
from mgcda_dist.training.checkpoint.writer import CheckpointWriter
from mgcda_dist.training.conclude import conclude
from mgcda_dist.training.deepspeed_start import deepspeed_config
from mgcda_dist.training.device import set_up
from mgcda_dist.training.engine import DeepSpeedEngine
from mgcda_dist.training.gpu_meter import gpu_meter
from mgcda_dist.training.loop import Hooks, fit
from mgcda_dist.training.profiler import Profiler
from mgcda_dist.training.progress import PROGRESS, StopRequest
from mgcda_dist.training.state import TrainState
from mgcda_dist.training.validation import Validation

__all__ = ["evaluate", "train"]

_NONE: Mapping[str, Any] = MappingProxyType({})


def train(config: Config, *, start_over: bool = False, objects: Mapping[str, Any] = _NONE) -> None:
    """Train this rank's part of the run, from the newest whole checkpoint if there is one.

    Args:
        start_over: begin at step 0 without asking, where all checkpoints are damaged.
        objects: by reference, those that the configuration names and no other process can import.
    """
    references.register(objects)
    limit = timedelta(seconds=config.scaling.collective_s(compiles=config.compiles))
    run, world = RunFolder(config), Collectives(timeout=limit)
    with _logs(run.logs / f"worker-{world.rank}.log"):
        # Ray leaves a machine's GPUs visible to workers that asked for none; alone, without workers, any GPU will do.
        on_gpu = config.scaling.num_gpus > 0 or not dist.is_initialized()
        device = _device(on_gpu)
        if config.scaling.num_gpus > 0 and device.type == "cpu":
            raise ConfigError(
                "scaling.gpus_per_worker",
                f"a worker on {platform.node()} has no GPU that torch can use",
                "run `mgcda doctor` on the cluster, or set scaling.gpus_per_worker=0",
            )
        worker = _Worker(config, run, world, device, start_over=start_over)
        state = worker.state
        tracker = worker.open_tracker(state.step)
        callbacks = worker.open_callbacks(state, tracker)
        status: Status = "FAILED"
        results = dict[str, float]()
        try:
            callbacks.start()
            ended_by = worker.fit(state, tracker, callbacks)
            status = "KILLED"
            try:
                worker.end_writing(state, ended_by)
            finally:
                callbacks.checkpoints()
            if ended_by == StopRequest.NONE:
                worker.complete(state)  # it may be the best one
                callbacks.checkpoints()
                with worker.engine.exported(worker.config.model.export) as network:
                    selection = keep_model(worker.config, run, worker.store, network, world)
                worker.complete(state)  # room was waited for
                callbacks.checkpoints()
                found = conclude(worker.config, run, world, worker.device, tracker, selection, state.step)
                results = callbacks.shared(found)
                status = "FINISHED"
        finally:
            callbacks.end(status, results)
            tracker.close(status)
        callbacks.settle()


class _Worker:
    """One rank of a run: the network in its engine, the checkpoints, and how the loop reaches them.

    Attributes:
        config: of the phase of the training that is going on.
        state: of the newest checkpoint, or of a new run.
    """

    def __init__(
        self, config: Config, run: RunFolder, world: Collectives, device: torch.device, *, start_over: bool
    ) -> None:
        self._of_run, self.run, self.world, self.device = config, run, world, device
        self.store = CheckpointStore(run.checkpoints, config.checkpoint.keep)
        PROGRESS.stats = world.stats
        found = find(self.store, world, config.checkpoint, run, start_over=start_over)
        self.state = TrainState() if found is None else found.state
        self._phases = config.training_phases
        self._enter(phase_of(self._phases, self.state), found)
        if found is not None:
            resume(self.engine, found, world, self.say)
        self.writer = CheckpointWriter(self.store, world, self.say)

    def _enter(self, phase: Phase, found: Found | None) -> None:
        """Build the network and the engine of a phase.

        Args:
            found: checkpoint whose state the engine will load; None: a network that starts as the phase says.
        """
        config, run, world, device = phase.config, self.run, self.world, self.device
        self._phase, self.config, self._bare = phase, config, None
        self.store.best_after = phase.first_step
        engine = config.engine.on(gpu=device.type == "cuda")
        set_up(device, engine)
        _announce(phase, engine, run, world)
        PROGRESS.begin()
        before = self._phases[phase.index - 1] if phase.index else None
        model = build.mgcda(started(phase, before, run), world)
        keep_width(model, self.state, goes_on=found is not None)
        for text in checks.doubts(config, model.segmenter):
            self.say(text)
        self._meter = gpu_meter(config, engine, model, device, self.say)
        self.say(build.learning_in_words(config, model))
        self.engine = DeepSpeedEngine(
            model,
            build.optimizer(config, model, fused=bool(engine.fused_optimizer)),
            deepspeed_config(
                micro_batch=config.data.global_batch // (world.size * engine.accumulation),
                accumulation=engine.accumulation,
                zero_stage=engine.zero_stage,
                precision=engine.precision,
                clip_norm=config.optim.clip_norm,
                bucket_mb=engine.bucket_mb if engine.overlap_comm and world.size > 1 else None,
                load_universal=found is not None and found.convert,
            ),
            device,
            export_masters=bool(engine.export_masters),
        )

    def say(self, text: str) -> None:
        """Tell the user once, whichever rank calls."""
        if self.world.rank == 0:
            self.run.say("note", text)

    def open_tracker(self, start_step: int) -> Tracker:
        """The tracker of this rank, for steps from `start_step` on."""
        leads = self.world.rank == 0
        tracker = open_trackers(self._of_run, self.run, start_step, leads=leads, say=self.say)
        return _with_node_monitor(tracker, self._of_run, self.run, self.world) if self.world.size > 1 else tracker

    def open_callbacks(self, state: TrainState, tracker: Tracker) -> Callbacks:
        """The callbacks of this rank; an early end that one of them has asked for stands while it is configured."""
        end = state.early_end
        if end is not None and end.callback not in [entry.use for entry in self.config.callbacks]:
            self.say(f"training goes on from step {state.step}: {end.callback}, which had ended it, is gone")
            state.early_end = None
        return Callbacks(
            self._of_run,
            self.run,
            self.world,
            PROGRESS,
            network=self._present_network,
            is_sliced=lambda: self._phase.config.engine.zero_stage == 3,
            log=tracker.log_metrics,
            committed=self.writer.newly_committed,
            start_step=state.step,
        )

    def fit(self, state: TrainState, tracker: Tracker, callbacks: Callbacks) -> StopRequest:
        """Train from `state.step` to the last step of the last phase; returns the request that ended it before."""
        while True:
            ended_by = self._fit_phase(state, tracker, callbacks)
            if self._phase.is_last or ended_by != StopRequest.NONE or state.early_end is not None:
                return ended_by
            if not self.writer.flush():
                self.saver.repeat(state)
                self.writer.flush()
            keep_phase(self._phase, self.run, self.engine, self.world)
            self.engine.close()
            self._bare = None  # it holds the engine, too
            del self.engine, self.saver
            gc.collect()  # its modules and hooks refer to each other
            state.phase += 1
            state.peak_accuracy.clear()
            self._enter(self._phases[state.phase], None)

    def _fit_phase(self, state: TrainState, tracker: Tracker, callbacks: Callbacks) -> StopRequest:
        """Train to the last step of the phase; returns the request that ended it before."""
        config = self.config
        self.saver = Saver(self.engine, self.writer, config, self._of_run, self.world)
        validation = self._validation()
        preview, say = build.preview_job(config), partial(self.run.say, "storage")
        previews = None if preview is None else Previews(preview, self.run.pictures, tracker.log_picture, say)
        profiler = self._profiler(state.step, tracker)
        on_gpu = self.device.type == "cuda"
        loader = build.training_stream(config, self.world.rank, self.world.size, start_step=state.step, on_gpu=on_gpu)

        def log(step: int, metrics: dict[str, float]) -> None:
            tracker.log_metrics(metrics | callbacks.times(), step)
            if previews is not None:
                previews.settle(wait=False)

        def alarm(name: str, text: str) -> None:
            self.say(text)
            tracker.set_tags({f"health.{name}": text})

        def summed(sums: dict[str, int]) -> None:
            self.writer.settle(sums["written"], sums["failed"])
            callbacks.summed(sums)

        def checkpoint(numbers: dict[str, float]) -> None:
            self.saver.start(state, numbers)
            PROGRESS.enter("preview", state.step)
            due = state.step % config.checkpoint.every_steps == 0 and state.step < config.optim.steps
            if previews is not None and due:
                previews.draw(validation.network(), state.step, self.world, self.device)

        hooks = Hooks(
            log=log,
            say=self.say,
            say_everywhere=partial(self.run.say, "note"),
            alarm=alarm,
            stop_request=self._stop_request,
            local_sums=lambda: self.writer.local_sums() | callbacks.local_sums(),
            summed=summed,
            validate=validation.measure,
            checkpoint=checkpoint,
            last_good=self.writer.last_good,
            progress=PROGRESS,
            early_end=callbacks.early_end,
            stepped=callbacks.stepped if callbacks.are_there else None,
            meters=[meter for meter in (self._meter, profiler) if meter is not None],
            part=Hooks.part if profiler is None else profiler.part,
        )
        ended_by = StopRequest.NONE
        try:
            if state.step < config.optim.steps and state.early_end is None:
                first_step = self._phase.first_step
                ended_by = fit(self.engine, iter(loader), state, config, hooks, first_step=first_step)
        finally:
            PROGRESS.enter("", state.step)
            if profiler is not None:
                profiler.close()
            if previews is not None:
                previews.settle()
        if state.early_end is not None:
            steps = f"{state.step} of {self._of_run.optim.steps} steps"
            self.say(f"training ends early, after {steps}: {state.early_end.reason}")
        return ended_by

    def _profiler(self, start_step: int, tracker: Tracker) -> Profiler | None:
        num_steps, folder = self.config.tracking.profile_steps, self.run.profile
        if num_steps == 0 or self.world.rank != 0:
            return None
        keep = partial(tracker.log_artifact, folder=folder.name)
        return Profiler(folder, num_steps, start_step, self.device, self.say, keep)

    def end_writing(self, state: TrainState, ended_by: StopRequest) -> None:
        """Wait for the last checkpoint; a collective.

        Raises:
            LeavingError: the workers were asked to leave.
            CheckpointError: the run was asked to stop, and its checkpoint could not be written.
        """
        self._is_committed = self.writer.flush()
        if ended_by == StopRequest.LEAVE:
            reason = PROGRESS.reason or "another worker was asked to leave"
            if not self._is_committed:
                reason += f"; its checkpoint could not be written. {self.writer.last_good()}"
            raise LeavingError(f"step {state.step}", reason)
        if ended_by == StopRequest.STOP and not self._is_committed:
            raise CheckpointError(
                str(self.run.checkpoints),
                f"stopped at step {state.step}, whose checkpoint could not be written. {self.writer.last_good()}",
                "events.jsonl says why; the same command goes on from the last good one",
            )

    def complete(self, state: TrainState) -> None:
        """Write the checkpoint of the last step once more if there was no room for it; a collective."""
        if not self._is_committed:
            self.saver.repeat(state)
            self._is_committed = self.writer.flush()

    def _present_network(self) -> nn.Module:
        """A copy of the bare network with the present weights; a collective with ZeRO 3."""
        if self._bare is None:
            self._bare = self._validation(measures=False)
        return self._bare.network()

    def _validation(self, *, measures: bool = True) -> Validation:
        """A bare network beside the one in training; `measures`: with the evaluation that chooses a checkpoint."""
        config, best = self.config, self.config.checkpoint.best
        return Validation(
            self.engine,
            config.model.export,
            partial(build.segmenter, config, "none"),
            build.validation_job(config) if measures else None,
            best.metric if best is not None else "",
            self.world,
            self.device,
        )

    def _stop_request(self) -> StopRequest:
        return StopRequest.STOP if self.world.rank == 0 and self.run.stop_file.exists() else PROGRESS.request


def evaluate(
    job: dict[str, Any],
    out: str,
    *,
    on_gpu: bool,
    progress: EvaluationProgress | None = None,
    objects: Mapping[str, Any] = _NONE,
) -> None:
    """Do an evaluation job; rank 0 writes its folder.

    Args:
        job: an `EvaluationJob` as JSON: it has travelled to this process.
        out: folder that receives the results.
        on_gpu: run the network on this worker's GPU, if there is one.
        progress: told the set's name, frames done and frames in all; None: rank 0 says it in the folder's events.
        objects: by reference, what the model names and the sender trusts.
    """
    references.register(objects)
    world = Collectives()
    if progress is None and world.rank == 0:
        progress = evaluation_progress(partial(append_event, Path(out) / EVENTS))
    device = _device(on_gpu)
    with _logs(Path(out) / "logs" / f"worker-{world.rank}.log"):
        evaluation = run_job(EvaluationJob.of_json(job), world, device, progress)
        if world.rank == 0:
            say = partial(append_event, Path(out) / EVENTS, "storage")
            optional("pictures", lambda: draw_results(evaluation, Path(out) / "pictures"), say)
            write_evaluation(evaluation.record(), evaluation.results, Path(out))


def _announce(phase: Phase, engine: EngineConfig, run: RunFolder, world: Collectives) -> None:
    """Tell the user what is built, and for the record where each rank is and what it uses there; a collective.

    Args:
        engine: with the values that stand where the configuration says null.
    """
    own = {
        "host": platform.node(),
        "process": os.getpid(),
        "node": int(os.environ.get("NODE_RANK", "0")),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME"),
        "threads": torch.get_num_threads(),
    }
    # Only for events.jsonl, so without a type of its own.
    workers: list[dict[str, Any]] = world.gather_objects(own, "workers")
    if world.rank != 0:
        return
    nodes = len({worker["host"] for worker in workers})
    where = f", {world.size} workers on {nodes} nodes" if nodes > 1 else ""
    config = phase.config
    text = f"building {config.model.shown} with {len(config.data.domains)} domains{where}"
    if phase.name:
        text = f"phase {phase.name}, steps {phase.first_step} to {phase.end_step}: {text}"
    used = engine.model_dump(mode="json")
    run.say("phase", text, host=platform.node(), process=os.getpid(), workers=workers, engine=used)


def _with_node_monitor(tracker: Tracker, config: Config, run: RunFolder, world: Collectives) -> Tracker:
    """The tracker; on the first worker of a node without rank 0, one that samples that node into rank 0's run."""
    leads = world.rank == 0
    own = run.run_id_file.read_text(encoding="utf-8").strip() if leads and run.run_id_file.is_file() else ""
    run_id = world.from_first(own, "tracker")
    uri = mlflow_uri(config)
    first_of_another_node = os.environ.get("LOCAL_RANK") == "0" and os.environ.get("NODE_RANK", "0") != "0"
    if not (run_id and uri and config.tracking.system_metrics and first_of_another_node):
        return tracker
    # Over a network file system several nodes would spoil a database file.
    return tracker if uri.startswith("sqlite:") else Trackers([NodeMonitor(uri, run_id, platform.node())])


def _device(on_gpu: bool) -> torch.device:
    """The current GPU if this worker may use one and there is one, else the processor."""
    if not (on_gpu and torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def _logs(path: Path) -> Iterator[None]:
    """Send this process's log records to a file of the run; an error that ends the worker is written there too.

    Where the file cannot be opened they go to stderr.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path)
    except OSError:
        handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except Exception:
        logging.getLogger(__name__).exception("the worker ends")
        raise
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):  # a full disk, whose error would take the place of the one that is raised
            handler.close()
