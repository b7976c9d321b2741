"""Prediction of many images and videos: prefetched, run in batches and written in the background, in bounded memory.

An input whose record has the same settings and the same file is not predicted again, so a repeated command resumes.
An input that cannot be read is reported, and the others are predicted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, FiniteFloat

from mgcda_dist import __version__
from mgcda_dist.choices import Exif
from mgcda_dist.data.pixels import Pixels
from mgcda_dist.data.prefetch import prefetch
from mgcda_dist.errors import ConfigError, MgcdaError, SampleError
from mgcda_dist.evaluation.results import NetworkSettings
from mgcda_dist.evaluation.test_time import TestTimeAugmentation
from mgcda_dist.files import prepare_folder, write_json_atomically
from mgcda_dist.inference.anomalies import find_anomalies
from mgcda_dist.inference.model import ExportedModel
from mgcda_dist.inference.operating import Threshold
from mgcda_dist.inference.outputs import LOWEST_FPS, Codec, FrameResult, Output, VideoOutput, write_image
from mgcda_dist.inference.overlay import Legend, overlay
from mgcda_dist.inference.pipeline import BackgroundWriter, batches
from mgcda_dist.inference.sources import RECORD, Source, Video, read_image
from mgcda_dist.trust import read_object

_RESULT_BYTES = 1 << 40
"""Bound on results of ours: those of a long video are large."""
_MISCOUNTED_FRAMES, _MISSING_SHARE = 2, 0.1
"""Headers often count a frame or two too many, which is not said; but of a short video more than a tenth is."""

__all__ = ["PredictOptions", "Predicted", "Progress", "check_output_folder", "notes_of", "predict", "prediction_id"]

_T = TypeVar("_T")


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError("is no range: give the lowest and the highest score, in this order")
    return ends


_Count = Annotated[int, Field(ge=1)]
_Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_ascending)]

Progress = Callable[[str, int, int], None]
"""Callback with the name of an input, its finished frames, and the number of its frames (0: unknown)."""


@dataclass(frozen=True)
class PredictOptions:
    """Settings of a prediction and its outputs; the types say what `api.prediction` refuses.

    Attributes:
        height_px: of the network's input; 0: the frame's own, or as `longest_side_px` says.
        longest_side_px: of the network's input, instead of its height; 0: not given.
        threshold: of anomalies, with its origin.
        min_area_px: smaller anomalies are left out.
        blur: 7×7, σ = 1 blur of the score map.
        shown_range: scores that the colours cover; None: the range of the first frame.
        outputs: kinds of files written besides the records.
        batch: frames per forward pass.
        every: every so many frames of a video are predicted.
        exif: use of the orientation marks of images; the choice of the shards, for scores that fit their labels.
    """

    score: str
    height_px: int
    threshold: Threshold = field(default_factory=partial(Threshold, None, "not chosen"))
    min_area_px: _Count = 50
    augmentation: TestTimeAugmentation = field(default_factory=TestTimeAugmentation)
    blur: bool = False
    shown_range: _Range | None = None
    outputs: tuple[Output, ...] = ("overlay",)
    batch: _Count = 1
    every: _Count = 1
    codec: Codec = "vp9"
    exif: Exif = "upright"
    longest_side_px: int = 0

    def as_json(self) -> dict[str, Any]:
        """The settings of `predictions.json`, which the results depend on; the batch only changes rounding."""
        threshold = {"threshold": self.threshold.value, "threshold_source": self.threshold.source}
        own = ("score", "height_px", "min_area_px", "blur", "shown_range", "outputs", "every", "codec", "exif")
        size = {"longest_side_px": self.longest_side_px} if self.longest_side_px else {}
        return threshold | {name: getattr(self, name) for name in own} | size | asdict(self.augmentation)

    def evaluation_settings(self) -> dict[str, Any]:
        """The settings that an evaluation has as well, by their keys in `results.json`."""
        longest = self.longest_side_px or None
        network = NetworkSettings(self.height_px or None, self.augmentation, self.blur, longest_side_px=longest)
        return {"score": self.score} | network.as_json()


class InputSummary(TypedDict):
    """Entry of `predictions.json` for one predicted input."""

    input: str
    name: str
    kind: str  # image or video
    record: str
    max_score: float
    anomalies: NotRequired[int]  # with a threshold only
    notes: NotRequired[list[str]]  # on what is not as one may expect, if anything


class FailedInput(TypedDict):
    """Entry of `predictions.json` for an input that could not be read."""

    input: str
    problem: str


@dataclass
class Predicted:
    """Summary of a prediction.

    Attributes:
        done: one entry per predicted input, in order.
        failed: one entry per input that could not be read.
        resumed: number of entries of `done` from an earlier call.
        frames: frames predicted in this call.
    """

    done: list[InputSummary] = field(default_factory=list[InputSummary])
    failed: list[FailedInput] = field(default_factory=list[FailedInput])
    resumed: int = 0
    frames: int = 0


def notes_of(record: Mapping[str, Any], *, overlay: bool) -> list[str]:
    """Notes on a video: frames that were announced and not read, and a written rate that is not the video's."""
    notes: list[str] = []
    read, announced = record["frames_read"], record["frames_announced"]
    if announced - read > min(_MISCOUNTED_FRAMES, _MISSING_SHARE * announced):
        notes.append(f"{read} of the {announced} frames that its header announces could be read; is it complete?")
    if overlay and record["fps"] / record["every"] < LOWEST_FPS:
        notes.append(f"its overlay has {LOWEST_FPS} frames per second, the fewest that are written")
    return notes


def prediction_id(model: ExportedModel, options: PredictOptions) -> str:
    """Digest of the weights and settings: equal for predictions that give equal results."""
    content = json.dumps([model.digest, options.as_json()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_output_folder(out: Path, identity: str, *, overwrite: bool) -> None:
    """Make the folder, and refuse one with other content than this prediction's.

    Raises:
        ConfigError: results of another model or of other settings, or other files.
        MgcdaError: a file, or a folder that cannot be written to.
    """
    prepare_folder(out)
    if overwrite or not any(out.iterdir()):
        return
    before = read_object(out / RECORD, _RESULT_BYTES)
    if not before:
        raise ConfigError(str(out), "holds other files", "give another folder, or `overwrite`")
    if before.get("prediction_id") != identity:
        problem = "holds predictions of another model or with other settings"
        raise ConfigError(str(out), problem, "give another folder, or `overwrite`")


def predict(
    model: ExportedModel,
    sources: Sequence[Source],
    out: Path,
    options: PredictOptions,
    progress: Progress | None = None,
) -> Predicted:
    """Predict every source; writes the results below `out`, and their list to `predictions.json`.

    Args:
        sources: from `find_sources`.
        out: folder of results, created if missing; check it with `check_output_folder`.
        progress: called after every frame.

    Raises:
        MgcdaError: a problem of all inputs: the window does not fit the network, the memory of the device is full.
        OSError: a result cannot be written.
    """
    run = _Run(model, out, options, progress or (lambda name, done, total: None))
    run.record(complete=False)
    todo = [source for source in sources if not run.resumed(source)]
    run.images([source for source in todo if not source.is_video])
    for source in todo:
        if source.is_video:
            run.video(source)
    order = {str(source.path.absolute()): index for index, source in enumerate(sources)}
    run.result.done.sort(key=lambda each: order[each["input"]])
    run.record(complete=True)
    return run.result


class _Run:
    def __init__(self, model: ExportedModel, out: Path, options: PredictOptions, progress: Progress) -> None:
        self.model, self.out, self.options, self.progress = model, out, options, progress
        self.id = prediction_id(model, options)
        self.result = Predicted()
        before = read_object(out / RECORD, _RESULT_BYTES)
        # A resumed prediction keeps its colour range.
        drawn = before.get("drawn_range") if before.get("prediction_id") == self.id else None
        self.shown_range = options.shown_range or (drawn and (float(drawn[0]), float(drawn[1])))

    def record(self, *, complete: bool) -> None:
        """Write `predictions.json`."""
        content = {
            "prediction_id": self.id,
            "complete": complete,
            "model": {
                "name": self.model.name,
                "digest": self.model.digest,
                "folder": str(self.model.folder.absolute()),
            },
            "settings": self.options.as_json(),
            "drawn_range": self.shown_range,
            "tool_version": __version__,
            "inputs": self.result.done,
            "failed": self.result.failed,
        }
        write_json_atomically(self.out / RECORD, content)

    def resumed(self, source: Source) -> bool:
        """True if the source's results exist already; counts them."""
        content = read_object(self.out / f"{source.name}.json", _RESULT_BYTES)
        if content.get("prediction_id") != self.id or content.get("input") != _fingerprint(source.path):
            return False
        files = [each if isinstance(each, str) else each["file"] for each in content["files"].values()]
        if not all((self.out / file).is_file() for file in files):
            return False
        self.result.resumed += 1
        self._done(source, content)
        frames = content.get("num_frames", 1)
        self.progress(source.name, frames, frames)
        return True

    def images(self, sources: Sequence[Source]) -> None:
        """Predict images, those of equal size in batches."""

        def readable() -> Iterator[tuple[Source, Pixels]]:
            for source, image in prefetch(map(self._read, sources), 2 * self.options.batch):
                if isinstance(image, SampleError):
                    self._failed(source, image)
                else:
                    yield source, image

        with BackgroundWriter(2 * self.options.batch) as writer:
            for source, image, score in self._scores(readable()):
                self._init_range(score)
                writer.submit(partial(self._image, source, image, score))

    def _image(self, source: Source, image: Pixels, score: NDArray[np.float32]) -> None:
        if not np.isfinite(score).all():
            self._failed(source, SampleError(str(source.path), "the scores are NaN or infinite", ""))
            return
        result = self._result(image, score, source.name)
        record = self._head(source) | {"width": image.shape[1], "height": image.shape[0]}
        write_image(result, self.out, source.name, self.options.outputs, record)
        self.result.frames += 1
        self._done(source, record | result.as_json())
        self.progress(source.name, 1, 1)

    def video(self, source: Source) -> None:
        """Predict a video, frame by frame."""
        try:
            frames = Video(source.path, self.options.every)
        except SampleError as error:
            self._failed(source, error)
            return
        options = self.options
        record = self._head(source) | {"fps": frames.fps, "every": options.every}
        output = VideoOutput(
            self.out, source.name, record,
            fps=frames.fps / options.every, codec=options.codec, outputs=options.outputs,
        )  # fmt: skip
        size = (0, 0)
        try:
            with BackgroundWriter(2 * options.batch) as writer:
                for index, image, score in self._scores(prefetch(iter(frames), 2 * options.batch)):
                    size = size if any(size) else (image.shape[1], image.shape[0])
                    if size != (image.shape[1], image.shape[0]) or not np.isfinite(score).all():
                        problem = f"frame {index} has another size, or scores that are NaN or infinite"
                        raise SampleError(str(source.path), problem, "")
                    self._init_range(score)
                    writer.submit(partial(self._frame, output, source, frames, index, image, score))
            properties = {
                "width": size[0],
                "height": size[1],
                "frames_read": frames.read,
                "frames_announced": frames.announced,
            }
            output.close(properties)
            self._done(
                source, record | properties | {"max_score": output.max_score, "num_anomalies": output.num_anomalies}
            )
        except SampleError as error:
            self._failed(source, error)
        finally:
            frames.close()
            output.discard()

    def _frame(
        self, output: VideoOutput, source: Source, video: Video, index: int, image: Pixels, score: NDArray[np.float32]
    ) -> None:
        time_s = index / video.fps
        output.add(index, time_s, self._result(image, score, f"{source.name}   {time_s:.2f} s"))
        self.result.frames += 1
        self.progress(source.name, output.num_frames, video.num_frames)

    def _scores(self, frames: Iterable[tuple[_T, Pixels]]) -> Iterator[tuple[_T, Pixels, NDArray[np.float32]]]:
        """Each frame with its scores, computed in batches of equal size."""
        options = self.options
        for batch in batches(frames, options.batch):
            try:
                maps = self.model.predict_batch(
                    [image for _, image in batch],
                    score=options.score, height_px=options.height_px, longest_side_px=options.longest_side_px,
                    augmentation=options.augmentation, blur=options.blur,
                )  # fmt: skip
            except torch.OutOfMemoryError as error:
                problem = f"the memory of {self.model.device} is full: {str(error).splitlines()[0]}"
                remedy = "give a `window`, for example 512x1024, a smaller `batch`, or a smaller `height_px`"
                raise MgcdaError("prediction", problem, remedy) from None
            for (tag, image), (score, _) in zip(batch, maps, strict=True):
                yield tag, image, score

    def _init_range(self, score: NDArray[np.float32]) -> None:
        """Set an unknown colour range to median and maximum of the first frame, so that half of it stays uncoloured."""
        if self.shown_range is None and np.isfinite(score).all():
            self.shown_range = float(np.median(score)), float(score.max())

    def _result(self, image: Pixels, score: NDArray[np.float32], caption: str) -> FrameResult:
        options, threshold = self.options, self.options.threshold
        anomalies = mask = None
        if threshold.value is not None:
            anomalies, mask = find_anomalies(score, threshold.value, options.min_area_px)
        picture = None
        if "overlay" in options.outputs:
            low, high = self.shown_range or (0.0, 1.0)
            legend = Legend(options.score, low, high, threshold.value, threshold.source)
            picture = overlay(image, score, legend, anomalies or (), mask, caption)
        return FrameResult(score, anomalies, picture)

    def _read(self, source: Source) -> tuple[Source, Pixels | SampleError]:
        try:
            image = read_image(source.path, self.options.exif)
            self._refuse_too_large(image)
            return source, image
        except SampleError as error:
            return source, error

    def _refuse_too_large(self, image: Pixels) -> None:
        """Refuse an image of which a view is too large, here, so that only this image is left out."""
        size = self.model.input_size(self.options.height_px, self.options.longest_side_px)
        self.options.augmentation.sizes(*size.of(image.shape[0], image.shape[1]))

    def _head(self, source: Source) -> dict[str, Any]:
        return {"prediction_id": self.id, "input": _fingerprint(source.path), "threshold": self.options.threshold.value}

    def _done(self, source: Source, content: dict[str, Any]) -> None:
        summary: InputSummary = {
            "input": str(source.path.absolute()),
            "name": source.name,
            "kind": "video" if source.is_video else "image",
            "record": f"{source.name}.json",
            "max_score": content["max_score"],
        }
        if self.options.threshold.value is not None:
            anomalies = content["num_anomalies"] if source.is_video else len(content["anomalies"])
            summary["anomalies"] = anomalies
        if source.is_video and (notes := notes_of(content, overlay="overlay" in self.options.outputs)):
            summary["notes"] = notes
        self.result.done.append(summary)

    def _failed(self, source: Source, error: SampleError) -> None:
        self.result.failed.append({"input": str(source.path.absolute()), "problem": error.problem})
        self.progress(source.name, 1, 1)


def _fingerprint(path: Path) -> dict[str, Any]:
    """Path, size and time of a file, as JSON, to detect that it has changed."""
    try:
        status = path.stat()
    except OSError:
        return {"path": str(path.absolute())}
    return {"path": str(path.absolute()), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
