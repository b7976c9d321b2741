"""`mgcda shards …`: write, make, check, list and show shard folders. Imports lazily; only the command line prints."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mgcda_dist.choices import Exif, ExitCode
from mgcda_dist.cli.options import echo
from mgcda_dist.cli.progress import advancing
from mgcda_dist.data.shards.sources import SOURCES
from mgcda_dist.errors import ConfigError, MgcdaError, ShardError, counted, near_or_all
from mgcda_dist.references import PREFIX, expanded

if TYPE_CHECKING:
    from mgcda_dist.data.colours import Colour
    from mgcda_dist.data.shards.manifest import Manifest
    from mgcda_dist.data.shards.sources.source import Source
    from mgcda_dist.data.shards.verify import Problem, Verified

__all__ = ["shards_app"]

shards_app = typer.Typer(help="Write, check and show shards.", no_args_is_help=True)

_PLACE = "'FOLDER pipe:COMMAND', where {} in the command is the shard's name"

Workers = Annotated[int | None, typer.Option(help="threads; default: one per processor")]
ExifChoice = Annotated[
    Exif | None, typer.Option("--exif", help="turn frames as their EXIF marks say, or ignore the marks")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace finished shards")]
Strict = Annotated[bool, typer.Option("--strict", help="exit code 1 if anything was passed over")]


@shards_app.command()
def write(
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help=f"{', '.join(SOURCES)}; plain: any folder of images/ and labels/; python:MODULE:NAME or "
            "plugin:NAME: a reader of your own",
        ),
    ],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="folder of the dataset, in its official layout")],
    folder: Annotated[Path, typer.Argument(metavar="DST", help="folder that receives the shards")],
    split: Annotated[str, typer.Option(help="which split of the dataset")] = "train",
    resize_height: Annotated[int | None, typer.Option(min=8, help="bring taller images to this height, pixels")] = None,
    image_format: Annotated[
        Literal["jpg", "png", "webp"] | None, typer.Option("--format", help="re-encode images")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="of re-encoded JPEG and WebP")] = 92,
    exif: ExifChoice = None,
    fast_labels: Annotated[
        bool, typer.Option("--fast-labels", help="re-encode labels, so that they are decoded faster; same ids")
    ] = False,
    samples_per_shard: Annotated[int, typer.Option(min=1)] = 256,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="images only")] = False,
    skip: Annotated[list[str] | None, typer.Option(help="key of a sample to leave out; repeat for several")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="pattern of the keys to write, like 'Seq05VD_*'; repeat for several")
    ] = None,
    coarse: Annotated[bool, typer.Option("--coarse", help="cityscapes: coarse labels instead of fine ones")] = False,
    label_format: Annotated[
        str | None, typer.Option(help="raw ids of the labels (plain, lost_and_found, carla, idd, mapillary)")
    ] = None,
    min_area: Annotated[int | None, typer.Option(min=1, help="coco: leave out smaller objects, pixels")] = None,
    drop_cut: Annotated[
        bool, typer.Option("--drop-cut", help="coco: leave out objects cut by the photo's border")
    ] = False,
    drop_street_furniture: Annotated[
        bool, typer.Option("--drop-street-furniture", help="coco: leave out hydrants, parking meters and benches")
    ] = False,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            "--licence", help="coco: id of a licence of photos in the annotation file; only those; repeatable"
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="option of a reader of your own; repeat for several"),
    ] = None,
    strict: Strict = False,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N|ray", help="threads; default: one per processor; ray: all nodes of a cluster"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a dataset as shards. If it was interrupted, the same command continues it."""
    from mgcda_dist.data.ledger import LEDGER
    from mgcda_dist.data.shards.encode import EncodeOptions
    from mgcda_dist.data.shards.write import write_shards
    from mgcda_dist.extras import need

    dataset = expanded(dataset, "DATASET")
    reader = _reader(dataset)
    given = {
        "unlabelled": unlabelled or None, "coarse": coarse or None, "label_format": label_format,
        "min_area_px": min_area, "drop_cut": drop_cut or None, "drop_street_furniture": drop_street_furniture or None,
        "licence": licence or None,
    }  # fmt: skip
    chosen = {name: value for name, value in given.items() if value is not None}
    _refuse_foreign(reader, chosen)
    chosen |= _own_options(reader, option or [])
    if exif is not None and "exif" in reader.options:  # outlines follow the photo as labels do
        chosen["exif"] = exif
    threads = _threads(workers)
    if threads == "ray":
        need("--workers", "ray", "psutil")
    opened = reader.open(source.absolute() if threads == "ray" else source, split, **chosen)
    samples = opened.samples.matching(only) if only else opened.samples
    samples = samples.without(skip or [])
    options = EncodeOptions(resize_height, image_format, quality, exif, fast_labels)
    provenance = {
        "source": str(source),
        **({"reader": dataset} if dataset.startswith(PREFIX) else {}),
        "url": reader.url,
        "licence": reader.licence,
        "selection": chosen
        | ({"only": sorted(set(only))} if only else {})
        | ({"skip": sorted(set(skip))} if skip else {}),
        LEDGER: opened.passed_over.as_json(len(samples)),
        **opened.metadata,
    }
    spread = None
    if threads == "ray":
        from mgcda_dist.cluster.spread import Spread

        spread, threads = Spread(), None
    with advancing(f"{reader.name} {split}", len(samples)) as advance:
        manifest = write_shards(
            samples, folder, dataset=reader.name, split=split, label_format=opened.label_format, kind=reader.kind,
            samples_per_shard=samples_per_shard, provenance=provenance, options=options, progress=advance,
            workers=threads, elsewhere=spread and spread.map, overwrite=overwrite,
        )  # fmt: skip
    if spread is not None:
        by_node = ", ".join(f"{address} {count}" for address, count in sorted(spread.pieces.items()))
        typer.echo(f"shards by node: {by_node}", err=True)
    _print_written(manifest, strict=strict)


@shards_app.command()
def synth(
    folder: Annotated[Path, typer.Argument(metavar="DST", help="folder that receives one shard folder per set")],
    frames_per_domain: Annotated[int, typer.Option(min=1)] = 200,
    label_all: Annotated[bool, typer.Option("--label-all", help="labels for real_day/train, too")] = False,
    objects_only: Annotated[bool, typer.Option("--objects-only", help="the objects to paste, and no frames")] = False,
    seed: int = 0,
    height: Annotated[int, typer.Option(min=32, help="pixels")] = 256,
    width: Annotated[int, typer.Option(min=32, help="pixels")] = 512,
    workers: Annotated[int | None, typer.Option(help="processes that draw; default: one per processor")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Generate labelled road scenes of several domains, objects to paste, and unseen anomalies for the test."""
    from mgcda_dist.data.shards.manifest import Manifest
    from mgcda_dist.demo_scenes.demo import demo_size, write_demo_shards

    only = "objects" if objects_only else None
    with advancing("road scenes", demo_size(frames_per_domain, only=only)) as advance:
        folders = write_demo_shards(
            folder, frames_per_domain=frames_per_domain, label_all=label_all, only=only, seed=seed,
            image_px=(height, width), progress=advance, workers=workers, overwrite=overwrite,
        )  # fmt: skip
    _print_manifests([Manifest.open(path) for path in folders])


@shards_app.command()
def verify(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER...", help=f"folders of shards, or folders above them; or URLs; or {_PLACE}"),
    ],
    partial: Annotated[bool, typer.Option("--partial", help="a part of a known dataset is fine")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="files and checksums only; do not decode the samples")] = False,
    max_problems: Annotated[int, typer.Option(min=1, help="shown per folder and kind")] = 5,
    workers: Workers = None,
) -> None:
    """Check for damage, wrong labels, and images that two folders share. Exit code 1 if there is a problem."""
    from mgcda_dist.data.shards.verify import shared_images, verify_shards

    opened, unreadable = _open_all(folders, check=False)
    checked: list[tuple[Manifest, Verified]] = []
    num_problems = 0
    for manifest in opened:
        try:
            with advancing(f"{manifest.dataset} {manifest.split}", manifest.num_samples) as advance:
                found = verify_shards(manifest, partial=partial, contents=not fast, progress=advance, workers=workers)
        except MgcdaError as error:  # the other folders are checked all the same
            unreadable.append(ShardError(manifest.place, f"{error.where}: {error.problem}", error.remedy))
            continue
        problems = list(found.problems)
        for other, seen in checked:
            if other.kind == manifest.kind:
                problems += shared_images(seen, found)
        checked.append((manifest, found))
        num_problems += len(problems)
        _print_problems(manifest, problems, max_problems)
    for error in unreadable:
        echo(str(error))
    num_problems += len(unreadable)
    if num_problems:
        echo(f"{counted(num_problems, 'problem')} in {counted(len(checked) + len(unreadable), 'folder')}")
        raise typer.Exit(ExitCode.FAILED)


@shards_app.command("ls")
def list_folders(
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="[FOLDER...]", help="folders or URLs; default: shards")
    ] = None,
) -> None:
    """List the shard folders below a folder. Exit code 1 if one cannot be read."""
    opened, unreadable = _open_all(folders or ["shards"])
    if opened:
        _print_manifests(opened)
    for error in unreadable:
        echo(str(error), err=True)
    if unreadable:
        raise typer.Exit(ExitCode.FAILED)


@shards_app.command()
def show(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help=f"of shards; or a URL; or {_PLACE}")],
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: named after the folder")] = None,
    count: Annotated[int, typer.Option(min=1)] = 16,
    columns: Annotated[int, typer.Option(min=1)] = 4,
    tile_width: Annotated[int, typer.Option(min=32, help="pixels")] = 320,
    seed: Annotated[int, typer.Option(help="which samples are drawn")] = 0,
) -> None:
    """Write a contact sheet: images with their labels laid over, and a legend."""
    from mgcda_dist.data.shards.manifest import Manifest
    from mgcda_dist.data.shards.sheet import contact_sheet, read_tiles
    from mgcda_dist.files import prepare_file

    manifest = Manifest.open(folder)
    out = out or _named_by_place(folder)
    prepare_file(out)
    tiles, legend = read_tiles(manifest, count, seed)
    _save(contact_sheet(tiles, legend, columns=columns, tile_width_px=tile_width), out)


@shards_app.command()
def index(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help=f"of tar files, also gzipped; or {_PLACE}")],
    dataset: Annotated[str, typer.Option(help="name to record")],
    label_format: Annotated[str, typer.Option(help="raw ids of the labels, e.g. cityscapes_ids; unlabelled: none")],
    split: Annotated[str, typer.Option(help="name to record")] = "train",
    kind: Annotated[Literal["frames", "objects"], typer.Option(help="scenes, or cutouts with alpha")] = "frames",
    names: Annotated[
        str | None, typer.Option(help="of the shards that a command gives, e.g. 'train-{000000..003999}.tar'")
    ] = None,
    image_ext: Annotated[list[str] | None, typer.Option(help="image members, e.g. rgb.png; repeat for several")] = None,
    label_ext: Annotated[list[str] | None, typer.Option(help="label members, e.g. seg.png; repeat for several")] = None,
    exif: ExifChoice = None,
    strict: Strict = False,
    workers: Workers = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the manifest of WebDataset tar files of another tool, so that they can be read here."""
    from mgcda_dist.data.shards.index import index_shards, shards_at
    from mgcda_dist.data.shards.roles import Extensions

    default = Extensions()
    extensions = Extensions(tuple(image_ext or default.image), tuple(label_ext or default.label))
    shards = shards_at(folder, names)
    with advancing("indexing", len(shards)) as advance:
        manifest = index_shards(
            folder, shards, dataset=dataset, split=split, label_format=label_format, kind=kind, extensions=extensions,
            exif=exif, progress=advance, workers=workers, overwrite=overwrite,
        )  # fmt: skip
    _print_written(manifest, strict=strict)


@shards_app.command()
def preview(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, for example configs/demo.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps to show")] = 1,
    start: Annotated[int, typer.Option(min=0, help="first step to show")] = 0,
    out: Annotated[Path, typer.Option(help="PNG to write")] = Path("preview.png"),
    columns: Annotated[int, typer.Option(min=1)] = 8,
    tile_width: Annotated[int, typer.Option(min=32, help="pixels")] = 240,
    labels: Annotated[bool, typer.Option(help="lay the labels over")] = True,
) -> None:
    """Write a picture of the training crops of some steps, augmented and with objects pasted, labels laid over."""
    from itertools import islice

    from mgcda_dist.build import training_stream
    from mgcda_dist.config.load import load_config
    from mgcda_dist.data.labels import train_names
    from mgcda_dist.data.shards.sheet import Tile, contact_sheet, overlay, shown
    from mgcda_dist.files import prepare_file

    loaded = load_config(config, [*(overrides or []), "data.loader_workers=0", "data.pin_memory=false"])
    loaded.check_files()
    prepare_file(out)
    meaning = train_names(loaded.config.data.class_names)
    stream = training_stream(loaded.config, 0, 1, start_step=start)
    tiles: list[Tile] = []
    legend: dict[str, Colour] = {}
    for batch in islice(stream, steps * loaded.config.engine.accumulation):
        for image, label, key in zip(batch.image, batch.label, batch.keys, strict=True):
            ids = label.numpy()
            picture = image.permute(1, 2, 0).numpy()
            tiles.append(Tile(overlay(picture, ids, meaning) if labels else picture, key))
            legend |= shown(ids, meaning) if labels else {}
    legend = {name: legend[name] for name in meaning.values() if name in legend} | legend
    _save(contact_sheet(tiles, legend, columns=columns, tile_width_px=tile_width), out)


def _threads(workers: str | None) -> int | Literal["ray"] | None:
    if workers is None or workers == "ray":
        return workers
    if not workers.isdecimal() or int(workers) == 0:
        raise ConfigError("--workers", f"{workers!r} is no number of threads", "a number, or ray")
    return int(workers)


def _reader(dataset: str) -> Source:
    if dataset.startswith(PREFIX):
        from mgcda_dist.data.shards.sources.own import own_source

        return own_source("DATASET", dataset)
    if dataset not in SOURCES:
        raise ConfigError("DATASET", f"no dataset {dataset!r}", near_or_all(dataset, SOURCES))
    return SOURCES[dataset]


def _own_options(reader: Source, given: list[str]) -> dict[str, Any]:
    """The options of `--option`, whose values are YAML."""
    from mgcda_dist.config.parse import parse_yaml

    options: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator:
            raise ConfigError("--option", f"{text!r} is not of the form NAME=VALUE", "for example suffix=.png")
        if name not in reader.options:
            raise ConfigError("--option", f"{reader.name} has no option {name!r}", near_or_all(name, reader.options))
        parsed = parse_yaml(value, "--option")
        options[name] = value if isinstance(parsed, date) else parsed  # the manifest is JSON
    return options


def _refuse_foreign(reader: Source, chosen: dict[str, Any]) -> None:
    foreign = [name for name in chosen if name not in reader.options]
    if foreign:
        option = "--" + foreign[0].removesuffix("_px").replace("_", "-")
        raise ConfigError(option, f"{reader.name} has no such option", "leave it out")


def _open_all(folders: list[str], *, check: bool = True) -> tuple[list[Manifest], list[MgcdaError]]:
    """The manifests of each folder, or of all folders below it; and why others cannot be read."""
    from mgcda_dist.choices import PIPE
    from mgcda_dist.data.shards.journal import JOURNAL
    from mgcda_dist.data.shards.manifest import MANIFEST, Manifest
    from mgcda_dist.data.shards.remote import is_url

    opened: list[Manifest] = []
    unreadable: list[MgcdaError] = []
    for place in folders:
        whole = is_url(place) or PIPE in place
        found = [] if whole else [path.parent for name in (MANIFEST, JOURNAL) for path in Path(place).rglob(name)]
        for path in sorted(set(found)) or [place]:
            try:
                if not whole and (Path(path) / JOURNAL).exists() and not (Path(path) / MANIFEST).exists():
                    shown = _short(Path(path).absolute())
                    raise ShardError(shown, "not finished", "run the same `mgcda shards write` again")
                opened.append(Manifest.open(path, check=check))
            except MgcdaError as error:
                unreadable.append(error)
    if not opened and len(unreadable) == 1:
        raise unreadable[0]
    return opened, unreadable


def _print_manifests(manifests: list[Manifest]) -> None:
    from mgcda_dist.cli.console import Console
    from mgcda_dist.tables import Column, Table, terminal

    console = Console()
    if not console.is_terminal:
        console.width = 240  # lines in a file or pipe are not cut off
    names = [Column(title, align="left") for title in ("folder", "dataset", "split", "kind", "labels", "digest")]
    columns = [*names[:-1], *map(Column, ("samples", "shards", "MB")), names[-1]]
    rows = [
        [_short(m.folder), m.dataset, m.split, m.kind, m.label_format,
         m.num_samples, m.num_shards, f"{m.num_bytes / 1e6:.1f}", m.digest[:12]]
        for m in manifests
    ]  # fmt: skip
    console.print(terminal(Table(columns, rows), plain=True))


def _print_doubt(manifest: Manifest) -> None:
    from mgcda_dist.data.labels import doubtful_labels

    if doubt := doubtful_labels(manifest.label_format, manifest.label_histogram):
        typer.echo(f"note: {doubt[0]}\n  → {doubt[1]}", err=True)


def _print_written(manifest: Manifest, *, strict: bool) -> None:
    """A line on the folder, a doubt about its labels, and what was taken and passed over.

    Raises:
        typer.Exit: something was passed over, and `strict`.
    """
    from mgcda_dist.data.ledger import LEDGER, ledger_lines

    _print_manifests([manifest])
    _print_doubt(manifest)
    ledger = manifest.provenance[LEDGER]
    for line in ledger_lines(ledger):
        typer.echo(line)
    if strict and ledger["passed_over"]:
        raise typer.Exit(ExitCode.FAILED)


def _print_problems(manifest: Manifest, problems: list[Problem], limit: int) -> None:
    """The first problems of each kind, their remedy, and how many more there are."""
    name = _short(manifest.folder)
    if not problems:
        echo(
            f"{name}: {counted(manifest.num_samples, 'sample')} in {counted(manifest.num_shards, 'shard')}, no problem"
        )
        return
    by_remedy: dict[str, list[Problem]] = {}
    for problem in problems:
        by_remedy.setdefault(problem.remedy, []).append(problem)
    for remedy, alike in by_remedy.items():
        for problem in alike[:limit]:
            place = ": ".join(filter(None, (problem.shard, problem.key)))
            echo(f"{name}: {place}: {problem.why}")
        if len(alike) > limit:
            echo(f"{name}: {len(alike) - limit} more like this; --max-problems {len(alike)} shows them")
        echo(f"  → {remedy}")


def _short(folder: Path) -> str:
    """Relative to the current directory, if it is below."""
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)


def _named_by_place(folder: str) -> Path:
    """A PNG in the current directory with the last two parts of a place: what a manifest says names no file."""
    from urllib.parse import urlsplit

    from mgcda_dist.choices import PIPE
    from mgcda_dist.data.shards.remote import is_url

    place = folder.partition(PIPE)[0]
    path = urlsplit(place).path if is_url(place) else os.path.abspath(place)
    return Path("_".join(path.strip("/").split("/")[-2:]) + ".png")


def _save(picture: Any, out: Path) -> None:
    """Write a uint8 H×W×3 RGB picture."""
    import cv2

    from mgcda_dist.files import write_atomically

    good, encoded = cv2.imencode(".png", picture[..., ::-1])
    if not good:
        raise RuntimeError(f"PNG encoder refused {picture.shape}")
    write_atomically(out, encoded.tobytes())
    echo(f"{out}: {picture.shape[1]}×{picture.shape[0]} px")
