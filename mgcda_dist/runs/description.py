"""A run in words, as Markdown: what is trained on what, how, and in the end what came out. MLflow shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mgcda_dist.config.schema import Config

__all__ = ["describe", "run_tags"]

_COLUMNS = {"ap": "AP ↑", "fpr95": "FPR95 ↓", "auroc": "AUROC ↑", "miou": "mIoU ↑"}


def describe(
    config: Config, manifests: Mapping[str, Mapping[str, Any]], results: Mapping[str, Any] | None = None
) -> str:
    """Markdown with the method, the data, and the results when there are any.

    Args:
        config: of the run.
        manifests: from `build.manifests`.
        results: the content of `results.json`; None before the end.
    """
    scaling, model = config.scaling, config.model
    workers = f"{scaling.num_workers} worker{'s' if scaling.num_workers > 1 else ''}"
    lines = [
        f"**{_method(config)}** with seed {config.seed}: `{model.shown}` ({model.weights}), {config.optim.steps} "
        f"steps of {config.data.global_batch} images on {workers}, DeepSpeed ZeRO {config.engine.zero_stage}, "
        f"{config.engine.precision}.",
        "",
        "| data | from | samples | per step |",
        "|---|---|---:|---:|",
    ]
    domains = {domain.name: domain for domain in config.data.domains}
    for use, facts in manifests.items():
        kind, _, name = use.partition("/")
        domain = domains.get(name) if kind == "train" else None
        label = f"{use}, no labels" if domain is not None and not domain.labelled else use
        per_step = str(domain.per_step) if domain is not None else ""
        lines.append(f"| {label} | {facts['dataset']} {facts['split']} | {facts['samples']} | {per_step} |")
    if results is not None and results["sets"]:
        shown = {key: name for key, name in _COLUMNS.items() if any(key in row for row in results["sets"].values())}
        lines += ["", f"Results in %, convention {results['convention']}, score {results['score']}:", ""]
        lines += [f"| set | frames | {' | '.join(shown.values())} |", f"|---|---:|{'---:|' * len(shown)}"]
        for name, row in results["sets"].items():
            numbers = [f"{100 * row[key]:.2f}" if key in row else "–" for key in shown]
            lines.append(f"| {name} | {row['frames']} | {' | '.join(numbers)} |")
        chosen = results.get("selection")
        if chosen is not None:
            how = f"{chosen['metric']} = {100 * chosen['value']:.2f} % on {chosen['set']}"
            lines += ["", f"The network is that of step {chosen['step']}, chosen by validation: {how}."]
    return "\n".join(lines) + "\n"


def run_tags(config: Config) -> dict[str, str]:
    """What runs are searched and sorted by in MLflow, beside their parameters."""
    return {
        "mgcda.method": _method(config),
        "mgcda.seed": str(config.seed),
        "mgcda.world_size": str(config.scaling.workers),
        "mgcda.data": ", ".join(domain.name for domain in config.data.domains),
        "mgcda.evaluation": ", ".join(entry.name for entry in config.evaluation.sets),
    }


def _method(config: Config) -> str:
    parts = [name for name, section in (("MDAT", config.mdat), ("CACL", config.cacl)) if section.enabled]
    return " + ".join(parts) or "baseline"
