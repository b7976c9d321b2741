"""Law 5: the exported network loads strictly without what is dropped, and the score is one function everywhere."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from mgcda_dist import build
from mgcda_dist.inference.formats import as_program, largest_difference, needs_one_size, write_onnx
from mgcda_dist.inference.model import load_exported
from mgcda_dist.laws.findings import Difference, Finding, relative, worst
from mgcda_dist.laws.scenes import scene_batch
from mgcda_dist.laws.subject import Subject, model_of
from mgcda_dist.method.batch import Prediction
from mgcda_dist.models.scores import scorer

__all__ = ["exported", "onnx", "score_by_halves"]

_ROUNDING, _ONNX = 1e-5, 1e-3


def exported(subject: Subject, size: tuple[int, int], folder: Path) -> Finding:
    """Write the network, load it strictly into a bare one, and compare tensors, logits and scores."""
    law, title = "5", "export: kept heads load strictly, dropped ones leave no key"
    model = model_of(subject, torch.float32)
    build.save_model(subject.config, model.segmenter, folder)
    _, loaded = build.load_model(folder)
    keys, dropped = set(loaded.state_dict()), set() if model.heads is None else set(model.heads.state_dict())
    left = sorted(key for key in keys if any(key == each or key.endswith(f".{each}") for each in dropped))
    if left:
        said = f"{len(left)} tensors of dropped heads are in the exported network, first {left[0]}"
        return Finding(law, title, "broken", float(len(left)), left[0], said)
    image = scene_batch("all sides", 0, size, subject.num_classes).image
    with torch.no_grad():
        found, expected = loaded(image), model.segmenter.eval()(image)
        score = scorer(subject.config.model.score)
        differences = [
            Difference(relative(found.logits, expected.logits), "logits"),
            Difference(relative(score(found), score(expected)), "score of the exported network"),
        ]
    number, where = worst(differences)
    if number > _ROUNDING:
        return Finding(law, title, "broken", number, where, "relative difference of the loaded network")
    kept = sum(head.kept for head in subject.config.model.heads)
    said = f"relative difference of the loaded network; {len(keys)} tensors, {kept} kept heads, {len(dropped)} left out"
    return Finding(law, title, "kept", number, "", said)


def score_by_halves(subject: Subject, size: tuple[int, int]) -> Finding:
    """The score at once is that of its maps, and that of each image by itself; in float64."""
    law, title = "5", "score by halves equals the whole"
    model = model_of(subject)
    image = scene_batch("all sides", 0, size, subject.num_classes).image
    with torch.no_grad():
        prediction: Prediction = model.segmenter.eval()(image)
        score = scorer(subject.config.model.score)
        whole, halves = score(prediction), score.of(score.maps(prediction))
        alone = torch.cat([score(model.segmenter(image[i : i + 1])) for i in range(len(image))])
    number, where = worst(
        [
            Difference(relative(halves, whole), "of(maps(prediction)) against score(prediction)"),
            Difference(relative(alone, whole), "each image by itself"),
        ]
    )
    verdict = "kept" if number <= _ROUNDING else "broken"
    return Finding(law, title, verdict, number, where if number else "", "largest relative difference")


def onnx(folder: Path, size: tuple[int, int]) -> Finding:
    """The exported network as ONNX gives the same scores for images of several sizes, or of one where it needs that."""
    law, title = "5", "ONNX gives the same scores"
    if find_spec("onnxruntime") is None or find_spec("onnxscript") is None:
        return Finding(law, title, "not applicable", said="onnxruntime and onnxscript are not installed")
    model, path = load_exported(folder), folder / "model.onnx"
    if needs_one_size(model.network):
        model = replace(model, metadata=replace(model.metadata, graph_px=size))
    write_onnx(as_program(model), path)
    number = largest_difference(model, path)
    verdict = "kept" if number <= _ONNX else "broken"
    return Finding(law, title, verdict, number, "", "largest absolute difference of a score")
