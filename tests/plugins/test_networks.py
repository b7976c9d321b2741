"""Methods on networks of transformers, with MGCDA and without: trained, exported, loaded, as ONNX, on two ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mgcda_dist import build
from mgcda_dist.errors import MgcdaError
from mgcda_dist.evaluation.foreign import GivenScore, open_foreign
from mgcda_dist.evaluation.test_time import score_map
from mgcda_dist.inference.formats import as_program, largest_difference, write_onnx
from mgcda_dist.inference.model import load_exported
from tests.support.distributed import run_distributed
from tests.support.external import METHODS, WITHOUT_MGCDA, method_configuration, train_methods_on_ranks
from tests.support.tiny import tiny_batch
from tests.support.training import train

pytest.importorskip("transformers", reason="needs the extra `networks`")


@pytest.mark.parametrize("with_mgcda", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_trained_exported_and_loaded_strictly(method: str, with_mgcda: bool, tmp_path: Path) -> None:
    config = method_configuration(method, **({} if with_mgcda else WITHOUT_MGCDA))
    model, steps = train(config, [tiny_batch(step, 3, 64, 96) for step in range(2)])
    assert all(math.isfinite(value) for step in steps for value in step.values())
    build.save_model(config, model.segmenter, tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    assert exported.score == config.model.score
    names = set(exported.network.state_dict())
    assert names == set(model.segmenter.state_dict()) and not [n for n in names if n.startswith(("mdat", "cacl"))]
    image = tiny_batch(0, 1, 64, 96).image
    with torch.no_grad():  # with gradients the library computes in another order
        found, expected = exported.network(image), model.segmenter.eval()(image)
    assert torch.equal(found.logits, expected.logits) and found.extra.keys() == expected.extra.keys()
    assert found.logits.shape[1] == 3, "a further column is no class"
    scores, classes = exported.predict(image[0].permute(1, 2, 0).numpy())
    assert scores.shape == (64, 96) and classes.max() < 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["uem", "rba_eomt"])
def test_a_graph_of_any_size_gives_the_scores_of_heads_and_masks(method: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    config = method_configuration(method)
    build.save_model(config, build.segmenter(config), tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    write_onnx(as_program(exported), tmp_path / "model.onnx")
    assert largest_difference(exported, tmp_path / "model.onnx") < 1e-3


def test_a_graph_of_any_size_is_refused_at_once_where_there_is_none(tmp_path: Path) -> None:
    config = method_configuration("rba")
    build.save_model(config, build.segmenter(config), tmp_path / "model")
    with pytest.raises(MgcdaError, match=r"windows that depend on them[\s\S]*`graph_px`"):
        as_program(load_exported(tmp_path / "model"))


@pytest.mark.extended
@pytest.mark.timeout(400)
@pytest.mark.parametrize("method", ["uno", "rba", "rba_oneformer"])
def test_a_trained_mask_network_is_a_graph_of_one_size(method: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    config = method_configuration(method)
    model, _ = train(config, [tiny_batch(step, 3, 64, 96) for step in range(2)])
    build.save_model(config, model.segmenter, tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    fixed = replace(exported, metadata=replace(exported.metadata, graph_px=(70, 90)))
    write_onnx(as_program(fixed), tmp_path / "model.onnx")
    assert largest_difference(fixed, tmp_path / "model.onnx") < 1e-5
    # As an evaluation runs the file, against the package's own prediction.
    pixels = np.ascontiguousarray(tiny_batch(5, 1, 70, 90).image[0].permute(1, 2, 0).numpy())
    graph = open_foreign(str(tmp_path / "model.onnx"), num_classes=3)
    found, classes = score_map(graph, pixels, pixels.shape[:2], score=GivenScore())
    expected, predicted = exported.predict(pixels, height_px=0)
    assert found == pytest.approx(expected, abs=1e-4) and (classes == predicted).mean() > 0.999


@pytest.mark.slow
@pytest.mark.extended
def test_two_ranks_train_as_one() -> None:
    """Law 1 with real processes: three steps in float64."""
    alone = train_methods_on_ranks()
    for rank in run_distributed(train_methods_on_ranks, 2, timeout_s=240):
        for name, (losses, weights) in alone.items():
            assert rank[name][0] == pytest.approx(losses, rel=1e-9), name
            torch.testing.assert_close(rank[name][1], weights, rtol=1e-9, atol=1e-9, msg=name)
