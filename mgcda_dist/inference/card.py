"""Model card: a Markdown page on an exported model, its training, results, thresholds and use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mgcda_dist.choices import RunFile
from mgcda_dist.data.inputs import Role, read_inputs
from mgcda_dist.errors import CheckpointError, MgcdaError
from mgcda_dist.evaluation.results import EvaluationResults
from mgcda_dist.evaluation.tables import headline_table
from mgcda_dist.inference.model import ExportedModel
from mgcda_dist.inference.operating import CRITERIA, operating_points
from mgcda_dist.tables import Cell, Column, Table, markdown, markdown_text
from mgcda_dist.tracking.tags import Tag
from mgcda_dist.trust import below, read_object

__all__ = ["model_card"]

_LOADING = {
    "model.safetensors": """\
```python
from mgcda_dist.inference.model import load_exported  # needs {needs}

scores, classes = load_exported("{folder}").predict(image)  # H×W×3 uint8 RGB; higher score: more anomalous
```

`mgcda predict {folder} IMAGES… VIDEO…` writes overlays, score maps and the anomalies as JSON.""",
    "model.pt2": """\
```python
import torch

network = torch.export.load("model.pt2").module()  # needs torch only
score, classes = network(image)  # N×3×H×W uint8 RGB, any N, {sizes}
```""",
    "model.onnx": """\
```python
import onnxruntime

score, classes = onnxruntime.InferenceSession("model.onnx").run(None, {{"image": image}})
# image: N×3×H×W uint8 RGB, any N, {sizes}
```""",
}


def model_card(
    model: ExportedModel,
    files: list[str],
    run: Path | None,
    digest: str = "",
    graph_px: tuple[int, int] | None = None,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        files: names of the files beside the card.
        run: folder of the run, for its records; None: unknown.
        digest: SHA-256 of the weights beside the card; empty: the model's.
        graph_px: height and width of the only images that the graphs take, pixels; None: any.
    """
    try:
        return _page(model, files, run, _plain(model.metadata.config), digest or model.digest, graph_px)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, MgcdaError):
            raise
        where = str(model.folder / RunFile.METADATA)
        raise CheckpointError(where, f"its configuration is none of a run: {error!r}", "export it again") from error


def _plain(config: Any) -> Any:
    """The configuration with texts that are text in Markdown, too: it may come from others."""
    if isinstance(config, dict):
        return {key: _plain(value) for key, value in config.items()}
    if isinstance(config, list):
        return [_plain(value) for value in config]
    return markdown_text(config) if isinstance(config, str) else config


def _page(
    model: ExportedModel,
    files: list[str],
    run: Path | None,
    config: dict[str, Any],
    digest: str,
    graph_px: tuple[int, int] | None,
) -> str:
    section = config["model"]
    sizes = "H, W" if graph_px is None else f"H = {graph_px[0]}, W = {graph_px[1]}"
    network = f"`{section['network']}`" if section.get("network") else f"a `{section['backbone']}` with a light decoder"
    parts = [
        "---\nlibrary_name: mgcda_dist\npipeline_tag: image-segmentation\n"
        "tags: [anomaly-segmentation, autonomous-driving, out-of-distribution]\n---",
        f"# {markdown_text(model.name)}",
        f"Road anomaly segmentation: {network}. Every pixel gets one of "
        f"{len(model.class_names)} classes ({markdown_text(', '.join(model.class_names))}) and an anomaly score "
        f"(`{model.score}`; higher is more anomalous).",
        "## Use\n\n"
        + "\n\n".join(
            text.format(folder=".", needs=_needs(section.get("network")), sizes=sizes)
            for name, text in _LOADING.items()
            if name in files
        ),
        _input(model, digest, graph_px),
        _training(model, config, run),
        _results(model, run),
        _thresholds(model),
        "## Limits\n\nThe score ranks pixels and is not a probability. A threshold is valid for data like those it was "
        "chosen on. Anomalies that resemble the training's are detected best. Not tested for use in a vehicle.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _needs(network: str | None) -> str:
    """Packages that loading the weights needs, besides this one."""
    library, _, rest = (network or "").partition(":")
    match library:
        case "python":
            module = rest.partition(":")[0]
            return f"torch, {module}, and MGCDA_TRUST_CODE={module} in the environment"
        case "smp":
            return "torch, timm, pydantic and segmentation-models-pytorch"
        case "transformers" | "torchvision":
            return f"torch, timm, pydantic and {library}"
        case _:
            return "torch, timm and pydantic"


def _input(model: ExportedModel, digest: str, graph_px: tuple[int, int] | None) -> str:
    rounded = "" if digest == model.digest else f", rounded to float16 from `{model.digest}`, which the results are of"
    height = f"resized to a height of {model.height_px} pixels" if model.height_px else "at their own size"
    if model.longest_side_px:
        height = f"resized to a longest side of {model.longest_side_px} pixels"
    taken = "the image at its own size" if graph_px is None else f"images of {graph_px[0]}×{graph_px[1]} alone"
    return (
        "Images are RGB, 0…255; the network normalises them itself. The results below were measured with frames "
        f"{height}; graphs take {taken}.\n\nWeights: SHA-256 `{digest}`{rounded}."
    )


def _training(model: ExportedModel, config: dict[str, Any], run: Path | None) -> str:
    provenance = read_object(below(run, RunFile.PROVENANCE)) if run is not None else {}
    inputs = {each.key: each for each in (read_inputs(below(run, RunFile.MANIFESTS)) if run is not None else [])}
    checkpoint = model.folder.absolute().parent
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint.parent.name == RunFile.CHECKPOINTS else 0
    of = f"Checkpoint after {step} of " if step else ""
    streams = config["data"].get("streams") or config["data"]["domains"]  # as the list was called before
    method = [name.upper() for name in ("mdat", "cacl") if config[name]["enabled"]]
    lines = [
        f"- Method: {' and '.join(method) if method else 'neither MDAT nor CACL'}; no part of either is exported.",
        f"- {of}{config['optim']['steps']} steps of {sum(stream['per_step'] for stream in streams)} crops of "
        f"{config['data']['crop_px'][1]}×{config['data']['crop_px'][0]} pixels, seed {config['seed']}; the backbone's "
        f"weights: `{config['model']['weights']}`.",
    ]
    if config["model"].get("export") == "ema":  # configurations of earlier versions have no such key
        lines.append(f"- The weights are an average over training, of decay {config['teacher']['decay']}.")
    for stream in streams:
        data = inputs.get(f"{Role.TRAIN}/{stream['name']}")
        source = (
            "?"
            if data is None
            else markdown_text(f"{data.dataset}/{data.split}, {data.samples} samples, digest ")
            + f"`{markdown_text(data.digest[:12])}`"
        )
        also = ", without labels" if not stream["labelled"] else ", with pasted objects" if stream["paste"] else ""
        lines.append(f"- Stream `{stream['name']}`: {source}{also}.")
    if Tag.COMMIT in provenance:
        commit = markdown_text(str(provenance[Tag.COMMIT])[:12])
        clean = "" if provenance.get(Tag.GIT_CLEAN) == "true" else ", with changes"
        lines.append(
            f"- Code: commit `{commit}`{clean}, version {markdown_text(str(provenance.get('mgcda.version')))}."
        )
    lines.append("- The licences of the data sets limit the use of the weights; shards/README.md lists them.")
    return "## Training\n\n" + "\n".join(lines)


def _results(model: ExportedModel, run: Path | None) -> str:
    try:
        results = EvaluationResults.load(run) if run is not None else None
    except MgcdaError:
        return ""
    # A run's results are those of its last step, not of every checkpoint that may be exported.
    if results is None or not results.sets or results.subject.digest != model.digest or not results.settings.network:
        return ""
    settings, shown = results.settings, results.settings.network.augmentation
    seen = f", mean over scales {', '.join(f'{scale:g}' for scale in shown.scales)}" if shown.scales != (1.0,) else ""
    seen += ", mirrored too" if shown.flip else ""
    size = results.settings.network.size
    seen_at = f"longest side {size.longest_side_px}" if size.longest_side_px else f"height {size.height_px or 'as is'}"
    about = f"Per cent, convention `{settings.convention}`, {seen_at}, score `{settings.score}`{seen}."
    return f"## Results\n\n{markdown(headline_table([results]))}\n\n{about}"


def _thresholds(model: ExportedModel) -> str:
    rows: list[list[Cell]] = [
        [point.set, "pasted objects" if point.pasted else "real",
         *(f"{point.thresholds[key]:.4g}" if key in point.thresholds else None for key in CRITERIA)]
        for point in operating_points(model)
    ]  # fmt: skip
    if not rows:
        return ""
    columns = [Column("set", align="left"), Column("anomalies", align="left"), *map(Column, CRITERIA.values())]
    about = "Lowest scores of anomalous pixels; `mgcda predict` uses the first by default."
    return f"## Thresholds\n\n{markdown(Table(columns, rows))}\n\n{about}"
