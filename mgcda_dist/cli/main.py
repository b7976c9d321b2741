"""`mgcda`: registration of the commands, and conversion of errors to messages and exit codes. Imports lazily."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mgcda_dist.choices import ExitCode
from mgcda_dist.cli.calibrate import calibrate
from mgcda_dist.cli.chaos import chaos
from mgcda_dist.cli.compare import compare
from mgcda_dist.cli.demo import demo
from mgcda_dist.cli.doctor import doctor
from mgcda_dist.cli.evaluate import evaluate
from mgcda_dist.cli.export import export
from mgcda_dist.cli.init import init
from mgcda_dist.cli.laws import laws
from mgcda_dist.cli.options import echo, with_options
from mgcda_dist.cli.predict import predict
from mgcda_dist.cli.report import report
from mgcda_dist.cli.shards import shards_app
from mgcda_dist.cli.sweep import sweep
from mgcda_dist.cli.sync import sync

if TYPE_CHECKING:
    from mgcda_dist.config.load import LoadedConfig

__all__ = ["app", "main"]

app = typer.Typer(
    name="mgcda",
    help="Train and evaluate road anomaly segmentation with multi-granularity cross-domain alignment.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(help="Check and show configurations.", no_args_is_help=True)
app.add_typer(shards_app, name="shards")
app.add_typer(config_app, name="config")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, for example configs/demo.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, for example optim.steps=100")
]


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    override_config: Annotated[
        bool,
        typer.Option("--override-config", help="resume with a changed configuration, if the checkpoint fits it"),
    ] = False,
    start_over: Annotated[
        bool, typer.Option("--start-over", help="begin again at step 0 where no checkpoint is intact")
    ] = False,
) -> None:
    """Train, evaluate and report one run; the same command resumes it."""
    from mgcda_dist.extras import TRAINING, need

    need("mgcda train", *TRAINING)
    from mgcda_dist.config.load import load_config

    loaded = load_config(config, overrides)  # before the seconds that torch takes to load
    loaded.check_files()
    from mgcda_dist.runs.folder import prepare_runs

    prepare_runs(Path(loaded.config.runs))
    from mgcda_dist.cluster.connect import begin_ray

    begin_ray(loaded.config.scaling)
    from mgcda_dist.cli.train import run_training

    _check_data(loaded, _warn)
    raise typer.Exit(run_training(loaded.config, override_config=override_config, start_over=start_over))


for command in (demo, init, evaluate, calibrate, export, predict, compare, sweep, doctor, laws, sync, chaos, report):
    app.command()(command)


@config_app.command("check")
def config_check(
    config: ConfigFile,
    overrides: Overrides = None,
    files: Annotated[bool, typer.Option(help="also check that the shards exist and fit")] = True,
) -> None:
    """Check that a configuration, or every row of a sweep, can run; exit code 2 if not."""
    from mgcda_dist.config.load import load_config
    from mgcda_dist.config.sweep import is_sweep_file

    if is_sweep_file(config):
        _check_sweep(config, overrides, files=files)
    else:
        typer.echo(f"{config}: ok. {_checked(load_config(config, overrides), _warn, files=files)}")


def _check_sweep(file: Path, overrides: list[str] | None, *, files: bool) -> None:
    """Check each row under its first seed; rows with the same problem, or the same warning, are told together."""
    from mgcda_dist.config.load import LoadedConfig
    from mgcda_dist.config.sweep import load_sweep, plan_runs
    from mgcda_dist.errors import ConfigError, MgcdaError

    sweep = load_sweep(file)
    planned = plan_runs(sweep, overrides)
    problems: dict[str, list[str]] = {}
    doubts: dict[str, list[str]] = {}
    for row in sweep.rows:
        config = next(run.config for run in planned if run.row == row)
        warnings: list[str] = []
        try:
            typer.echo(f"{row}: ok. {_checked(LoadedConfig(config, file), warnings.append, files=files)}")
        except MgcdaError as error:
            problems.setdefault(str(error), []).append(row)
        for text in warnings:
            doubts.setdefault(text, []).append(row)
    for text, rows in doubts.items():
        _warn(f"{', '.join(rows)}: {text}")
    if problems:
        num_rows = sum(map(len, problems.values()))
        texts = [f"{', '.join(rows)}: {text}" for text, rows in problems.items()]
        raise ConfigError(str(file), "\n".join([f"{num_rows} of {len(sweep.rows)} rows cannot run", *texts]))
    typer.echo(f"{file}: ok. {len(sweep.rows)} rows, {len(planned)} runs")


def _checked(loaded: LoadedConfig, warn: Callable[[str], object], *, files: bool) -> str:
    """Check a configuration and warn of what is doubtful; returns what it is, in a line."""
    from mgcda_dist.cluster.scaling import shares_in_words
    from mgcda_dist.errors import counted

    if files:
        loaded.check_files()

        from mgcda_dist import checks

        for warning in checks.check_model(loaded.config):
            warn(warning)
        _check_data(loaded, warn, samples=True)
    c = loaded.config
    return (
        f"{counted(len(c.data.streams), 'stream')} of {counted(len(c.data.domains), 'domain')}, {shares_in_words(c)}, "
        f"{counted(c.optim.steps, 'step')}, "
        f"ZeRO {c.engine.zero_stage}, {c.engine.precision}"
    )


@config_app.command("show")
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved configuration, defaults included."""
    from mgcda_dist.config.load import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides).config), nl=False)


@config_app.command("list")
def config_list() -> None:
    """List the configurations that come with the package, each with its first line."""
    from mgcda_dist.config.parse import shipped, shipped_files

    names = shipped_files()
    width = max(map(len, names), default=0)
    for name in names:
        comments = (line for line in shipped(Path(name)).read_text(encoding="utf-8").splitlines() if line[:2] == "# ")
        first = next((line for line in comments if "$schema" not in line), "# ")
        echo(f"{name:<{width}}  {first[2:]}")


@config_app.command("schema")
def config_schema(
    sweep: Annotated[bool, typer.Option("--sweep", help="of sweeps instead")] = False,
) -> None:
    """Print the JSON schema of configurations, which editors complete and check by."""
    from mgcda_dist.config.json_schema import schema_text

    typer.echo(schema_text("sweep" if sweep else "config"), nl=False)


def _check_data(loaded: LoadedConfig, warn: Callable[[str], object], *, samples: bool = False) -> None:
    """Refuse shards that do not fit the run; warn of what is doubtful."""
    from mgcda_dist.api.configuration import check

    for warning in check(loaded, samples=samples):
        warn(warning)


def _warn(text: str) -> None:
    echo(f"warning: {text}", err=True)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        from mgcda_dist import __version__

        typer.echo(f"mgcda_dist {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: `MgcdaError` becomes a message and an exit code, without a traceback."""
    from mgcda_dist.errors import MgcdaError

    try:
        app()
    except MgcdaError as error:
        typer.echo(f"error: {with_options(str(error), typer.main.get_command(app), sys.argv[1:])}", err=True)
        sys.exit(ExitCode.REFUSED)
    except ModuleNotFoundError as error:
        from mgcda_dist.extras import missing_package

        if (missing := missing_package(error)) is None:
            raise
        echo(f"error: {missing}", err=True)
        sys.exit(ExitCode.REFUSED)
    except OSError as error:
        if error.filename is None:
            raise
        # A folder that cannot be written, a full disk: the system's message is enough.
        echo(f"error: {error.filename}: {error.strerror}", err=True)
        sys.exit(ExitCode.REFUSED)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
