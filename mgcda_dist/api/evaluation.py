"""Evaluation from a program: of runs, models, score maps of other methods, and any module, function or ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from mgcda_dist import references
from mgcda_dist.api.own import AnyScore
from mgcda_dist.api.run import Run
from mgcda_dist.choices import ComponentTrack, Convention, KnownClassSpace
from mgcda_dist.errors import ConfigError
from mgcda_dist.files import prepare_folder
from mgcda_dist.references import PREFIX, resolve

if TYPE_CHECKING:
    from torch import nn

    from mgcda_dist.config.run import EvaluationSetConfig
    from mgcda_dist.evaluation.job import EvaluationJob
    from mgcda_dist.evaluation.results import EvaluationResults
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.runs.evaluation_request import EvaluationOptions, EvaluationRequest

__all__ = ["Advance", "Shards", "do_request", "evaluate", "folders_for", "followed"]

_POLL_S = 0.25
_OTHER = "give another folder, or `overwrite`"

Shards = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
"""Folder or URL of shards, several, or several by the name of their set."""
Advance = Callable[[int, int, str], None]
"""Told the frames done, of so many, and what is evaluated."""


def evaluate(
    subject: Run | ExportedModel | nn.Module | Callable[..., Any] | str | Path,
    shards: Shards = (),
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    name: str = "",
    workers: int = 1,
    score: AnyScore | None = None,
    height_px: int | None = None,
    longest_side_px: int | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window_px: tuple[int, int] | tuple[()] | None = None,
    window_overlap: float | None = None,
    blur: bool | None = None,
    conventions: Sequence[Convention] | None = None,
    components: ComponentTrack | None = None,
    instances: bool | None = None,
    threshold: float | None = None,
    max_frames: int | None = None,
    kept_frames: int | None = None,
    resize_maps: bool = False,
    ignore_extra_maps: bool = False,
    class_space: KnownClassSpace | None = None,
    input_range: str | None = None,
    progress: Advance | None = None,
) -> EvaluationResults:
    """Measure AP, AUROC, FPR95, mIoU and more, with intervals; see docs/metrics.md.

    Args:
        subject: a run, its folder, a checkpoint, an exported model; a folder or archive of score maps of another
            method; an ONNX file; a module, N×3×H×W RGB in 0…255 (uint8 or float) → logits N×C×h×w or `Prediction`; or
            a function, or `python:MODULE:NAME` of one, of an image: uint8 H×W×3 → scores H×W, or (scores, classes).
        shards: what to evaluate on; left out: a run's own sets.
        out: folder of the results. Left out: `evaluation` beside the model or maps, or the next free `evaluation-2`;
            of an object in memory nothing is written.
        overwrite: replace another evaluation in `out`, or write into it although it holds other files, which stay.
        name: shown in tables; empty: the run's, or the folder's.
        workers: processes that share the frames of a run or model.
        score: anomaly score, by name or of one's own, as of `train`; None: as the run; of other logits `energy`.
        height_px: height of the network's input, 0 for the frame's own; None: as the run.
        longest_side_px: longer side of the network's input, instead of its height.
        scales, flip, window_px, window_overlap, blur: as in the section `evaluation`; an empty window: whole frames;
            None: as the run.
        conventions: how frames are pooled, the first one for the tables.
        components: component metrics of SegmentMeIfYouCan, by track.
        instances: instance AP of OoDIS.
        threshold: of components and instances; None: best F1 on the same set.
        max_frames: the first frames of each set only.
        kept_frames: so many of the worst and of the best frames get pictures.
        resize_maps, ignore_extra_maps: of score maps; as of `mgcda evaluate`.
        class_space: of what is no run's, whose logits are those of its classes, in their order; None: no mIoU.
        input_range: of a module or ONNX file whose input is floating point: `0-255`, `0-1`, `imagenet`, or
            `MEAN,MEAN,MEAN/STD,STD,STD` in units of 0…1; None: a module gets 0…255.
        progress: told of frames done.

    Raises:
        MgcdaError: a model, set, frame, map or option that cannot be used.
    """
    from torch import nn

    from mgcda_dist.evaluation.foreign import is_foreign
    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.runs.evaluation_request import EvaluationOptions, map_request, model_request
    from mgcda_dist.runs.foreign_request import foreign_request

    options = EvaluationOptions(
        max_frames=max_frames,
        conventions=conventions,
        components=components,
        instances=instances,
        threshold=threshold,
        kept_frames=kept_frames,
        score=None if score is None else references.expanded(references.reference(score, "score"), "score"),
        height_px=height_px,
        longest_side_px=longest_side_px,
        scales=scales,
        flip=flip,
        window_px=window_px,
        window_overlap=window_overlap,
        blur=blur,
    )
    sets = _sets(shards)
    if isinstance(subject, nn.Module):
        where = None if out is None else Path(out)
        job = _module_job(subject, sets, options, name, class_space, input_range)
        return _of_module(subject, job, where, overwrite, progress)
    advance = progress or (lambda done, total, what: None)
    is_object = not isinstance(subject, Run | ExportedModel | str | Path)
    if is_object and not callable(subject):
        kind = type(subject).__name__
        remedy = "give a run, a model, a module, a function of an image, or a folder of score maps"
        raise ConfigError("subject", f"is a{'n' if kind[0] in 'aeiouAEIOU' else ''} {kind}", remedy)
    text = references.reference(subject, "subject") if is_object else str(subject)
    text = references.expanded(text, "evaluate")
    if not isinstance(subject, Run | ExportedModel) and is_foreign(text):
        request = foreign_request(text, sets, options, name=name, class_space=class_space, input_range=input_range)
        if is_object and out is None:
            with TemporaryDirectory() as folder:
                return do_request(request, Path(folder) / "evaluation", workers, advance)
        (folder,) = folders_for([request], None if out is None else Path(out), overwrite=overwrite)
        return do_request(request, folder, workers, advance)
    shown = subject if isinstance(subject, str | Path) else type(subject).__name__
    for option, value in (("class_space", class_space), ("input_range", input_range)):
        if value is not None:
            raise ConfigError(option, f"is of a module, function or ONNX file, and not of {shown}", "leave it out")
    if isinstance(subject, Run):
        subject.register()
    path = subject.folder if isinstance(subject, Run | ExportedModel) else Path(text)
    if _holds_model(path):
        request = model_request(path, sets, options, name=name)
    else:
        if options.of_network():
            problem = f"is an option of a network, and {path} holds none"
            raise ConfigError(options.of_network()[0], problem, "leave it out, or give a run or an exported model")
        request = map_request(path, sets, options, name=name, resize=resize_maps, ignore_extra=ignore_extra_maps)
    (folder,) = folders_for([request], None if out is None else Path(out), overwrite=overwrite)
    return do_request(request, folder, workers, advance)


def folders_for(requests: Sequence[EvaluationRequest], out: Path | None, *, overwrite: bool) -> list[Path]:
    """The folder of each one's results; folders that cannot be used are refused before anything is evaluated.

    Args:
        out: for one request the folder itself, for several the one above theirs; None: beside what is evaluated.
    """
    from mgcda_dist.evaluation.folder import free_folder

    names = [request.job.name for request in requests]
    for name in names:
        if names.count(name) > 1 and out is not None:
            remedy = f"call one of them another name: {name}_2=FOLDER"
            raise ConfigError("evaluate", f"two of the evaluated are called {name!r}", remedy)
    if out is not None and len(requests) > 1 and not overwrite:
        _refuse_other_tables(out)
    folders: list[Path] = []
    for request in requests:
        identity = request.job.identity()
        if out is None:
            folder = free_folder(request.beside, identity)
        else:
            folder = (out if len(requests) == 1 else out / request.job.name).absolute()
            _refuse_other_content(folder, identity, overwrite=overwrite)
        folders.append(folder)
    for folder in folders:
        prepare_folder(folder)
    return folders


def _refuse_other_content(folder: Path, identity: str, *, overwrite: bool) -> None:
    from mgcda_dist.evaluation.folder import other_content

    if not overwrite and folder.is_dir() and (problem := other_content(folder, identity)):
        raise ConfigError("out", f"{folder} {problem}", _OTHER)


def _refuse_other_tables(out: Path) -> None:
    """Refuse a folder whose tables are not those of several evaluations below it."""
    from mgcda_dist.evaluation.results import RESULTS

    if (out / RESULTS).exists():
        raise ConfigError("out", f"{out} holds the results of another evaluation", _OTHER)
    tables = any((out / name).exists() for name in ("results.md", "results.tex"))
    if tables and next(out.glob(f"*/{RESULTS}"), None) is None:
        raise ConfigError("out", f"{out} holds other files", _OTHER)


def do_request(
    request: EvaluationRequest,
    folder: Path,
    workers: int,
    advance: Advance,
) -> EvaluationResults:
    """Evaluate into a folder, from `folders_for`, here or on so many workers of Ray."""
    from mgcda_dist.evaluation.results import EvaluationResults
    from mgcda_dist.training.worker import evaluate as work

    # Plain values: workers of Ray get them as JSON has them.
    arguments: dict[str, Any] = {"job": request.job.as_json(), "out": str(folder)}
    if workers > 1 and request.scaling is not None:
        from mgcda_dist.api.waiting import wait_for

        scaling = request.scaling_for(workers)
        code = _code_of(request.job.path, request.job.settings.score)
        arguments |= {"on_gpu": scaling.num_gpus > 0, "objects": code}

        def launched() -> None:
            from mgcda_dist.cluster.trainer import launch

            launch(scaling, [workers], folder, "evaluate", arguments)

        with followed(folder, advance):
            wait_for(launched, lambda stopping: None)
    else:

        def tell(name: str, done: int, total: int) -> None:
            advance(done, total, f"{request.job.name} on {name}")

        work(**arguments, on_gpu=request.scaling is not None, progress=tell)
    return EvaluationResults.load(folder)


@contextmanager
def followed(folder: Path, advance: Advance) -> Iterator[None]:
    """Tell the progress that workers append to the folder's events, while the body waits for them."""
    from mgcda_dist.runs.events import EVENTS, NewLines

    lines, over = NewLines(folder / EVENTS), Event()

    def follow() -> None:
        while True:
            ends = over.wait(_POLL_S)  # read before the last lines are, so that none is missed
            for event in lines.read():
                if event["kind"] == "progress":
                    advance(event["done"], event["total"], event["text"].partition(":")[0])
            if ends:
                return

    thread = Thread(target=follow, name="follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _sets(shards: Shards) -> list[EvaluationSetConfig]:
    from mgcda_dist.runs.evaluation_request import sets_of

    if isinstance(shards, Mapping):
        return sets_of([f"{name}={place}" for name, place in shards.items()])
    return sets_of([str(place) for place in ([shards] if isinstance(shards, str | Path) else shards)])


def _holds_model(path: Path) -> bool:
    from mgcda_dist.errors import CheckpointError
    from mgcda_dist.models.exported import model_folder

    try:
        model_folder(path)
    except CheckpointError:
        if (path / "config.yaml").is_file():
            raise  # a run without a model yet
        return False
    return True


def _code_of(path: str, score: str) -> dict[str, Any]:
    """A user's code that a subject and its score need, by reference: this process has used it, workers may, too."""
    from mgcda_dist.cluster.travel import check_travels
    from mgcda_dist.evaluation.foreign import is_foreign
    from mgcda_dist.models.exported import read_metadata

    own = [path if path.startswith(PREFIX) else ""] if is_foreign(path) else read_metadata(Path(path)).code()
    named = [*own, (score if score.startswith(PREFIX) else "")]
    found = {text: resolve("the model", text) for text in named if text}
    check_travels(found)
    return found


def _module_job(
    network: nn.Module,
    sets: Sequence[EvaluationSetConfig],
    options: EvaluationOptions,
    name: str,
    class_space: KnownClassSpace | None,
    input_range: str | None,
) -> EvaluationJob:
    from mgcda_dist.evaluation.foreign import tensors_digest
    from mgcda_dist.runs.foreign_request import foreign_job

    return foreign_job(
        name or type(network).__name__,
        "",
        sets,
        options,
        class_space=class_space,
        input_range=input_range,
        gives_scores=False,
        digest=tensors_digest(network),
    )


def _of_module(
    network: nn.Module, job: EvaluationJob, out: Path | None, overwrite: bool, progress: Advance | None
) -> EvaluationResults:
    """Evaluate a module in memory, on the device of its parameters."""
    import torch

    from mgcda_dist.evaluation.folder import write_evaluation
    from mgcda_dist.evaluation.foreign import TensorNetwork
    from mgcda_dist.evaluation.job import run_job
    from mgcda_dist.method.collectives import Collectives
    from mgcda_dist.models.scores import scorer

    if out is not None:
        _refuse_other_content(out, job.identity(), overwrite=overwrite)
        prepare_folder(out)
    assert job.settings.network is not None
    segmenter = TensorNetwork(
        network,
        type(network).__name__,
        job.digest,
        num_classes=len(job.class_names),
        input_range=job.settings.network.input_range,
        reads=scorer(job.settings.score).reads,
    )

    def tell(name: str, done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, f"{job.name} on {name}")

    first, was_training = next(network.parameters(), None), network.training
    device = "cpu" if first is None else first.device
    try:
        evaluation = run_job(job, Collectives(), torch.device(device), tell, segmenter.eval())
    finally:
        network.train(was_training)
    results = evaluation.record()
    if out is not None:
        write_evaluation(results, evaluation.results, out)
    return results
