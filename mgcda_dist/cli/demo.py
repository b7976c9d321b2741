"""`mgcda demo`: generated road scenes, a training on them, and where the pictures of what it finds are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mgcda_dist.choices import MANIFEST
from mgcda_dist.cli.options import echo, program

__all__ = ["demo"]

CONFIG, SHARDS = Path("configs/demo.yaml"), Path("shards/demo")


def demo(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=f"changes to {CONFIG}")
    ] = None,
    frames_per_domain: Annotated[int, typer.Option(min=1, help="scenes of each of the three domains")] = 200,
) -> None:  # fmt: skip
    """Generate road scenes, train on them, evaluate, show where the pictures are; the same command resumes."""
    from mgcda_dist.extras import TRAINING, need

    need("mgcda demo", *TRAINING)
    from mgcda_dist.config.load import load_config, shard_folders

    loaded = load_config(CONFIG, overrides)  # before the seconds that torch takes to load
    from mgcda_dist import checks
    from mgcda_dist.api.configuration import check
    from mgcda_dist.cli.train import run_training

    checks.check_model(loaded.config)  # before the minutes that drawing takes
    if not all((Path(folder) / MANIFEST).is_file() for _, folder in shard_folders(loaded.config)):
        _write_scenes(frames_per_domain)
    for warning in check(loaded):
        echo(f"warning: {warning}", err=True)
    code = run_training(loaded.config)
    if not code:
        echo(f"your photo {program('mgcda')} predict PHOTO.jpg --out predictions/photo")
    raise typer.Exit(code)


def _write_scenes(frames_per_domain: int) -> None:
    from mgcda_dist.cli.progress import advancing
    from mgcda_dist.demo_scenes.demo import demo_size, write_demo_shards

    number = demo_size(frames_per_domain)
    echo(f"drawing {number} scenes and objects  →  {SHARDS.absolute()}")
    with advancing("road scenes", number) as advance:
        write_demo_shards(SHARDS, frames_per_domain=frames_per_domain, progress=advance)
