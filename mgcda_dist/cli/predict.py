"""`mgcda predict`: a trained network on images, folders and videos; options, progress and summary."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mgcda_dist.choices import Exif, ExitCode
from mgcda_dist.cli.evaluate import Blur, Flip, Height, LongestSide, Overlap, Scales, Score, Window
from mgcda_dist.cli.options import names_of, numbers_of, window_of
from mgcda_dist.errors import counted

if TYPE_CHECKING:
    from rich.console import Console

    from mgcda_dist.inference.model import ExportedModel
    from mgcda_dist.inference.operating import Threshold
    from mgcda_dist.inference.predict import Predicted, PredictOptions
    from mgcda_dist.inference.sources import Source

__all__ = ["predict"]

_SHOWN_FAILURES = 20


def predict(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN|CHECKPOINT|MODEL] INPUT...",
            help="a run folder or an exported model (default: the model that comes with the package); then images, "
            "folders and videos",
        ),
    ],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="the model, where all arguments are inputs")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="folder of results; default: predictions/RUN, as its folder")
    ] = None,
    write: Annotated[
        str, typer.Option("--write", "-w", metavar="NAME,NAME…",
                          help="beside JSON: overlay (PNG, MP4), npy (float16 scores), png (16-bit scores); or none")
    ] = "overlay",
    threshold: Annotated[
        str | None,
        typer.Option(metavar="NUMBER|best_f1[:SET]|recall95[:SET]",
                     help="lowest score of an anomalous pixel; default: best F1 of the model's evaluation"),
    ] = None,
    min_area: Annotated[int, typer.Option(min=1, help="smallest anomaly, pixels")] = 50,
    score: Score = None,
    height_px: Height = None,
    longest_side_px: LongestSide = None,
    scales: Scales = None,
    flip: Flip = None,
    window: Window = None,
    overlap: Overlap = None,
    blur: Blur = None,
    shown: Annotated[
        str | None, typer.Option("--range", metavar="LOW,HIGH", help="range of scores for the colours of overlays")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="frames per forward pass, of one size")] = 1,
    every: Annotated[int, typer.Option(min=1, help="predict every so many frames of a video")] = 1,
    codec: Annotated[
        Literal["vp9", "mpeg4"], typer.Option(help="of videos: vp9 plays in browsers, mpeg4 is faster to write")
    ] = "vp9",
    exif: Annotated[
        Exif, typer.Option(help="turn images as their EXIF marks say, or not, as `mgcda shards write --exif`")
    ] = "upright",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="write into --out even if it holds other files or predictions")
    ] = False,
) -> None:  # fmt: skip
    """Predict images and videos: anomalies with boxes and scores as JSON, overlays, score maps; resumable.

    Exit code 1: an input could not be read; the others were predicted.
    """
    _refuse_absent(inputs)
    from mgcda_dist.api.prediction import plan
    from mgcda_dist.cli.console import Console
    from mgcda_dist.inference import predict as work
    from mgcda_dist.inference.model import device_of, load_exported
    from mgcda_dist.inference.outputs import OUTPUTS
    from mgcda_dist.inference.sources import find_sources

    console = Console()
    errors = Console(stderr=True)
    outputs: Any = tuple(names_of(write, "--write", OUTPUTS)) if write != "none" else ()
    several = tuple(numbers_of(scales, "--scales")) if scales is not None else None
    window_px: Any = window_of(window, "512x1024") if window is not None else None
    ends = _range(shown)
    model, inputs = _model_and_inputs(model, inputs)
    with errors.status("reading the model"):
        network = load_exported(model, device_of(device, "--device"))
    if model is None:
        errors.print(f"model: {_about(network)}", soft_wrap=True)
    out = out or Path("predictions") / (network.place_name or "model")
    options = plan(
        network, threshold=threshold, score=score, height_px=height_px, longest_side_px=longest_side_px,
        scales=several, flip=flip, window_px=window_px, window_overlap=overlap, blur=blur, shown_range=ends,
        min_area_px=min_area, outputs=outputs, batch=batch, every=every, codec=codec, exif=exif,
    ).options  # fmt: skip
    passed_over = Counter[str]()
    sources = find_sources(inputs, out, passed_over)
    _note_threshold(options.threshold, errors)
    work.check_output_folder(out, work.prediction_id(network, options), overwrite=overwrite)
    predicted = _predict(network, sources, out, options)
    _summarise(predicted, out, options, console, errors)
    _note_passed_over(passed_over, errors)
    if predicted.failed:
        raise typer.Exit(ExitCode.FAILED)


def _refuse_absent(given: list[Path]) -> None:
    """Refuse a path that does not exist, before the seconds that torch takes to load."""
    from mgcda_dist.errors import ConfigError

    for path in given:
        if not path.exists():
            remedy = "give a model (a run folder, …) and images, folders or videos, or these alone"
            raise ConfigError(str(path), "does not exist", remedy)


def _model_and_inputs(model: Path | None, given: list[Path]) -> tuple[Path | None, list[Path]]:
    """The model, None for the package's own, and the inputs: a first argument that is a model is none of them."""
    from mgcda_dist.errors import ConfigError
    from mgcda_dist.models.exported import holds_model

    if model is not None:
        return model, given
    first, *others = given
    if not holds_model(first):
        return None, given
    if not others:
        raise ConfigError(str(first), "is a model, and nothing to predict is given", "name images, folders or videos")
    return first, others


def _about(network: ExportedModel) -> str:
    """The package's own model in a line."""
    where = network.folder / "README.md"
    return f"{network.name}, which comes with mgcda_dist: small, trained on generated roads; what to expect: {where}"


def _note_threshold(chosen: Threshold, errors: Console) -> None:
    if chosen.value is None:
        note = f"no threshold is known ({chosen.source}), so no anomalies are listed; --threshold NUMBER sets one"
        errors.print(f"note: {note}", soft_wrap=True)
    elif chosen.doubt:
        errors.print(f"note: the threshold {chosen.value:.4g} ({chosen.source}) {chosen.doubt}", soft_wrap=True)


def _predict(model: ExportedModel, sources: list[Source], out: Path, options: PredictOptions) -> Predicted:
    from mgcda_dist.cli.progress import shown_progress
    from mgcda_dist.inference.predict import predict as work

    with shown_progress("images and videos" if len(sources) > 1 else "frames", len(sources)) as show:
        done, known = dict[str, int](), dict[str, int]()

        def advance(name: str, frames: int, total: int) -> None:
            # A video counts as one frame until it is open.
            done[name], known[name] = frames, max(total, frames)
            show(sum(done.values()), len(sources) - len(known) + sum(known.values()), name[-40:])

        return work(model, sources, out, options, advance)


def _summarise(predicted: Predicted, out: Path, options: PredictOptions, console: Console, errors: Console) -> None:
    words = [f"{counted(len(predicted.done), 'input')} predicted"]
    if predicted.resumed:
        words[0] += f" ({predicted.resumed} of them before)"
    if options.threshold.value is not None:
        anomalies = sum(each.get("anomalies", 0) for each in predicted.done)
        words.append(
            f"{anomalies} anomal{'y' if anomalies == 1 else 'ies'} at {options.score} ≥ {options.threshold.value:.4g} "
            f"({options.threshold.source})"
        )
    console.print(", ".join(words), soft_wrap=True)
    console.print(f"results   {out.absolute()}", soft_wrap=True)
    notes = [f"note: {each['name']}: {note}" for each in predicted.done for note in each.get("notes", ())]
    for note in notes[:_SHOWN_FAILURES]:
        errors.print(note, soft_wrap=True)
    if len(notes) > _SHOWN_FAILURES:
        more = len(notes) - _SHOWN_FAILURES
        errors.print(f"note: {more} more, listed in {out / 'predictions.json'}", soft_wrap=True)
    for each in predicted.failed[:_SHOWN_FAILURES]:
        errors.print(f"skipped: {each['input']}: {each['problem']}", soft_wrap=True)
    if len(predicted.failed) > _SHOWN_FAILURES:
        more = len(predicted.failed) - _SHOWN_FAILURES
        errors.print(f"skipped: {more} more, listed in {out / 'predictions.json'}", soft_wrap=True)


def _note_passed_over(passed_over: Counter[str], errors: Console) -> None:
    if not passed_over:
        return
    suffixes = sorted(passed_over, key=lambda suffix: (not suffix, suffix))
    kinds = ", ".join(f"{suffix or 'no suffix'} ({passed_over[suffix]})" for suffix in suffixes)
    be = "is neither an image nor a video" if passed_over.total() == 1 else "are neither images nor videos"
    errors.print(f"note: {counted(passed_over.total(), 'file')} {be} that can be read: {kinds}", soft_wrap=True)


def _range(text: str | None) -> tuple[float, float] | None:
    from mgcda_dist.errors import ConfigError

    if text is None:
        return None
    ends = numbers_of(text, "--range")
    if len(ends) != 2 or not ends[0] < ends[1]:
        raise ConfigError("--range", f"{text!r} is no range", "the lowest and the highest score: --range=-12,-4")
    return ends[0], ends[1]
