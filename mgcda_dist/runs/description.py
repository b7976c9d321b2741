"""Description of a run as Markdown, for MLflow: method, data, and the results at the end."""

from __future__ import annotations

from collections.abc import Sequence

from mgcda_dist.config.schema import Config
from mgcda_dist.data.inputs import Role, RunInput
from mgcda_dist.errors import counted
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.evaluation.tables import headline_table
from mgcda_dist.tables import Cell, Column, Table, markdown
from mgcda_dist.tracking.tags import Tag

__all__ = ["describe", "run_tags"]


def describe(config: Config, inputs: Sequence[RunInput], results: EvaluationResults | None = None) -> str:
    """Markdown with the method, the data, and the results when there are any.

    Args:
        inputs: from `build.run_inputs`.
        results: None before the end.
    """
    scaling, model = config.scaling, config.model
    workers = counted(scaling.num_workers, "worker")
    lines = [
        f"**{_method(config)}** with seed {config.seed}: `{model.shown}` ({model.weights}), {config.optim.steps} "
        f"steps of {config.data.global_batch} images on {workers}, DeepSpeed ZeRO {config.engine.zero_stage}, "
        f"{config.engine.precision}.",
    ]
    rows: list[list[Cell]] = []
    streams = {stream.name: stream for stream in config.data.streams}
    for each in inputs:
        stream = streams.get(each.name) if each.role == Role.TRAIN else None
        label = f"{each.key}, no labels" if stream is not None and not stream.labelled else each.key
        domain, per_step = (stream.domain_name, stream.per_step) if stream is not None else ("", "")
        rows.append([label, domain, f"{each.dataset} {each.split}".strip(), each.samples, per_step])
    columns = [Column(title, align="left") for title in ("data", "domain", "from")]
    columns += [Column("samples"), Column("per step")]
    lines += ["", markdown(Table(columns, rows))]
    if results is not None and results.sets:
        settings = results.settings
        lines += ["", f"Results in %, convention {settings.convention}, score {settings.score}:", ""]
        lines.append(markdown(headline_table([results])))
        chosen = results.selection
        if chosen is not None:
            how = f"{chosen.metric} = {100 * chosen.value:.2f} % on {chosen.set}"
            lines += ["", f"The network is that of step {chosen.step}, chosen by validation: {how}."]
    return "\n".join(lines) + "\n"


def run_tags(config: Config) -> dict[str, str]:
    """Tags for searching and sorting runs in MLflow, beside their parameters."""
    return {
        Tag.METHOD: _method(config),
        "mgcda.seed": str(config.seed),
        "mgcda.world_size": str(config.scaling.workers),
        "mgcda.data": ", ".join(stream.name for stream in config.data.streams),
        Tag.EVALUATION: ", ".join(entry.name for entry in config.evaluation.sets),
    }


def _method(config: Config) -> str:
    switches = {"MDAT": config.mdat.enabled, "CACL": config.cacl.enabled, "teacher": config.teacher.is_asked}
    return " + ".join(name for name, on in switches.items() if on) or "baseline"
